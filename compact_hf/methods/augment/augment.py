"""`compact augment`: rewrite the questions of a dataset to need one capability more (the paper's k + 1).

    compact augment DATASET --out RUN

The run directory is like that of `compact generate`: the same call resumes, `compact status` shows it, and `compact
assemble` makes a dataset of it. First the verifier says what each question of an image needs; then the teacher rewrites
those that need the same number, and its drafts pass COMPACT's filters and verification for exactly the capabilities
asked for.

A conversation has one k: that which most of the image's questions come to with one capability more, the larger one in
a tie. The others are rejects. One accepted question makes a conversation: data sets like VQA ask no more of an image.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from compact_hf.capabilities import CAPABILITIES, canonical
from compact_hf.images.codec import MAX_EDGE, checked_edge
from compact_hf.images.questions import AskedRow, QuestionedPictures
from compact_hf.methods.annotate.annotation import questions_in
from compact_hf.methods.augment.prompts import Known, rewriting_prompt, rewriting_several_prompt, rewriting_version
from compact_hf.methods.compact import filters
from compact_hf.methods.compact.conversation import Outcome
from compact_hf.methods.compact.preset import PAPER, Preset
from compact_hf.methods.compact.prompts import DraftReply, DraftsReply
from compact_hf.methods.compact.sampling import MAX_K
from compact_hf.methods.verification import filtered, judged, judging_version, request, verified
from compact_hf.records import Conversation, Draft, Picture, Reject, Task, Turn, digest, to_json
from compact_hf.runs.image_index import read_again
from compact_hf.runs.process import Process, Result
from compact_hf.runs.run import DEFAULT_CONCURRENCY, Run, Standing, Terms
from compact_hf.runs.sources import open_both, open_dataset
from compact_hf.teachers.base import Exposure, Reply, Request

METHOD: Final = "augment"

PRESET: Final = replace(
    PAPER, name="k-plus-1", version="1", ks=(), combinations_per_request=4, max_rounds=3, min_turns=1
)
"""The filters of `paper`; four questions of a picture are rewritten in one request, each with up to three atoms."""

# Each round waits for two batches, up to 24 hours each.
BATCHED: Final = replace(PRESET, name="k-plus-1-batch", max_rounds=1)


@dataclass(slots=True)
class _Picture:
    """What has become of a picture's questions so far."""

    image_id: str
    exposure: Exposure
    seed: int
    preset: Preset
    turns: list[Turn] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    drafts: list[tuple[str, str]] = field(default_factory=list)
    teachers: set[str] = field(default_factory=set)
    verifiers: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Open:
    """A question that is to be rewritten, and the capabilities that were asked for besides, one a round."""

    known: Known
    further: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> tuple[str, ...]:
        return canonical((*self.known.capabilities, self.further[-1]))


def augment_picture(
    image_id: str, exposure: Exposure, rows: Sequence[AskedRow], *, seed: int, ks: Collection[int], preset: Preset
) -> Process:
    """Rewrite the questions about one picture.

    Args:
        ks (`Collection[int]`): the values of k that the teacher can be asked for.

    Yields:
        A list of requests; the replies to them, in the same order, must be sent back.

    Returns:
        The `Outcome` as JSON, its k 0 where no question could be rewritten; and the number of its turns.
    """
    asked, rejects = questions_in(rows)
    picture = _Picture(image_id, exposure, seed, preset, rejects=rejects)
    verdicts = yield from judged(image_id, exposure, [one.draft for one in asked])
    known: list[Known] = []
    for one, (verdict, _) in zip(asked, verdicts, strict=True):
        if isinstance(verdict, Reject):
            rejects.append(verdict)
        elif not one.draft.answer:
            rejects.append(Reject("conversation", "question without answer", one.draft.question))
        else:
            known.append(Known(one.draft.question, one.draft.answer, verdict.capabilities))
    k, chosen = _of_one_k(known, ks, rejects)
    left = [_Open(one) for one in dict.fromkeys(chosen)]
    for number in range(1, preset.max_rounds + 1):
        left = yield from _round(number, left, picture)
    turns = tuple(picture.turns)
    conversation = Conversation(image_id, k, turns) if len(turns) >= preset.min_turns else None
    if conversation is None:
        rejects.append(Reject("conversation", "too few questions", image_id, f"{len(turns)} of {len(asked)} rewritten"))
    teacher, verifier = (", ".join(sorted(names)) for names in (picture.teachers, picture.verifiers))
    outcome = Outcome(k, conversation, tuple(rejects), tuple(picture.drafts), teacher, verifier)
    return Result(to_json(outcome), len(turns) if conversation is not None else 0)


def _of_one_k(known: Sequence[Known], ks: Collection[int], rejects: list[Reject]) -> tuple[int, list[Known]]:
    """Return the k that the picture's new questions will have, and the questions that come to it."""
    counts = Counter(k for one in known if (k := len(one.capabilities) + 1) in ks and k <= len(CAPABILITIES))
    chosen = max(counts, key=lambda k: (counts[k], k), default=0)
    for one in known:
        k = len(one.capabilities) + 1
        if k != chosen:
            reason = "another k than the picture's" if k in counts else "no question for so many capabilities"
            detail = f"with one more it would need {k}, the picture's questions need {chosen}"
            rejects.append(Reject("conversation", reason, one.question, detail, one.capabilities))
    return chosen, [one for one in known if len(one.capabilities) + 1 == chosen]


def _round(number: int, left: Sequence[_Open], picture: _Picture) -> Generator[list[Request], list[Reply], list[_Open]]:
    """Have each question rewritten once, with a capability that it was not asked to need before.

    Returns:
        The questions that are still to be rewritten.
    """
    tried = [one for one in left if _draw(one, left, picture)]
    size = picture.preset.combinations_per_request
    parts = [tried[at : at + size] for at in range(0, len(tried), size)]
    if not parts:
        return []
    requests = [_write(part, picture, number) for part in parts]
    replies = yield requests
    read = [
        (request.key, reply.model, filtered(draft, picture.turns, picture.preset))
        for part, request, reply in zip(parts, requests, replies, strict=True)
        for draft in filters.read_drafts(reply, [one.wanted for one in part])
    ]
    drafts = [draft for _, _, draft in read if isinstance(draft, Draft)]
    verdicts = iter((yield from verified(picture.image_id, picture.exposure, drafts, picture.preset)))
    still: list[_Open] = []
    for one, (key, teacher, draft) in zip(tried, read, strict=True):
        result, verifier = next(verdicts) if isinstance(draft, Draft) else (draft, "")
        # Once more: two of one round may repeat each other.
        if isinstance(result, Turn) and (again := filters.repetition(result.question, picture.turns, picture.preset)):
            result = Reject("generation", again[0], result.question, again[1], result.capabilities)
        if isinstance(result, Turn):
            picture.turns.append(result)
            picture.teachers.add(teacher)
            picture.verifiers.add(verifier)
        else:
            picture.rejects.append(result)
            still.append(one)
        picture.drafts.append((key, result.reason if isinstance(result, Reject) else ""))
    return still


def _draw(one: _Open, left: Sequence[_Open], picture: _Picture) -> bool:
    """Draw the next further capability, those that this picture was asked least for first; False where none is left."""
    names = [name for name in CAPABILITIES if name not in one.known.capabilities and name not in one.further]
    if not names:
        return False
    uses = Counter(name for other in left for name in other.further)
    least = min(uses[name] for name in names)
    rng = random.Random(digest("further", picture.seed, picture.image_id, one.known.question, len(one.further)))
    one.further.append(rng.choice([name for name in names if uses[name] == least]))
    return True


def _write(part: Sequence[_Open], picture: _Picture, number: int) -> Request:
    known, further = [one.known for one in part], [one.further[-1] for one in part]
    several = len(part) > 1
    prompt = rewriting_several_prompt(known, further) if several else rewriting_prompt(known[0], further[0])
    task = Task(picture.image_id, number, tuple(one.wanted for one in part))
    schema = DraftsReply if several else DraftReply
    return request("teacher", picture.image_id, picture.exposure, prompt, schema, task)


def augment(
    dataset: str,
    out: str | Path,
    *,
    split: str | None = None,
    image_root: str | None = None,
    teacher: str | None = None,
    teacher_url: str | None = None,
    verifier: str | None = None,
    verifier_url: str | None = None,
    strict: bool = False,
    max_edge: int = MAX_EDGE,
    seed: int = 0,
    limit: int | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    rpm: float | None = None,
    tpm: float | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    on_progress: Callable[[Standing], None] = lambda standing: None,
    on_wait: Callable[[str], None] = lambda line: None,
) -> Standing:
    """Have a teacher rewrite the questions of a data set so that they need one capability more, and verify each.

    The verifier first says what every question needs, as in `annotate`. Of each picture those questions are rewritten
    that need as many capabilities as most of them, so that its conversation has one k. Works in a notebook too. Ctrl-C
    finishes what is in flight and stops; the same call goes on.

    Args:
        dataset (`str`): `org/name[@revision][/config]` on the Hub, a folder such as a release, or a JSON file in
            LLaVA's format.
        out (`str | Path`): the run folder: new, empty, or this same run's.
        split (`str`, *optional*): one split of it; all of them by default.
        image_root (`str`, *optional*, defaults to the JSON file's folder): where its image paths start.
        teacher, verifier (`str`, *optional*): `NAME[:MODEL]`. The teacher defaults to `scenes` for drawn scenes and to
            `gemini` otherwise; the verifier to the teacher.
        teacher_url, verifier_url (`str`, *optional*): other servers; the verifier's defaults to the teacher's.
        strict (`bool`, *optional*, defaults to False): check answers too, as for `generate`.
        max_edge (`int`, *optional*, defaults to 1024): pixels on the longer edge of the picture that is sent.
        seed (`int`, *optional*, defaults to 0): decides every draw.
        limit (`int`, *optional*): work on so many pictures, drawn at random by the seed; a larger limit adds to them.
        concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out (*optional*): as for `generate`.
        on_progress (`Callable[[Standing], None]`, *optional*): called as work proceeds.
        on_wait (`Callable[[str], None]`, *optional*): told in a line what is waited for: a teacher that answers in
            batches, or a data set that has to be loaded first.

    Returns:
        Where the run stands at its end.

    Raises:
        UsageError: an argument cannot be carried out, or `out` holds another run.
        SourceError: there is no such data set, or it has no pictures or no questions.
        TeacherError: the teacher refuses, or cannot be reached.
        JournalError: the run folder cannot be used.
        StoppedEarly: Ctrl-C, a budget, or pictures that could not be finished; the same call goes on.
    """
    terms = Terms(limit, concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out)
    checked_edge(max_edge)
    asked = open_dataset(dataset, split=split, image_root=image_root, on_wait=on_wait)
    teachers = open_both(
        asked,
        teacher=teacher,
        teacher_url=teacher_url,
        verifier=verifier,
        verifier_url=verifier_url,
        seed=seed,
        batch_size=concurrency,
        state_dir=Path(out),
        on_wait=on_wait,
    )
    writer = teachers["teacher"]
    in_batches = any(one.in_batches for one in teachers.values())
    preset = replace(BATCHED if in_batches else PRESET, strict=strict, max_edge=max_edge)
    ks = range(writer.ks.start, min(writer.ks.stop, MAX_K + 1))
    return Run(
        asked,
        teachers,
        partial(_process, asked, seed, ks, preset),
        {
            "k": ["k+1"],
            "method": METHOD,
            "rows": asked.content,
            "preset": preset.preset_version,
            "prompts": f"{judging_version()}-{rewriting_version()}",
            "max_edge": max_edge,
        },
        seed,
        None,
        terms,
        on_progress,
    ).to_end(Path(out))


def _process(asked: QuestionedPictures, seed: int, ks: range, preset: Preset, picture: Picture) -> Process:
    exposure = Exposure(partial(read_again, asked, picture), ref=picture.ref, max_edge=preset.max_edge)
    rows = asked.asked(picture.ref)
    return augment_picture(picture.image_id, exposure, rows, seed=seed, ks=ks, preset=preset)
