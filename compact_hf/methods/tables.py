"""Formats a `RunStatus` and a `Forecast` as lines and tables for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from compact_hf.methods.forecast import Forecast
from compact_hf.methods.status import RejectCount, RunStatus
from compact_hf.records import Loss, Reject
from compact_hf.reports.table import Table
from compact_hf.teachers.prices import format_price
from compact_hf.wording import format_count

WIDTH: Final = 100
"""Maximum number of characters per line."""
_COLUMN_GAP: Final = 2


def format_status(status: RunStatus) -> Iterator[str | Table]:
    """Yield the output of `compact status`, from the run's settings to what was dropped.

    Args:
        status (`RunStatus`): the status of the run.
    """
    identity = status.identity
    # Line 1: the source, and the settings that users chose.
    settings = {name: identity[name] for name in ("method", "preset", "k", "seed", "shard") if name in identity}
    if "k" in settings:
        settings["k"] = ",".join(map(str, settings["k"]))
    yield "  ".join([str(identity["source"]), *(f"{name} {value}" for name, value in settings.items())])
    # Line 2: teachers. Roles with the same model are listed together.
    roles: dict[str, list[str]] = {usage.teacher: [] for usage in status.spending.values()}
    for role, usage in status.spending.items():
        roles[usage.teacher].append(role)
    teachers = ", ".join(f"{' and '.join(names)} {teacher}" for teacher, names in roles.items())
    yield f"{teachers}; replies from: {', '.join(status.models) or 'none yet'}"
    # Then numbers, skipped files if there are any, and pace.
    yield (
        f"images {status.pictures:,}, finished {status.finished:,}, kept {status.conversations:,}; "
        f"questions {status.questions:,}{status.questions_note()}"
    )
    if status.loss is not None:
        yield f"dropped from the dataset: {status.loss}"
    if status.skipped_files:
        yield status.skipped_files
    yield _format_pace(status)
    # Then tables, of which empty ones are not printed. A cost of 0 needs no list of prices.
    yield _usage_table(status)
    if status.cost != 0:
        yield ""
        yield from sorted({format_price(usage.teacher, usage.price) for usage in status.spending.values()})
    yield from status.method_tables()
    yield _rejects_table(status.rejects)
    yield Table(
        ("planted fault", "count", "passed", "dropped as"),
        [
            (fault_count.fault, fault_count.count, fault_count.passed, _format_counts(fault_count.dropped))
            for fault_count in status.planted
        ],
    )


def format_loss(status: RunStatus) -> Iterator[str | Table]:
    """Yield what a run dropped from its dataset, and why; nothing if it dropped nothing.

    Args:
        status (`RunStatus`): the status of the run.
    """
    counts = [count for count in status.rejects if count.loss not in (None, Loss())]
    if counts:
        yield f"dropped from the dataset: {status.loss}"
        yield _rejects_table(counts)


def format_forecast(forecast: Forecast) -> Iterator[str | Table]:
    """Yield the output of `compact generate --dry-run`.

    Args:
        forecast (`Forecast`): the forecast of the run.
    """
    verb = "is" if forecast.finished == 1 else "are"
    finished_note = f" ({forecast.finished:,} more {verb} finished)" if forecast.finished else ""
    kept, questions = _round_estimate(forecast.kept), _round_estimate(forecast.questions)
    yield (
        f"{format_count(forecast.pictures, 'image')}{finished_note}; expected: about {kept:,} kept, "
        f"{format_count(questions, 'question')}"
    )
    rows = [(line.label, line.requests, line.input_tokens, line.output_tokens, line.cost) for line in forecast.lines]
    rows.append(("all", forecast.requests, forecast.input_tokens, forecast.output_tokens, forecast.cost))
    yield Table(
        ("role", "requests", "tokens in", "tokens out", "USD"),
        [
            (name, *(f"{_round_estimate(count):,}" for count in counts), _format_usd(cost))
            for name, *counts, cost in rows
        ],
        is_numeric=True,
    )
    yield ""
    if forecast.cost_per_question is not None:
        yield f"{_format_usd(forecast.cost_per_question)} USD per question"
    # None is unknown, and 0 is a teacher that answers at once: neither is worth a line.
    if forecast.seconds:
        yield f"estimated time: {_format_duration(forecast.seconds)}"
    yield from forecast.basis


def _format_pace(status: RunStatus) -> str:
    """Return whether the run is running, how fast it is and how long it will take."""
    state = "running" if status.is_running else "not running"
    if status.last_at is None:
        return f"{state}, no image is finished yet"
    age = _format_duration(time.time() - status.last_at)
    if status.left == 0 and not status.is_running:
        return f"all images are finished, the last one {age} ago"
    pace = "" if status.pace is None else f" at {_format_rate(status.pace)}"
    remaining = "" if status.left is None else f", {status.left:,} left"
    if status.left and status.pace:
        remaining += f": about {_format_duration(status.left / status.pace)}"
    return f"{state}{pace}, last image {age} ago{remaining}"


def _usage_table(status: RunStatus) -> Table:
    """Return the table of requests, tokens and cost by role; columns without any information are left out."""
    rows: list[tuple[str, int, int, int, float | None, int]] = [
        (role, usage.requests, usage.input_tokens, usage.output_tokens, usage.cost, usage.estimated)
        for role, usage in status.spending.items()
    ]
    requests, estimated = sum(status.requests.values()), sum(usage.estimated for usage in status.spending.values())
    rows.append(("all", requests, status.input_tokens, status.output_tokens, status.cost, estimated))
    head = ("role", "requests", "per question", "tokens in", "tokens out", "USD", "USD per question")
    # Local models have no price, and some report no tokens.
    # 7 columns with a price (or an unknown one), 5 with tokens only, 3 without both.
    columns = len(head) if status.cost != 0 else 5 if status.input_tokens else 3
    return Table(head[:columns], [_usage_cells(status, *row)[:columns] for row in rows], is_numeric=True)


def _usage_cells(
    status: RunStatus,
    role: str,
    requests: int,
    input_tokens: int,
    output_tokens: int,
    cost: float | None,
    estimated: int,
) -> tuple[str, ...]:
    about = "about " if estimated else ""
    requests_per_question = f"{requests / status.questions:.2f}" if status.questions else "-"
    cost_per_question = _format_usd(cost / status.questions) if status.questions and cost is not None else "-"
    return (
        role,
        f"{requests:,}",
        requests_per_question,
        f"{about}{input_tokens:,}",
        f"{about}{output_tokens:,}",
        f"{about if cost else ''}{_format_usd(cost)}",
        f"{about if cost else ''}{cost_per_question}",
    )


def _rejects_table(counts: Sequence[RejectCount]) -> Table:
    """Return the table of rejects; the example of each reason is cut to the width of the terminal."""
    head: tuple[str, ...] = ("dropped at", "reason", "count")
    rows: list[tuple[object, ...]] = [(count.stage, count.reason, count.count) for count in counts]
    if any(count.loss is not None for count in counts):
        head = (*head, "rows", "questions")
        losses = [count.loss or Loss() for count in counts]
        rows = [(*row, loss.rows, loss.questions) for row, loss in zip(rows, losses, strict=True)]
    # Widths of the columns before the example, which gets the rest of the line.
    widths = (max(len(str(cell)) for cell in column) for column in zip(head, *rows, strict=True))
    max_chars = WIDTH - sum(width + _COLUMN_GAP for width in widths)
    examples = (_truncate(_format_example(count.examples[0]), max_chars) for count in counts)
    return Table((*head, "for example"), [(*row, example) for row, example in zip(rows, examples, strict=True)])


def _format_example(reject: Reject) -> str:
    return (
        f"{reject.subject} ({reject.detail})" if reject.subject and reject.detail else reject.subject or reject.detail
    )


def _truncate(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[: max_chars - 3]}..."


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _round_estimate(count: int) -> int:
    """Return an expected number rounded to three digits, so that it does not suggest too much precision."""
    return round(count, min(0, 3 - len(str(count))))


def _format_rate(pace: float) -> str:
    return f"{60 * pace:,.{0 if 60 * pace >= 10 else 1}f} images per minute"


def format_share(part: int, whole: int) -> str:
    """Return a share in per cent, or `-` if the whole is 0."""
    return f"{part / whole:.0%}" if whole else "-"


def _format_usd(usd: float | None) -> str:
    if usd is None:
        return "unknown"
    # Cents from 1 USD on, four decimals below, two significant digits below 0.0001.
    return f"{usd:,.2f}" if usd >= 1 or usd == 0 else f"{usd:.2g}" if usd < 0.0001 else f"{usd:.4f}"


def _format_duration(seconds: float) -> str:
    # The largest unit of which there are at least two, so that 90 minutes are not "2 h". Lengths in seconds.
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
