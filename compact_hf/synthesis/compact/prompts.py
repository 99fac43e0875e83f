"""What teacher and verifier are asked, word for word, and the JSON that must come back.

The verifier's prompt holds the question alone: neither the combination that was asked for, nor the draft's answer, nor
its confidence, so that it cannot agree out of politeness. (The authors' script tells it what is expected: a marked
departure.)
Any change here raises the preset's version.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from compact_hf.capabilities import NEEDED_RULE, described
from compact_hf.synthesis.compact.sampling import Combination

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


class DraftReply(BaseModel):
    """The teacher's JSON."""

    model_config = ConfigDict(strict=True)

    question: str
    answer: str
    confidence: int = Field(ge=0, le=100)


class VerdictReply(BaseModel):
    """The verifier's JSON."""

    model_config = ConfigDict(strict=True)

    capabilities: list[CapabilityName]
    answer: str


class BlindReply(BaseModel):
    """The verifier's JSON where it is asked without the picture."""

    model_config = ConfigDict(strict=True)

    answer: str


def teacher_prompt(combination: Combination) -> str:
    """Return the prompt that asks for one question that needs exactly `combination` (paper, step 2)."""
    count = (
        "this one visual capability"
        if len(combination) == 1
        else f"all of these {len(combination)} visual capabilities"
    )
    return f"""Look at the picture and write one question about it that needs {count}, and no other:

{described(combination)}

What "needs" means: {NEEDED_RULE}

The question
- is one natural sentence in which the capabilities work together; it is not two questions joined by "and";
- cannot be answered without seeing the picture;
- asks only about what is visible, and has one answer on which careful people would agree;
- does not contain its own answer, and does not name the capabilities.

The answer is a single word or a short phrase. Never answer with "unknown", "none", "not visible" or the like: choose
something that can be seen instead.

The confidence is a whole number from 0 to 100: how sure you are that the answer is right and that the question needs
exactly what is listed above.

Return JSON with the fields question, answer and confidence."""


def verifier_prompt(question: str) -> str:
    """Return the prompt that asks which capabilities a question needs, and what its answer is (paper, step 3)."""
    return f"""Look at the picture and read this question about it:

{question}

Which of these visual capabilities does it need?

{described()}

What "needs" means: {NEEDED_RULE}

Answer the question too, from the picture alone, with a single word or a short phrase. If the picture does not answer
it, the answer is "unanswerable".

Return JSON with the fields capabilities (the names of those that are needed, each once) and answer."""


def blind_prompt(question: str) -> str:
    """Return the prompt that asks a question about a picture without showing the picture."""
    return f"""This question was asked about a picture that you are not shown:

{question}

Give the most likely answer all the same, with a single word or a short phrase.

Return JSON with the field answer."""
