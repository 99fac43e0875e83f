"""Makes one question about an image and yields the result of each step: draft, filters, verification, comparison.

The steps are those of the package (conversation.py) for one round of one combination: the same prompts, filters,
verifier and comparison, with strict checks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from planted_mistake import plant_wrong_answer

from compact_hf.answers import same_answer
from compact_hf.capabilities import CAPABILITIES
from compact_hf.errors import TeacherUnavailableError
from compact_hf.images.inspection import compute_image_id
from compact_hf.methods import verification
from compact_hf.methods.compact import filters
from compact_hf.methods.compact.preset import PAPER
from compact_hf.methods.compact.prompts import DraftReply, teacher_prompt
from compact_hf.methods.compact.reasons import GenerationReason, VerificationReason
from compact_hf.methods.compact.truth import Task
from compact_hf.methods.verification import filter_draft, verify_drafts
from compact_hf.records import Draft, Reject, Turn, Verdict
from compact_hf.reports.theme import get_label
from compact_hf.runs.process import make_request
from compact_hf.scenes.source import parse_seed
from compact_hf.teachers.base import EncodedImage, Failure, Reply, Request, Teacher

# Strict: the answers are compared too, and an accepted question is asked once more without the image.
PRESET: Final = replace(PAPER, strict=True)

STAGES: Final = (
    ("The teacher writes", "A question with its answer, which needs the capabilities you choose and no others."),
    ("Filters check the wording", "One question, a short answer, and the question must not reveal it."),
    ("The verifier answers", "It sees only image and question: what does the question need, and what is the answer?"),
    ("Both are compared", "The same capabilities, and the same answer?"),
    ("The verifier guesses without the image", "A question that can be answered blindly teaches nothing about seeing."),
)
"""Title of each step, and what it does, in the order of the steps."""

# Reason of a reject -> the same for visitors. Reasons that a single question cannot have are missing.
_REASON_TEXTS: Final[dict[str, str]] = {
    GenerationReason.DECLINED: "The teacher finds no such question about this image.",
    GenerationReason.MALFORMED: "The reply of the teacher does not have the requested form.",
    GenerationReason.EMPTY: "The question or the answer is empty.",
    GenerationReason.LONG_QUESTION: "The question is too long.",
    GenerationReason.LONG_ANSWER: "The answer is longer than a short phrase.",
    GenerationReason.CONTROL_CHARACTER: "The text has invisible control characters.",
    GenerationReason.IMAGE_PLACEHOLDER: "The text contains <image>, which has a special meaning in training data.",
    GenerationReason.UNINFORMATIVE: "The answer says nothing about the image.",
    GenerationReason.LOW_CONFIDENCE: "The teacher is not sure enough of its answer.",
    GenerationReason.JOINED_QUESTIONS: "These are two questions in one.",
    GenerationReason.ANSWER_LEAK: "The question contains its answer.",
    VerificationReason.DECLINED: "The verifier does not answer.",
    VerificationReason.MALFORMED: "The reply of the verifier does not have the requested form.",
    VerificationReason.UNCONFIRMED: "Teacher and verifier give different answers.",
    VerificationReason.MORE: "The verifier finds that the question needs more capabilities than you chose.",
    VerificationReason.FEWER: "The verifier finds that the question needs fewer capabilities than you chose.",
    VerificationReason.OTHER: "The verifier finds that the question needs other capabilities than you chose.",
    VerificationReason.BLIND: "The question can be answered without the image.",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What teacher and verifier say about one aspect of a question.

    Attributes:
        aspect (`str`): `needs CAPABILITY`, or `answer`.
        teacher (`str`): the teacher's answer, or `yes` or `no`: whether the capability was requested.
        verifier (`str`): the verifier's answer, or `yes` or `no`: whether the question needs the capability.
        is_same (`bool`): whether they agree.
    """

    aspect: str
    teacher: str
    verifier: str
    is_same: bool


@dataclass(frozen=True, slots=True)
class Step:
    """The result of a step, for visitors.

    Attributes:
        state (`str`): `done` (a step without a check), `passed` or `failed`.
        message (`str`): the result in a sentence.
        facts (`tuple[tuple[str, str], ...]`): pairs of name and value.
        comparisons (`tuple[Comparison, ...]`): what teacher and verifier say, if the step compares them.
        prompt (`str`): the prompt that was sent, if the step sent one.
    """

    state: Literal["done", "passed", "failed"]
    message: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether the question becomes part of a dataset, for visitors.

    Attributes:
        is_accepted (`bool`): whether it does.
        message (`str`): the reason in a sentence.
        reason (`str`, *optional*): the reason under which a run counts the rejected draft; empty if it is accepted.
    """

    is_accepted: bool
    message: str
    reason: str = ""


async def iter_steps(
    teacher: Teacher, data: bytes, ref: str, combination: tuple[str, ...], *, plants_mistake: bool
) -> AsyncIterator[Step | Outcome]:
    """Yield the result of each step, one for each of `STAGES` unless a check fails, and then the outcome.

    Args:
        teacher (`Teacher`): writes the question, and verifies it without seeing the requested capabilities.
        data (`bytes`): the encoded image.
        ref (`str`): the reference of the image; `scene:SEED` for the scenes teacher.
        combination (`tuple[str, ...]`): the requested capabilities, in the paper's order.
        plants_mistake (`bool`): whether the answer of the teacher is replaced by a wrong one; only for drawn scenes.

    Raises:
        StoppedEarly: the teacher's daily quota is used up.
        TeacherError: the teacher refuses permanently.
        TeacherUnavailableError: the teacher does not answer.
    """
    encoded_image = EncodedImage(lambda: data, ref=ref, max_edge=PRESET.max_edge)
    image_id = compute_image_id(data)
    draft_request = make_request(
        "teacher", image_id, encoded_image, teacher_prompt(combination), DraftReply, Task(image_id, 1, (combination,))
    )
    draft_reply = await _ask(teacher, draft_request)
    # One combination was requested, so there is one draft, or one reject.
    (draft,) = filters.parse_drafts(draft_reply, (combination,))
    if isinstance(draft, Reject):
        yield Step("failed", _describe_reason(draft), prompt=draft_request.prompt)
        yield _decide(draft)
        return
    right_answer = ""
    if plants_mistake:
        right_answer, draft = draft.answer, plant_wrong_answer(draft, parse_seed(ref), PRESET)
    yield _draft_step(draft, draft_reply.model, draft_request.prompt, has_mistake=plants_mistake)
    filtered_draft = filter_draft(draft, (), PRESET)
    if isinstance(filtered_draft, Reject):
        yield Step("failed", _describe_reason(filtered_draft))
        yield _decide(filtered_draft)
        return
    yield Step("passed", "It is one question with a short answer, and does not reveal it.")
    # The generator yields lists of requests, is sent the replies, and returns turns or rejects at its end.
    process = verify_drafts(image_id, encoded_image, [draft], PRESET)
    # First the request for a verdict, then, if the question was accepted, the one without the image.
    requests = next(process)
    while True:
        reply = await _ask(teacher, requests[0])
        for step in _verification_steps(draft, reply, requests[0]):
            yield step
        try:
            requests = process.send([reply])
        except StopIteration as stop:
            ((result, _),) = stop.value
            yield _decide(result, right_answer)
            return


def _draft_step(draft: Draft, model: str, prompt: str, *, has_mistake: bool) -> Step:
    facts = (
        ("Question", draft.question),
        ("Answer", draft.answer),
        ("Confidence", f"{draft.confidence}%"),
    )
    mistake = " Its answer was then replaced by a wrong one: the planted mistake." if has_mistake else ""
    return Step("done", f"Written by {_describe_model(model, 'teacher')}.{mistake}", facts, prompt=prompt)


def _verification_steps(draft: Draft, reply: Reply, verifier_request: Request) -> tuple[Step, ...]:
    # Only the blind check has no image.
    if verifier_request.encoded_image is None:
        (blind_answer,) = verification.parse_blind_answers(reply, [_to_turn(draft)])
        message = (
            f"It guesses {blind_answer}, which is right: the image is not needed."
            if blind_answer
            else "It cannot tell the answer: the image is needed."
        )
        return (Step("failed" if blind_answer else "passed", message, prompt=verifier_request.prompt),)
    (verdict,) = verification.parse_verdicts(reply, [draft])
    if isinstance(verdict, Reject):
        return (Step("failed", _describe_reason(verdict), prompt=verifier_request.prompt),)
    facts = (
        ("Needs", ", ".join(map(get_label, verdict.capabilities)) or "none of the ten capabilities"),
        ("Answer", verdict.answer),
    )
    message = f"Read by {_describe_model(reply.model, 'verifier')}."
    return Step("done", message, facts, prompt=verifier_request.prompt), _comparison_step(draft, verdict)


def _comparison_step(draft: Draft, verdict: Verdict) -> Step:
    needs = (
        (get_label(name), name in draft.capabilities, name in verdict.capabilities)
        for name in CAPABILITIES
        if name in draft.capabilities or name in verdict.capabilities
    )
    comparisons = (
        *(
            Comparison(f"needs {label}", _yes_or_no(is_requested), _yes_or_no(is_needed), is_requested == is_needed)
            for label, is_requested, is_needed in needs
        ),
        Comparison("answer", draft.answer, verdict.answer, same_answer(draft.answer, verdict.answer)),
    )
    failure = verification.verdict_reject_reason(draft, verdict, PRESET)
    if failure is None:
        return Step("passed", "The same capabilities, and the same answer.", comparisons=comparisons)
    return Step("failed", _REASON_TEXTS[failure[0]], comparisons=comparisons)


def _decide(result: Turn | Reject, right_answer: str = "") -> Outcome:
    """Return the outcome; `right_answer` is the answer that a planted mistake has replaced, empty if there is none."""
    if isinstance(result, Turn):
        k = len(result.capabilities)
        capabilities = "1 capability" if k == 1 else f"{k} capabilities"
        return Outcome(True, f"The question joins the dataset, as one that needs {capabilities} (k = {k}).")
    found = f" The verifier found the planted mistake: the right answer is {right_answer}." if right_answer else ""
    return Outcome(False, f"{_describe_reason(result)}{found}", result.reason)


def _describe_reason(reject: Reject) -> str:
    return _REASON_TEXTS[reject.reason]


def _describe_model(model: str, role: str) -> str:
    # The name of the embedded teacher is not that of a model; other names begin with that of the service.
    return f"the built-in {role}, which knows what was drawn" if model == "scenes" else model.partition(":")[2]


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _to_turn(draft: Draft) -> Turn:
    return Turn(draft.question, draft.answer, draft.capabilities, draft.capabilities, draft.confidence)


async def _ask(teacher: Teacher, teacher_request: Request) -> Reply:
    async def iter_request() -> AsyncIterator[Request]:
        yield teacher_request

    await teacher.prepare(teacher_request)
    # The stream of requests has one item, so the first reply is the result.
    async for reply in teacher.ask(iter_request()):
        if isinstance(reply, Failure):
            raise reply.error or TeacherUnavailableError(reply.message)
        return reply
    raise TeacherUnavailableError("the teacher returned no reply")
