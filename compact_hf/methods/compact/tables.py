"""What a terminal shows of a run and of a forecast: a `Status` or a `Forecast` in, lines and tables out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.methods.compact.forecast import Forecast
from compact_hf.methods.compact.status import Status
from compact_hf.records import Reject
from compact_hf.teachers.prices import price_in_words

WIDTH: Final = 100
"""Signs in a line."""
_HEADS: Final = "color shape object action text spatial count relation interact scene".split()
"""The ten capabilities in their order, as heads of narrow columns."""
_GAP: Final = 2
_MOST_DECLINED: Final = 5
_KINDS: Final = {"teacher": "teacher", "verifier": "verifier", "blind": "verifier, without the picture"}


@dataclass(frozen=True, slots=True)
class Table:
    """A head, and rows with as many cells; whole numbers stand to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]


def status_parts(found: Status) -> Iterator[str | Table]:
    """Yield what `compact status` says, from the run's settings to what was dropped."""
    identity = found.identity
    settings = {name: identity[name] for name in ("method", "preset", "k", "seed", "shard") if name in identity}
    if "k" in settings:
        settings["k"] = ",".join(map(str, settings["k"]))
    yield "  ".join([str(identity["source"]), *(f"{name} {value}" for name, value in settings.items())])
    roles: dict[str, list[str]] = {spent.teacher: [] for spent in found.spending.values()}
    for role, spent in found.spending.items():
        roles[spent.teacher].append(role)
    teachers = ", ".join(f"{' and '.join(names)} {teacher}" for teacher, names in roles.items())
    yield f"{teachers}; answered: {', '.join(found.models) or 'nobody yet'}"
    surplus = f", {found.surplus:,} of them beyond three a picture" if found.surplus else ""
    yield (
        f"pictures {found.pictures:,}, finished {found.finished:,}, kept {found.conversations:,}; "
        f"questions {found.questions:,}{surplus}"
    )
    yield _pace(found)
    yield _spending(found)
    if found.cost != 0:
        yield ""
        yield from sorted({price_in_words(spent.teacher, spent.price) for spent in found.spending.values()})
    if found.drafts_by_k:
        yield from _by_k_and_capability(found)
    yield _declined(found)
    yield _rejects(found)
    yield Table(
        ("planted", "count", "passed", "dropped as"),
        [(one.fault, one.count, one.passed, _counts(one.dropped)) for one in found.planted],
    )


def forecast_parts(found: Forecast) -> Iterator[str | Table]:
    """Yield what `compact generate --dry-run` says."""
    more = f" beside {found.finished:,} that are finished" if found.finished else ""
    kept, questions = _rough(found.kept), _rough(found.questions)
    yield f"{found.pictures:,} pictures{more}; expected: about {kept:,} kept, {questions:,} questions"
    lines = [
        (_KINDS[line.kind], line.requests, line.input_tokens, line.output_tokens, line.cost) for line in found.lines
    ]
    lines.append(("all", found.requests, found.input_tokens, found.output_tokens, found.cost))
    yield _figures(
        ("asked", "requests", "tokens in", "tokens out", "USD"),
        [(name, *(f"{_rough(count):,}" for count in counts), _money(cost)) for name, *counts, cost in lines],
    )
    yield ""
    if found.cost_per_question is not None:
        yield f"{_money(found.cost_per_question)} USD a question"
    if found.seconds:
        yield f"roughly {_duration(found.seconds)}"
    yield from found.basis


def _pace(found: Status) -> str:
    if found.last_at is None:
        return "no picture is finished yet"
    ago = _duration(time.time() - found.last_at)
    if found.left == 0:
        return f"all pictures are finished, the newest {ago} ago"
    pace = "" if found.pace is None else f" at {_a_minute(found.pace)}"
    left = "" if found.left is None else f", {found.left:,} left"
    if found.left and found.pace:
        left += f": about {_duration(found.left / found.pace)}"
    return f"{'running' if found.is_running else 'not running'}{pace}, the newest {ago} ago{left}"


def _spending(found: Status) -> Table:
    rows: list[tuple[str, int, int, int, float | None]] = [
        (role, spent.requests, spent.input_tokens, spent.output_tokens, spent.cost)
        for role, spent in found.spending.items()
    ]
    rows.append(("all", sum(found.requests.values()), found.input_tokens, found.output_tokens, found.cost))
    head = ("role", "requests", "a question", "tokens in", "tokens out", "USD", "USD a question")
    # What runs here has no price, and may count no tokens.
    columns = len(head) if found.cost != 0 else 5 if found.input_tokens else 3
    return _figures(head[:columns], [_spent(found, *row)[:columns] for row in rows])


def _spent(found: Status, role: str, requests: int, into: int, out: int, cost: float | None) -> tuple[str, ...]:
    each = f"{requests / found.questions:.2f}" if found.questions else "-"
    dear = _money(cost / found.questions) if found.questions and cost is not None else "-"
    return role, f"{requests:,}", each, f"{into:,}", f"{out:,}", _money(cost), dear


def _by_k_and_capability(found: Status) -> Iterator[Table]:
    ks = list(found.drafts_by_k)
    yield _figures(
        ("k", "kept pictures", "questions", "drafts", "accepted"),
        [
            (
                str(k),
                f"{found.conversations_by_k[k]:,}",
                f"{found.questions_by_k[k]:,}",
                f"{found.drafts_by_k[k]:,}",
                _share(found.accepted_by_k[k], found.drafts_by_k[k]),
            )
            for k in ks
        ],
    )
    drafts: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for one in found.combinations:
        drafts.update(dict.fromkeys(one.capabilities, one.asked))
        accepted.update(dict.fromkeys(one.capabilities, one.accepted))
    yield _figures(
        ("capability", *(f"k = {k}" for k in ks), "drafts", "accepted"),
        [
            (name, *(f"{counts[k]:,}" for k in ks), f"{drafts[name]:,}", _share(accepted[name], drafts[name]))
            for name, counts in found.questions_by_capability.items()
        ],
    )
    yield Table(
        ("questions that need", *_HEADS),
        [(name, *(found.coverage[name][other] for other in CAPABILITIES)) for name in CAPABILITIES],
    )


def _declined(found: Status) -> Table:
    declined = sorted((one for one in found.combinations if one.declined), key=lambda one: -one.declined)
    rows = [(", ".join(one.capabilities), one.declined, one.asked) for one in declined[:_MOST_DECLINED]]
    if rest := declined[_MOST_DECLINED:]:
        sums = sum(one.declined for one in rest), sum(one.asked for one in rest)
        rows.append((f"{len(rest)} other combinations", *sums))
    return Table(("declined by the teacher", "count", "of drafts"), rows)


def _rejects(found: Status) -> Table:
    head = ("dropped at", "reason", "count")
    rows = [(one.stage, one.reason, one.count) for one in found.rejects]
    widths = (max(len(str(cell)) for cell in column) for column in zip(head, *rows, strict=True))
    room = WIDTH - sum(width + _GAP for width in widths)
    examples = (_cut(_example(one.examples[0]), room) for one in found.rejects)
    return Table((*head, "for example"), [(*row, example) for row, example in zip(rows, examples, strict=True)])


def _example(reject: Reject) -> str:
    return (
        f"{reject.subject} ({reject.detail})" if reject.subject and reject.detail else reject.subject or reject.detail
    )


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 3]}..."


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _figures(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose columns all stand to the right, but for the first."""
    lines = [list(head), *(list(row) for row in rows)]
    for column in range(1, len(head)):
        width = max(len(line[column]) for line in lines)
        for line in lines:
            line[column] = line[column].rjust(width)
    return Table(lines[0], lines[1:])


def _rough(count: int) -> int:
    """Return an expected number without the digits that would claim too much: three of them stay."""
    return round(count, min(0, 3 - len(str(count))))


def _a_minute(pace: float) -> str:
    return f"{60 * pace:,.{0 if 60 * pace >= 10 else 1}f} pictures a minute"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _money(usd: float | None) -> str:
    if usd is None:
        return "unknown"
    return f"{usd:,.2f}" if usd >= 1 or usd == 0 else f"{usd:.2g}" if usd < 0.0001 else f"{usd:.4f}"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
