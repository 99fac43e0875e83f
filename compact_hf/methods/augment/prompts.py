"""What the teacher is asked where it rewrites questions, word for word; what comes back has the form of COMPACT's.

Any change here raises the preset's version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from compact_hf.capabilities import CAPABILITIES, NEEDED_RULE, canonical, described
from compact_hf.methods.compact.prompts import ANSWER_RULES, QUESTION_RULES
from compact_hf.records import digest

MAX_ANSWER_SHOWN: Final = 300
"""Signs of a data set's answer that are shown; LLaVA's longest fill a page."""

_ANSWER: Final = f"The answer is a single word or a short phrase, and may be another than before. {ANSWER_RULES}"


@dataclass(frozen=True, slots=True)
class Known:
    """A question whose needs are known: `capabilities` may be none."""

    question: str
    answer: str
    capabilities: tuple[str, ...]


def rewriting_prompt(known: Known, further: str) -> str:
    """Return the prompt that asks for a question to be rewritten so that it needs `further` besides (paper, k + 1)."""
    wanted = canonical((*known.capabilities, further))
    return f"""Look at the picture and read this question about it with its answer:

{_shown(known)}

{_needs(known)} Rewrite it so that it needs {further} besides: all of the following, and no other.

{described(wanted)}

What "needs" means: {NEEDED_RULE}

The new question
{QUESTION_RULES}

{_ANSWER}

The confidence is a whole number from 0 to 100: how sure you are that the answer is right and that the new question
needs exactly what is listed above.

Return JSON with the fields question, answer and confidence."""


def rewriting_several_prompt(known: Sequence[Known], further: Sequence[str]) -> str:
    """Return the prompt that asks for several questions to be rewritten, and lets the teacher decline some."""
    wanted = [canonical((*one.capabilities, more)) for one, more in zip(known, further, strict=True)]
    used = [name for name in CAPABILITIES if any(name in names for names in wanted)]
    shown = "\n".join(f"{number}. {_shown(one)} {_needs(one)}" for number, one in enumerate(known, 1))
    sets = "\n".join(f"{number}. {', '.join(names)}" for number, names in enumerate(wanted, 1))
    return f"""Look at the picture and read these questions about it with their answers:

{shown}

Rewrite each of them so that it needs one capability more: all of its set below, and no other.

{sets}

The capabilities:

{described(used)}

What "needs" means: {NEEDED_RULE}

Each new question
- asks about something else than the other new questions do;
{QUESTION_RULES}

{_ANSWER}

Not every picture supports every set: where no such question can be asked about what is visible, set supported to false
and leave question and answer empty. That is better than a question that needs something else.

The confidence is a whole number from 0 to 100: how sure you are that the answer is right and that the new question
needs exactly the capabilities of its set.

Return JSON with the field drafts: for each question, in their order, its number, supported, and the new question,
answer and confidence."""


def rewriting_version() -> str:
    """Return a digest, 12 hex digits, of all that the teacher is asked here."""
    known, further = Known("", "", tuple(CAPABILITIES)[1:]), next(iter(CAPABILITIES))
    return digest(rewriting_prompt(known, further), rewriting_several_prompt([known], [further]), length=12)


def _shown(known: Known) -> str:
    return f"{known.question} (Answer: {known.answer[:MAX_ANSWER_SHOWN]})"


def _needs(known: Known) -> str:
    names = ", ".join(known.capabilities)
    return f"It needs {names}." if names else "It needs none of the visual capabilities that follow."
