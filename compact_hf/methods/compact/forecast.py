"""Forecast a run: expected requests, tokens, price and time for a number of images.

Nothing is asked and no key is needed. How drafts fare and how long requests are is assumed, or the mean of what the
run's journal holds already; a forecast says in words what it is based on. The rounds of an image are a Markov chain
over the number of its accepted questions: probabilities are carried from round to round, without any simulation.

    compact generate photos --out run --dry-run
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Final, Literal

from compact_hf.errors import UsageError
from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.compact.prompts import (
    blind_prompt,
    blind_several_prompt,
    several_prompt,
    teacher_prompt,
    verifier_prompt,
    verify_several_prompt,
)
from compact_hf.methods.compact.sampling import MAX_K, draw_combinations
from compact_hf.methods.compact.status import Status
from compact_hf.runs.rate_limit import Limits
from compact_hf.teachers.base import Role
from compact_hf.teachers.prices import Price, price_in_words


@dataclass(frozen=True, slots=True)
class Fate:
    """How drafts fare, as shares from 0 to 1.

    Attributes:
        written (`float`): of the drafts that were asked for, those that come and pass the checks made in code.
        verified (`float`): of those, the ones that the verdict agrees with.
        unguessed (`float`): of those, the ones that cannot be answered without the picture (strict presets only).
    """

    written: float
    verified: float
    unguessed: float = 1.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What one picture takes and gives, on average.

    Attributes:
        teacher, verifier, blind (`float`): requests; blind ones go to the verifier too, without the picture.
        asked, judged, guessed (`float`): combinations and questions in these requests.
        kept (`float`): probability that the picture is kept.
        questions (`float`): accepted questions, those of pictures that are not kept left out.
    """

    teacher: float
    verifier: float
    blind: float
    asked: float
    judged: float
    guessed: float
    kept: float
    questions: float


def expected(preset: Preset, k: int, fate: Fate) -> Expected:
    """Return what a picture of this k takes and gives where each draft fares by itself."""
    standing: Mapping[int, float] = {0: 1.0}  # accepted questions -> share of the pictures
    unguessed = fate.unguessed if preset.strict else 1.0
    teacher = verifier = blind = asked = 0.0
    combinations = math.comb(MAX_K, k)
    for _ in range(preset.max_rounds):
        count = min(preset.combinations_per_request, combinations)
        if not count:
            break
        combinations -= count
        going_on = sum(share for turns, share in standing.items() if turns < preset.max_turns)
        teacher += going_on
        asked += going_on * count
        # A round that leaves nothing to judge, or to guess, spares that request.
        verifier += going_on * _any(fate.written, count)
        blind += going_on * _any(fate.written * fate.verified, count) if preset.strict else 0.0
        standing = _after_round(standing, count, fate.written * fate.verified * unguessed, preset.max_turns)
    judged = asked * fate.written
    return Expected(
        teacher=teacher,
        verifier=verifier,
        blind=blind,
        asked=asked,
        judged=judged,
        guessed=judged * fate.verified if preset.strict else 0.0,
        kept=sum(share for turns, share in standing.items() if turns >= preset.min_turns),
        questions=sum(turns * share for turns, share in standing.items() if turns >= preset.min_turns),
    )


def _any(chance: float, count: int) -> float:
    return 1 - (1 - chance) ** count


def _after_round(standing: Mapping[int, float], count: int, accepted: float, enough: int) -> Mapping[int, float]:
    after: defaultdict[int, float] = defaultdict(float)
    for turns, share in standing.items():
        if turns >= enough:
            after[turns] += share
            continue
        for more in range(count + 1):
            chance = math.comb(count, more) * accepted**more * (1 - accepted) ** (count - more)
            after[turns + more] += share * chance
    return after


Kind = Literal["teacher", "verifier", "blind"]
"""What is asked: `blind` goes to the verifier, without the picture."""

ACCEPTED: Final = 0.8
"""Share of drafts that are taken to pass all checks, before anything is known."""
PICTURE_TOKENS: Final = 1120
"""Gemini 3's for one picture, where no media resolution is set."""
THINKING_TOKENS: Final = 200
"""For each question that is written or judged: thinking level `low` takes 100 to 500 a request."""
REQUEST_S: Final = 5.0
ENOUGH: Final = 10
"""Finished pictures, and drafts of one k, from which on the journal's own means are used."""
_SIGNS_PER_TOKEN: Final = 4
_OUTPUT_TOKENS: Final = {"teacher": 50, "verifier": 35, "blind": 10}
_QUESTION: Final = "What colour is the jacket of the person who reaches for the second shelf from the left?"
_GUESSED: Final = "answerable without the picture"
_INSTANT: Final = "scenes"
"""The teacher that computes instead of reading: no tokens, no waiting."""
_NOT_TIMED: Final = frozenset({"gemini-batch", "local"})


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of request in a forecast; `cost` in USD, None where the price is not known."""

    kind: Kind
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run will take from here on.

    Attributes:
        pictures, finished (`int`): pictures to be worked on, and those that are done already and cost nothing more.
        kept, questions (`int`): what the pictures to be worked on will give.
        lines (`tuple[Line, ...]`): by kind of request.
        requests, input_tokens, output_tokens (`int`): in all.
        cost, cost_per_question (`float | None`): USD; None where a price is not known.
        seconds (`float | None`): how long it will take, roughly; None where nothing is known of that.
        basis (`tuple[str, ...]`): what this rests on, in words.
    """

    pictures: int
    finished: int
    kept: int
    questions: int
    lines: tuple[Line, ...]
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    cost_per_question: float | None
    seconds: float | None
    basis: tuple[str, ...]


def forecast_for(
    pictures: int,
    preset: Preset,
    *,
    teachers: Mapping[Role, str],
    prices: Mapping[Role, Price | None],
    limits: Limits,
    measured: Status | None = None,
) -> Forecast:
    """Say what a run over so many pictures will take.

    Args:
        pictures (`int`): pictures in all, those that are finished included.
        preset (`Preset`): the method's parameters, `ks` and `strict` included.
        teachers (`Mapping[Role, str]`): who is asked in each role, `NAME:MODEL`.
        prices (`Mapping[Role, Price | None]`): what they charge, as `teachers.prices.prices_of` gives it.
        limits (`Limits`): requests in flight, and what may be asked in a minute.
        measured (`Status`, *optional*): the run so far; from ten finished pictures on its means replace assumptions.

    Raises:
        UsageError: there are no questions of such a k.
    """
    for k in preset.ks:
        if not 1 <= k <= MAX_K:
            raise UsageError(f"got k = {k}; a question needs 1 to {MAX_K} of the ten capabilities")
    finished = measured.finished if measured else 0
    to_do = max(0, pictures - finished)
    known = measured if measured is not None and finished >= ENOUGH else None
    mean = _mean(expected(preset, k, fate_of(k, known)) for k in preset.ks)
    lines = tuple(_lines(to_do, mean, preset, teachers, prices, known))
    costs = [line.cost for line in lines if line.cost is not None]
    cost = math.fsum(costs) if len(costs) == len(lines) else None
    questions = round(to_do * mean.questions)
    return Forecast(
        pictures=to_do,
        finished=finished,
        kept=round(to_do * mean.kept),
        questions=questions,
        lines=lines,
        requests=sum(line.requests for line in lines),
        input_tokens=sum(line.input_tokens for line in lines),
        output_tokens=sum(line.output_tokens for line in lines),
        cost=cost,
        cost_per_question=cost / questions if cost is not None and questions else None,
        seconds=_seconds(lines, to_do, teachers, limits, known),
        basis=tuple(_basis(known, teachers, prices)),
    )


def fate_of(k: int, measured: Status | None) -> Fate:
    """Return how drafts of this k fared in a run so far; without one, all are taken to come and 80% to pass."""
    if measured is None:
        return Fate(written=1.0, verified=ACCEPTED)
    drafts, accepted = measured.drafts_by_k, measured.accepted_by_k
    asked, passed = sum(drafts.values()), sum(accepted.values())
    unwritten = sum(one.count for one in measured.rejects if one.stage == "generation")
    guessed = sum(one.count for one in measured.rejects if one.reason == _GUESSED)
    # A k that was hardly drawn yet is taken to fare as all do.
    share = accepted[k] / drafts[k] if drafts.get(k, 0) >= ENOUGH else passed / asked
    written = max(share, 1 - unwritten / asked)
    unguessed = passed / (passed + guessed) if passed else 1.0
    return Fate(written, min(1.0, share / (written * unguessed)) if written else 0.0, unguessed)


def _mean(of_each_k: Iterable[Expected]) -> Expected:
    rows = [astuple(one) for one in of_each_k]
    return Expected(*(math.fsum(column) / len(rows) for column in zip(*rows, strict=True)))


def _lines(
    pictures: int,
    mean: Expected,
    preset: Preset,
    teachers: Mapping[Role, str],
    prices: Mapping[Role, Price | None],
    known: Status | None,
) -> Iterator[Line]:
    kinds: list[tuple[Kind, Role, float, float]] = [
        ("teacher", "teacher", mean.teacher, mean.asked),
        ("verifier", "verifier", mean.verifier, mean.judged),
        ("blind", "verifier", mean.blind, mean.guessed),
    ]
    for kind, role, requests, questions in kinds[: 3 if preset.strict else 2]:
        spent = known.spending[role] if known and role in known.spending else None
        if teachers[role].partition(":")[0] == _INSTANT:
            into, out = 0.0, 0.0
        elif spent is not None:
            into, out = (requests * tokens / spent.requests for tokens in (spent.input_tokens, spent.output_tokens))
        else:
            into = requests * _assumed_input(kind, questions / requests if requests else 1, preset)
            out = questions * (_OUTPUT_TOKENS[kind] + THINKING_TOKENS)
        into, out = round(pictures * into), round(pictures * out)
        price = prices[role]
        yield Line(kind, round(pictures * requests), into, out, None if price is None else price.cost(into, out))


def _assumed_input(kind: Kind, questions: float, preset: Preset) -> float:
    """Return the tokens of one request that holds so many questions: the real prompt's, and the picture's."""
    several = preset.combinations_per_request > 1
    asked = [_QUESTION] * max(1, round(questions))
    match kind:
        case "teacher":
            drawn = [draw_combinations(0, "", k, (), preset.combinations_per_request) for k in preset.ks]
            prompts = [several_prompt(one) if several else teacher_prompt(one[0]) for one in drawn]
        case "verifier":
            prompts = [verify_several_prompt(asked) if several else verifier_prompt(_QUESTION)]
        case "blind":
            prompts = [blind_several_prompt(asked) if several else blind_prompt(_QUESTION)]
    text = sum(map(len, prompts)) / len(prompts) / _SIGNS_PER_TOKEN
    return text if kind == "blind" else text + PICTURE_TOKENS


def _seconds(
    lines: Sequence[Line], pictures: int, teachers: Mapping[Role, str], limits: Limits, known: Status | None
) -> float | None:
    requests = sum(line.requests for line in lines)
    tokens = sum(line.input_tokens + line.output_tokens for line in lines)
    names = {teacher.partition(":")[0] for teacher in teachers.values()}
    if names & _NOT_TIMED:
        return None
    if known is not None and known.pace:
        seconds = pictures / known.pace
    else:
        seconds = 0.0 if names == {_INSTANT} else requests * REQUEST_S / limits.in_flight
    return max(seconds, 60 * requests / (limits.rpm or math.inf), 60 * tokens / (limits.tpm or math.inf))


def _basis(known: Status | None, teachers: Mapping[Role, str], prices: Mapping[Role, Price | None]) -> Iterator[str]:
    if known is None:
        yield f"assumed: {ACCEPTED:.0%} of drafts pass; a request takes {REQUEST_S:g} s;"
        yield (
            f"  {PICTURE_TOKENS:,} tokens a picture (Gemini 3's), {_SIGNS_PER_TOKEN} characters a token, "
            f"{THINKING_TOKENS} tokens of thinking a question"
        )
        yield f"from {ENOUGH} finished pictures on the run's own means are used: try --limit {2 * ENOUGH} first"
    else:
        share = sum(known.accepted_by_k.values()) / sum(known.drafts_by_k.values())
        yield f"measured on {known.finished:,} finished pictures: {share:.0%} of drafts pass; tokens; pace"
    for role, teacher in teachers.items():
        if role == "teacher" or teacher != teachers["teacher"]:
            yield price_in_words(teacher, prices[role])
