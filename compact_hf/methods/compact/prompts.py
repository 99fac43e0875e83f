"""Contains the prompts of teacher and verifier, and the JSON schemas of their replies.

The verifier's prompt contains only the question. It has neither the requested combination nor the draft's answer and
confidence, so that the verifier is not led to agree. This is a departure from the authors' script, which gives the
verifier the expected capabilities.

Each prompt has two forms with the same wording: for one question, as in the paper, and for several questions about one
image, which is then sent once.

Any change of a prompt or schema requires a new version of the preset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from compact_hf.capabilities import CAPABILITIES, NEEDED_RULE, describe_capabilities
from compact_hf.methods.compact.sampling import Combination
from compact_hf.records import digest

CapabilityName = Literal[
    "color",
    "shape",
    "object_recognition",
    "action_recognition",
    "text_recognition",
    "spatial_recognition",
    "counting",
    "spatial_relationship",
    "object_interaction",
    "scene_understanding",
]


def _to_percent(confidence: object) -> object:
    """Return a fraction strictly between 0 and 1 as a percentage, because some models ignore the requested range."""
    return round(100 * confidence) if isinstance(confidence, float) and 0 < confidence < 1 else confidence


Confidence = Annotated[int, Field(ge=0, le=100), BeforeValidator(_to_percent)]


class _Reply(BaseModel):
    model_config = ConfigDict(strict=True)


class DraftReply(_Reply):
    """The teacher's JSON."""

    question: str
    answer: str
    confidence: Confidence


class NumberedDraft(_Reply):
    """One of the teacher's drafts where it was asked for several; `supported` False declines the combination."""

    number: int
    supported: bool
    question: str
    answer: str
    confidence: Confidence


class DraftsReply(_Reply):
    """The teacher's JSON where it was asked for several questions."""

    drafts: list[NumberedDraft]


class VerdictReply(_Reply):
    """The verifier's JSON."""

    capabilities: list[CapabilityName]
    answer: str


class NumberedVerdict(_Reply):
    """One of the verifier's verdicts where it was asked about several questions."""

    number: int
    capabilities: list[CapabilityName]
    answer: str


class VerdictsReply(_Reply):
    """The verifier's JSON where it was asked about several questions."""

    verdicts: list[NumberedVerdict]


class BlindReply(_Reply):
    """The verifier's JSON where it is asked without the picture."""

    answer: str


class NumberedAnswer(_Reply):
    """One of the verifier's answers where it was asked several questions without the picture."""

    number: int
    answer: str


class BlindAnswersReply(_Reply):
    """The verifier's JSON where it was asked several questions without the picture."""

    answers: list[NumberedAnswer]


QUESTION_RULES: Final = """\
- is one natural sentence in which the capabilities work together; it is not two questions joined by "and";
- cannot be answered without seeing the picture;
- asks only about what is visible, and has one answer on which careful people would agree;
- does not contain its own answer, and does not name the capabilities."""

ANSWER_RULES: Final = """\
Never answer with "unknown", "none", "not visible" or the like: choose
something that can be seen instead."""


def teacher_prompt(combination: Combination) -> str:
    """Return the prompt that asks for one question that needs exactly `combination` (paper, step 2)."""
    phrase = (
        "this one visual capability"
        if len(combination) == 1
        else f"all of these {len(combination)} visual capabilities"
    )
    return f"""Look at the picture and write one question about it that needs {phrase}, and no other:

{describe_capabilities(combination)}

What "needs" means: {NEEDED_RULE}

The question
{QUESTION_RULES}

The answer is a single word or a short phrase. {ANSWER_RULES}

The confidence is a whole number from 0 to 100: how sure you are that the answer is right and that the question needs
exactly what is listed above.

Return JSON with the fields question, answer and confidence."""


def teacher_several_prompt(combinations: Sequence[Combination]) -> str:
    """Return the prompt that asks for one question per combination, and lets the teacher decline some."""
    capabilities = [name for name in CAPABILITIES if any(name in combination for combination in combinations)]
    return f"""Look at the picture and write a question about it for each of these numbered sets of visual capabilities.
A question needs all capabilities of its set, and no other:

{_numbered_list(", ".join(combination) for combination in combinations)}

The capabilities:

{describe_capabilities(capabilities)}

What "needs" means: {NEEDED_RULE}

Each question
- asks about something else than the other questions do;
{QUESTION_RULES}

Each answer is a single word or a short phrase. {ANSWER_RULES}

Not every picture supports every set: where no such question can be asked about what is visible, set supported to false
and leave question and answer empty. That is better than a question that needs something else.

The confidence is a whole number from 0 to 100: how sure you are that the answer is right and that the question needs
exactly the capabilities of its set.

Return JSON with the field drafts: for each set, in their order, its number, supported, question, answer and
confidence."""


def verifier_prompt(question: str) -> str:
    """Return the prompt that asks which capabilities a question needs, and what its answer is (paper, step 3)."""
    return f"""Look at the picture and read this question about it:

{question}

Which of these visual capabilities does it need?

{describe_capabilities()}

What "needs" means: {NEEDED_RULE}

Answer the question too, from the picture alone, with a single word or a short phrase. If the picture does not answer
it, the answer is "unanswerable".

Return JSON with the fields capabilities (the names of those that are needed, each once) and answer."""


def verifier_several_prompt(questions: Sequence[str]) -> str:
    """Return the prompt that asks of each of several questions which capabilities it needs, and its answer."""
    return f"""Look at the picture and read these questions about it:

{_numbered_list(questions)}

Which of these visual capabilities does each of them need? Judge each question by itself, as if it were the only one.

{describe_capabilities()}

What "needs" means: {NEEDED_RULE}

Answer each question too, from the picture alone, with a single word or a short phrase. If the picture does not answer
it, the answer is "unanswerable".

Return JSON with the field verdicts: for each question, in their order, its number, capabilities (the names of those
that are needed, each once) and answer."""


def blind_prompt(question: str) -> str:
    """Return the prompt that asks a question about a picture without showing the picture."""
    return f"""This question was asked about a picture that you are not shown:

{question}

Give the most likely answer all the same, with a single word or a short phrase.

Return JSON with the field answer."""


def blind_several_prompt(questions: Sequence[str]) -> str:
    """Return the prompt that asks several questions about a picture without showing the picture."""
    return f"""These questions were asked about a picture that you are not shown:

{_numbered_list(questions)}

Give the most likely answer to each all the same, with a single word or a short phrase.

Return JSON with the field answers: for each question, in their order, its number and answer."""


def prompts_version(combinations_per_request: int) -> str:
    """Return a digest, 12 hex digits, of all that is asked where so many combinations go into a request."""
    single = teacher_prompt(tuple(CAPABILITIES)), verifier_prompt(""), blind_prompt("")
    several = teacher_several_prompt([tuple(CAPABILITIES)]), verifier_several_prompt([""]), blind_several_prompt([""])
    return digest(*single, *(several if combinations_per_request > 1 else ()), length=12)


def _numbered_list(lines: Iterable[str]) -> str:
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
