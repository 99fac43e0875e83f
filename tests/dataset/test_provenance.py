"""Tests that provenance is read only from journals: the same journals give the same result on any day, in any order."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.provenance import read_provenance
from compact_hf.errors import UsageError
from compact_hf.methods.generate import generate
from compact_hf.runs.journal import FILE_NAME, FinishedImage, Journal
from compact_hf.runs.journal_file import add_checksum
from compact_hf.teachers.base import Reply, Role

from .samples import contents

GEMINI = "gemini:gemini-3.8-flash"


def write_run(
    directory: Path, replies: dict[str, int], *, version: str = "gemini-3.8-flash-001", **identity: Any
) -> Path:
    """Write a run with this number of replies per day, each of 1,000 input and 100 output tokens, and one verdict."""
    settings = {
        "teacher": GEMINI,
        "verifier": "scenes",
        "method": "compact",
        "k": [1, 2],
        "seed": 0,
        "source": "/home/me",
    }
    with Journal.open(directory, settings | identity) as journal:
        requests: list[tuple[Role, str]] = [("teacher", day) for day, count in replies.items() for _ in range(count)]
        for number, (role, _) in enumerate([*requests, ("verifier", "")]):
            tokens = (1000, 100) if role == "teacher" else (0, 0)
            reply = Reply(str(number), text="{}", model=version, input_tokens=tokens[0], output_tokens=tokens[1])
            journal.record_reply("a", role, reply)
        journal.record_outcome(FinishedImage("a", "a.png", "{}", 2))
        journal.record_outcome(FinishedImage("b", "b.png", "{}", 0))
    with closing(sqlite3.connect(directory / FILE_NAME, isolation_level=None)) as database:
        for number, day in enumerate([*(day for _, day in requests), min(replies)]):
            timestamp = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
            database.execute("UPDATE replies SET at = ? WHERE key = ?", (timestamp, str(number)))
        for row in database.execute("SELECT key, image_id, role, at, body FROM replies").fetchall():
            database.execute("UPDATE replies SET checksum = ? WHERE key = ?", (add_checksum(row)[-1], row[0]))
    return directory


def test_date_price_and_counts_are_the_journal_s(tmp_path: Path) -> None:
    provenance = read_provenance([write_run(tmp_path / "run", {"2026-11-02": 3, "2026-11-05": 7})])
    assert (provenance.first_day, provenance.last_day, provenance.images, provenance.kept_images) == (
        "2026-11-02",
        "2026-11-05",
        2,
        1,
    )
    teacher, verifier = provenance.model_usage
    assert (teacher.role, teacher.name, teacher.backend) == ("teacher", GEMINI, "gemini")
    assert (teacher.requests, teacher.input_tokens, teacher.output_tokens) == (10, 10_000, 1_000)
    # USD per million tokens: 0.75 for input, 3.75 for output
    assert provenance.cost == teacher.cost == pytest.approx(10_000 * 0.75e-6 + 1_000 * 3.75e-6)
    assert teacher.versions == ("gemini-3.8-flash-001",)
    assert teacher.estimated == 0
    assert teacher.price_source.startswith("genai-prices ")
    assert (verifier.name, verifier.requests, verifier.cost, verifier.price_source) == ("scenes", 1, 0, "runs here")
    assert provenance.settings == {"method": ("compact",), "k": ("1, 2",), "seed": ("0",)}


def test_the_shards_of_a_run_tell_what_the_whole_does(tmp_path: Path) -> None:
    whole = read_provenance([write_run(tmp_path / "whole", {"2026-11-02": 3, "2026-11-05": 7})])
    first = write_run(tmp_path / "parts" / "shard-1-of-2", {"2026-11-02": 3, "2026-11-05": 1}, shard="1/2")
    second = write_run(tmp_path / "parts" / "shard-2-of-2", {"2026-11-05": 6}, shard="2/2")
    merged = read_provenance([tmp_path / "parts"])
    assert merged == read_provenance([second, first]) == read_provenance([first, second])
    assert merged.model_usage[0] == whole.model_usage[0]
    assert (merged.first_day, merged.last_day, merged.settings) == (
        whole.first_day, whole.last_day, whole.settings,
    )  # fmt: skip


def test_several_runs_are_told_apart_by_who_was_asked(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "one", {"2026-11-02": 3}),
        write_run(tmp_path / "two", {"2026-11-09": 2}, teacher="openai:mine", version="mine-7b", seed=3),
    ]
    provenance = read_provenance(runs)
    assert [(usage.role, usage.name, usage.requests) for usage in provenance.model_usage] == [
        ("teacher", GEMINI, 3), ("teacher", "openai:mine", 2), ("verifier", "scenes", 2),
    ]  # fmt: skip
    assert provenance.model_usage[1].cost is provenance.cost is None
    assert (provenance.settings["seed"], provenance.last_day) == (("0", "3"), "2026-11-09")
    assert provenance.model_usage[2].versions == ("gemini-3.8-flash-001", "mine-7b")


@pytest.mark.parametrize("path", ["/home/me/models/mine", "~/mine", "C:\\models\\mine"])
def test_no_folder_of_a_model_is_told(path: str, tmp_path: Path) -> None:
    provenance = read_provenance(
        [write_run(tmp_path / "run", {"2026-11-02": 1}, teacher=f"openai:{path}", version=path)]
    )
    assert (provenance.model_usage[0].name, provenance.model_usage[0].versions) == ("openai:mine", ("mine",))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run"):
        read_provenance([tmp_path])


def test_a_release_is_the_same_whenever_it_is_assembled(tmp_path: Path) -> None:
    generate("scenes:12", tmp_path / "run")
    for name in ("one", "two"):
        assemble([tmp_path / "run"], tmp_path / name, version="1.0.0", max_similarity=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    card = (tmp_path / "one" / "README.md").read_text()
    with Journal.read(tmp_path / "run") as journal:
        (day,) = {usage.day for usage in journal.usage()}
    assert f"- Date: replies were received on {day} (UTC)." in card
    assert "- Cost: 0 USD for API calls, because all models ran locally." in card
