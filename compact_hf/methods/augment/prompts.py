"""Contains the prompts that ask the teacher to rewrite questions; its replies have the same schema as COMPACT's.

Any change of a prompt requires a new version of the preset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from compact_hf.capabilities import CAPABILITIES, NEEDED_RULE, canonicalize, describe_capabilities
from compact_hf.methods.compact.prompts import ANSWER_RULES, QUESTION_RULES
from compact_hf.records import digest

MAX_PROMPT_ANSWER_CHARS: Final = 300
"""Answers of the dataset are cut to this number of characters; LLaVA's longest answers fill a page."""

_ANSWER_RULE: Final = f"The answer is a single word or a short phrase, and may be another than before. {ANSWER_RULES}"


@dataclass(frozen=True, slots=True)
class OriginalQuestion:
    """A question whose needs are known: `capabilities` may be none."""

    question: str
    answer: str
    capabilities: tuple[str, ...]


def rewrite_prompt(original: OriginalQuestion, extra: str) -> str:
    """Return the prompt that asks for a question to be rewritten so that it needs `extra` besides (paper, k + 1)."""
    combination = canonicalize((*original.capabilities, extra))
    return f"""Look at the picture and read this question about it with its answer:

{_format_question(original)}

{_format_needs(original)} Rewrite it so that it needs {extra} besides: all of the following, and no other.

{describe_capabilities(combination)}

What "needs" means: {NEEDED_RULE}

The new question
{QUESTION_RULES}

{_ANSWER_RULE}

The confidence is a whole number from 0 to 100: how sure you are that the answer is right and that the new question
needs exactly what is listed above.

Return JSON with the fields question, answer and confidence."""


def rewrite_several_prompt(originals: Sequence[OriginalQuestion], extras: Sequence[str]) -> str:
    """Return the prompt that asks for several questions to be rewritten, and lets the teacher decline some."""
    combinations = [
        canonicalize((*original.capabilities, extra)) for original, extra in zip(originals, extras, strict=True)
    ]
    capabilities = [name for name in CAPABILITIES if any(name in names for names in combinations)]
    question_list = "\n".join(
        f"{number}. {_format_question(original)} {_format_needs(original)}"
        for number, original in enumerate(originals, 1)
    )
    sets = "\n".join(f"{number}. {', '.join(names)}" for number, names in enumerate(combinations, 1))
    return f"""Look at the picture and read these questions about it with their answers:

{question_list}

Rewrite each of them so that it needs one capability more: all of its set below, and no other.

{sets}

The capabilities:

{describe_capabilities(capabilities)}

What "needs" means: {NEEDED_RULE}

Each new question
- asks about something else than the other new questions do;
{QUESTION_RULES}

{_ANSWER_RULE}

Not every picture supports every set: where no such question can be asked about what is visible, set supported to false
and leave question and answer empty. That is better than a question that needs something else.

The confidence is a whole number from 0 to 100: how sure you are that the answer is right and that the new question
needs exactly the capabilities of its set.

Return JSON with the field drafts: for each question, in their order, its number, supported, and the new question,
answer and confidence."""


def rewrite_prompts_version() -> str:
    """Return a digest, 12 hex digits, of all that the teacher is asked here."""
    original, extra = OriginalQuestion("", "", tuple(CAPABILITIES)[1:]), next(iter(CAPABILITIES))
    return digest(rewrite_prompt(original, extra), rewrite_several_prompt([original], [extra]), length=12)


def _format_question(original: OriginalQuestion) -> str:
    return f"{original.question} (Answer: {original.answer[:MAX_PROMPT_ANSWER_CHARS]})"


def _format_needs(original: OriginalQuestion) -> str:
    names = ", ".join(original.capabilities)
    return f"It needs {names}." if names else "It needs none of the visual capabilities that follow."
