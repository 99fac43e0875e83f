"""Tests the comparison of two releases: rows by config and split, columns, configs and the card."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compact_hf.cli.main import main
from compact_hf.dataset.diff import Changes, Difference, diff
from compact_hf.dataset.schema import get_split
from compact_hf.dataset.writer import write_dataset
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.records import Message, Row, Turn
from tests.doubles.hub.server import HubServer
from tests.hub.clients import run_source

from .samples import make_row, make_rows

TEXT_ROW = Row(id="f" * 32, messages=(Message("user", "Hi"), Message("assistant", "Hello")), source="instruction")


def write_release(path: Path, rows: Iterable[Row], version: str = "1.0.0") -> Path:
    write_dataset(rows, path, sources=("compact",), version=version)
    return path


def replace_turns(row: Row, *, new_id: str) -> Row:
    turn = Turn("How many?", "3", row.turns[0].capabilities, row.turns[0].capabilities, 90)
    return replace(row, id=new_id, turns=(turn,), messages=(Message("user", "How many?"), Message("assistant", "3")))


def count_changes(difference: Difference) -> dict[str, int]:
    """Return the number of rows for each kind of change, in both splits of `all`."""
    kinds = ("added", "removed", "changed", "corrected")
    all_changes = [changes for (config, _), changes in difference.rows.items() if config == "all"]
    return {kind: total for kind in kinds if (total := sum(getattr(changes, kind) for changes in all_changes))}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("before") / "release", [*make_rows(60), TEXT_ROW])


def test_the_same_rows_do_not_differ_whatever_the_version(before: Path, tmp_path: Path) -> None:
    later = write_release(tmp_path / "later", [*make_rows(60), TEXT_ROW], "1.0.1")
    difference = diff(before, later)
    assert (count_changes(difference), difference.columns, difference.card, difference.reasons()) == ({}, {}, False, [])
    assert (difference.versions, difference.step) == (("1.0.0", "1.0.1"), "patch")


def test_files_that_are_the_same_are_not_read_for_their_rows(before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("read"))
    assert count_changes(diff(before, before)) == {}


def test_added_removed_and_changed_rows_are_counted_by_config_and_split(before: Path, tmp_path: Path) -> None:
    remaining = [row for row in make_rows(60) if row.id != make_row(1).id]
    original = next(row for row in remaining if row.k == 3 and get_split("compact", row.image_id) == "train")
    remaining[remaining.index(original)] = replace_turns(original, new_id="e" * 32)
    added = make_row(100, k=1)
    after = write_release(tmp_path / "after", [*remaining, added, TEXT_ROW])
    difference = diff(before, after)
    assert count_changes(difference) == {"added": 1, "removed": 1, "changed": 1}
    assert difference.step == "minor"
    assert difference.examples == {"added": (added.id,), "removed": (make_row(1).id,), "changed": ("e" * 32,)}
    train = difference.rows["k3", "train"]
    assert train == Changes(train.before, train.before, changed=1)
    assert difference.rows["k2", get_split("compact", make_row(1).image_id)].removed == 1
    assert difference.rows["k1", get_split("compact", added.image_id)].added == 1
    assert difference.rows["instruction", "train"] == Changes(1, 1)


def test_a_picture_that_moves_to_another_k_is_changed_in_all_and_gone_from_one_config(
    before: Path, tmp_path: Path
) -> None:
    moved = replace(make_row(0, k=3), id="d" * 32)
    after = write_release(
        tmp_path / "after", [moved, *(row for row in make_rows(60) if row.id != make_row(0).id), TEXT_ROW]
    )
    difference, split = diff(before, after), get_split("compact", moved.image_id)
    assert count_changes(difference) == {"changed": 1}
    assert (difference.rows["k1", split].removed, difference.rows["k3", split].added) == (1, 1)


def test_another_license_corrects_a_row_and_does_not_change_it(before: Path, tmp_path: Path) -> None:
    relicensed = [replace(row, image_license="CC-BY-4.0") for row in make_rows(60)]
    difference = diff(before, write_release(tmp_path / "after", [*relicensed, TEXT_ROW]))
    assert count_changes(difference) == {"corrected": 60}
    assert (difference.step, difference.reasons()) == ("patch", ["60 rows corrected"])


def test_a_config_that_is_gone_is_a_major_change(before: Path, tmp_path: Path) -> None:
    difference = diff(
        before, write_release(tmp_path / "after", [*(row for row in make_rows(60) if row.k != 3), TEXT_ROW])
    )
    assert ("k3", "train") in difference.removed_splits
    assert difference.step == "major"
    assert "config k3 no longer has train rows" in difference.reasons()


def test_a_new_config_is_a_minor_change(tmp_path: Path) -> None:
    without_k3 = [row for row in make_rows(60) if row.k != 3]
    difference = diff(write_release(tmp_path / "a", without_k3), write_release(tmp_path / "b", make_rows(60)))
    assert (difference.removed_splits, difference.step, count_changes(difference)) == ((), "minor", {"added": 20})


def rewrite_release(directory: Path, path: Path, change: Any) -> Path:
    """Copy a release and pass the table of every file through `change`."""
    import pyarrow.parquet as pq

    shutil.copytree(directory, path)
    for file in path.rglob("*.parquet"):
        pq.write_table(change(pq.read_table(file)), file)
    return path


def test_columns_are_compared_and_do_not_make_every_row_another(before: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    def change(table: Any) -> Any:
        confidence = pa.array([1.5] * table.num_rows, pa.float32())
        return table.drop_columns(["teacher"]).append_column("score", confidence)

    difference = diff(before, rewrite_release(before, tmp_path / "other", change))
    assert difference.columns == {"teacher": ("string", ""), "score": ("", "float")}
    assert (count_changes(difference), difference.step) == ({}, "major")
    assert difference.reasons() == ["column teacher: string -> none", "column score: none -> float"]


def test_a_column_of_another_type_is_told(before: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    def change(table: Any) -> Any:
        index = table.schema.get_field_index("teacher")
        return table.set_column(index, "teacher", table["teacher"].cast(pa.large_string()))

    assert diff(before, rewrite_release(before, tmp_path / "other", change)).columns == {
        "teacher": ("string", "large_string")
    }


def test_a_file_that_was_only_compressed_in_another_way_holds_the_same_rows(before: Path, tmp_path: Path) -> None:
    recompressed = rewrite_release(before, tmp_path / "other", lambda table: table)
    assert next(before.rglob("*.parquet")).read_bytes() != next(recompressed.rglob("*.parquet")).read_bytes()
    assert count_changes(diff(before, recompressed)) == {}


def test_another_card_alone_is_a_patch(before: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(before, tmp_path / "other"))
    with (copy / "README.md").open("a") as card:
        card.write("\nA note.\n")
    difference = diff(before, copy)
    assert (difference.card, difference.step, difference.reasons()) == (True, "patch", ["the card differs"])


@settings(max_examples=12, deadline=None)
@given(old=st.sets(st.integers(0, 11), min_size=1), new=st.sets(st.integers(0, 11), min_size=1))
def test_it_is_the_difference_of_the_sets_of_rows(
    old: set[int], new: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("law")
    a, b = (
        write_release(directory / name, map(make_row, sorted(numbers))) for name, numbers in (("a", old), ("b", new))
    )
    expected = {"added": len(new - old), "removed": len(old - new)}
    assert count_changes(diff(a, b)) == {kind: count for kind, count in expected.items() if count}
    assert count_changes(diff(b, a)).get("added", 0) == len(old - new)


def make_noise_row(number: int, *, k: int) -> Row:
    """Return a row whose image has 40 KB."""
    from PIL import Image

    out = BytesIO()
    Image.frombytes("RGB", (120, 120), random.Random(number).randbytes(3 * 120 * 120)).save(out, "PNG")
    return make_row(number, k=k, data=out.getvalue())


def test_from_the_hub_it_takes_columns_and_no_pictures_and_no_rows_of_files_that_are_the_same(tmp_path: Path) -> None:
    same = [make_noise_row(number, k=2) for number in range(100, 160)]
    old = [make_noise_row(number, k=1) for number in range(60)]
    write_release(tmp_path / "a", [*same, *old])
    write_release(tmp_path / "b", [*same, *old[1:], replace(old[0], image_license="CC-BY-4.0")], "1.0.1")
    publish_source = """
import sys
from compact_hf import publish
told = [publish(folder, "org/compact").tag for folder in sys.argv[1:]]
"""
    diff_source = """
from compact_hf import CompactError, diff
told = [diff(a, b).to_dict() for a, b in (("org/compact@v1.0.0", "org/compact"), ("org/compact", "org/compact@v1.0.0"))]
for wrong in ("org/compact@v9.0.0", "org/nothing"):
    try:
        diff("org/compact", wrong)
    except CompactError as error:
        told.append([type(error).__name__, str(error)])
"""
    with HubServer() as server:
        run_source(server, publish_source, tmp_path / "a", tmp_path / "b", home=tmp_path / "home")
        request_count = len(server.requests)
        forward, backward, *errors = run_source(server, diff_source, home=tmp_path / "elsewhere")
        downloads = [
            entry
            for entry in server.requests[request_count:]
            if entry.method == "GET" and entry.path.endswith(".parquet")
        ]
    corrected = [sum(split["corrected"] for split in entry["rows"]["all"].values()) for entry in (forward, backward)]
    assert (corrected, forward["step"], backward["step"]) == ([1, 1], "patch", "patch")
    assert forward["examples"] == {"corrected": [old[0].id]}
    bytes_read: Counter[str] = Counter()
    for entry in downloads:
        first, last = map(int, entry.headers["range"].removeprefix("bytes=").split("-"))
        bytes_read["k1" if "/k1/" in entry.path else "k2"] += last - first + 1
    sizes = {k: sum(path.stat().st_size for path in (tmp_path / "a" / "data" / k).iterdir()) for k in ("k1", "k2")}
    assert bytes_read["k1"] < 0.5 * sizes["k1"]
    assert bytes_read["k2"] < 0.3 * sizes["k2"]
    assert [kind for kind, _ in errors] == ["HubError", "HubError"]
    assert all("404" in line and "\n" not in line for _, line in errors)


def test_what_is_no_release_is_refused_in_one_line(before: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = Path(shutil.copytree(before, tmp_path / "broken"))
    next(broken.rglob("*.parquet")).write_bytes(b"PAR1 and no more")
    dangling = Path(shutil.copytree(before, tmp_path / "dangling"))
    file = next(dangling.rglob("*.parquet"))
    file.unlink()
    file.symlink_to("nowhere")
    cases: list[tuple[object, type[Exception], str]] = [
        (dangling, ReleaseError, "No such file"),
        (tmp_path / "empty", ReleaseError, "is not a dataset release"),
        (broken, ReleaseError, "cannot be read"),
        (tmp_path / "nowhere" / "at" / "all", UsageError, "neither a directory nor a repository"),
    ]
    for target, kind, part in cases:
        with pytest.raises(kind, match=part) as excinfo:
            diff(before, str(target))
        assert "\n" not in str(excinfo.value)


def test_the_command_tells_tables_or_json(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = write_release(tmp_path / "after", [*make_rows(61), TEXT_ROW], "1.1.0")
    assert main(["diff", os.fspath(before), os.fspath(after)]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["config", "split", "before", "after", "added", "removed", "changed", "corrected"] in lines
    assert ["added", make_row(60).id] in lines
    assert err.strip().endswith("1 row added; a minor change")
    assert main(["diff", os.fspath(before), os.fspath(after), "--json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert (as_json["step"], as_json["versions"]) == ("minor", ["1.0.0", "1.1.0"])
    assert sum(split["added"] for split in as_json["rows"]["all"].values()) == 1
