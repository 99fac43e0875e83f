"""What differs between two releases: rows by config and split, columns, configs, the card."""

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
from tests.hub.clients import told

from .samples import row, rows

TEXT = Row(id="f" * 32, messages=(Message("user", "Hi"), Message("assistant", "Hello")), source="instruction")


def release(path: Path, of: Iterable[Row], version: str = "1.0.0") -> Path:
    write_dataset(of, path, version=version)
    return path


def with_other_turns(one: Row, *, new_id: str) -> Row:
    turn = Turn("How many?", "3", one.turns[0].capabilities, one.turns[0].capabilities, 90)
    return replace(one, id=new_id, turns=(turn,), messages=(Message("user", "How many?"), Message("assistant", "3")))


def of_all(difference: Difference) -> dict[str, int]:
    """Kind of change -> rows, in both splits of `all`."""
    kinds = ("added", "removed", "changed", "corrected")
    of = [changes for (config, _), changes in difference.rows.items() if config == "all"]
    return {kind: total for kind in kinds if (total := sum(getattr(changes, kind) for changes in of))}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release(tmp_path_factory.mktemp("before") / "release", [*rows(60), TEXT])


def test_the_same_rows_do_not_differ_whatever_the_version(before: Path, tmp_path: Path) -> None:
    later = release(tmp_path / "later", [*rows(60), TEXT], "1.0.1")
    difference = diff(before, later)
    assert (of_all(difference), difference.columns, difference.card, difference.reasons()) == ({}, {}, False, [])
    assert (difference.versions, difference.step) == (("1.0.0", "1.0.1"), "patch")


def test_files_that_are_the_same_are_not_read_for_their_rows(before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("read"))
    assert of_all(diff(before, before)) == {}


def test_added_removed_and_changed_rows_are_counted_by_config_and_split(before: Path, tmp_path: Path) -> None:
    kept = [one for one in rows(60) if one.id != row(1).id]
    second = next(one for one in kept if one.k == 3 and get_split(3, one.image_id) == "train")
    kept[kept.index(second)] = with_other_turns(second, new_id="e" * 32)
    added = row(100, k=1)
    after = release(tmp_path / "after", [*kept, added, TEXT])
    difference = diff(before, after)
    assert of_all(difference) == {"added": 1, "removed": 1, "changed": 1}
    assert difference.step == "minor"
    assert difference.examples == {"added": (added.id,), "removed": (row(1).id,), "changed": ("e" * 32,)}
    train = difference.rows["k3", "train"]
    assert train == Changes(train.before, train.before, changed=1)
    assert difference.rows["k2", get_split(2, row(1).image_id)].removed == 1
    assert difference.rows["k1", get_split(1, added.image_id)].added == 1
    assert difference.rows["instruction", "train"] == Changes(1, 1)


def test_a_picture_that_moves_to_another_k_is_changed_in_all_and_gone_from_one_config(
    before: Path, tmp_path: Path
) -> None:
    moved = replace(row(0, k=3), id="d" * 32)
    after = release(tmp_path / "after", [moved, *(one for one in rows(60) if one.id != row(0).id), TEXT])
    difference, split = diff(before, after), get_split(1, moved.image_id)
    assert of_all(difference) == {"changed": 1}
    assert (difference.rows["k1", split].removed, difference.rows["k3", split].added) == (1, 1)


def test_another_licence_corrects_a_row_and_does_not_change_it(before: Path, tmp_path: Path) -> None:
    relicensed = [replace(one, image_license="CC-BY-4.0") for one in rows(60)]
    difference = diff(before, release(tmp_path / "after", [*relicensed, TEXT]))
    assert of_all(difference) == {"corrected": 60}
    assert (difference.step, difference.reasons()) == ("patch", ["60 rows corrected"])


def test_a_config_that_is_gone_is_a_major_change(before: Path, tmp_path: Path) -> None:
    difference = diff(before, release(tmp_path / "after", [*(one for one in rows(60) if one.k != 3), TEXT]))
    assert ("k3", "train") in difference.removed_splits
    assert difference.step == "major"
    assert "config k3 has no train rows any more" in difference.reasons()


def test_a_new_config_is_a_minor_change(tmp_path: Path) -> None:
    only = [one for one in rows(60) if one.k != 3]
    difference = diff(release(tmp_path / "a", only), release(tmp_path / "b", rows(60)))
    assert (difference.removed_splits, difference.step, of_all(difference)) == ((), "minor", {"added": 20})


def rewritten(folder: Path, path: Path, change: Any) -> Path:
    """Copy a release and pass the table of every file through `change`."""
    import pyarrow.parquet as pq

    shutil.copytree(folder, path)
    for file in path.rglob("*.parquet"):
        pq.write_table(change(pq.read_table(file)), file)
    return path


def test_columns_are_compared_and_do_not_make_every_row_another(before: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    def change(table: Any) -> Any:
        confidence = pa.array([1.5] * table.num_rows, pa.float32())
        return table.drop_columns(["teacher"]).append_column("score", confidence)

    difference = diff(before, rewritten(before, tmp_path / "other", change))
    assert difference.columns == {"teacher": ("string", ""), "score": ("", "float")}
    assert (of_all(difference), difference.step) == ({}, "major")
    assert difference.reasons() == ["column teacher: string -> none", "column score: none -> float"]


def test_a_column_of_another_type_is_told(before: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    def change(table: Any) -> Any:
        at = table.schema.get_field_index("source")
        return table.set_column(at, "source", table["source"].cast(pa.large_string()))

    assert diff(before, rewritten(before, tmp_path / "other", change)).columns == {"source": ("string", "large_string")}


def test_a_file_that_was_only_compressed_in_another_way_holds_the_same_rows(before: Path, tmp_path: Path) -> None:
    other = rewritten(before, tmp_path / "other", lambda table: table)
    assert next(before.rglob("*.parquet")).read_bytes() != next(other.rglob("*.parquet")).read_bytes()
    assert of_all(diff(before, other)) == {}


def test_another_card_alone_is_a_patch(before: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(before, tmp_path / "other"))
    with (other / "README.md").open("a") as card:
        card.write("\nA note.\n")
    difference = diff(before, other)
    assert (difference.card, difference.step, difference.reasons()) == (True, "patch", ["the card differs"])


@settings(max_examples=12, deadline=None)
@given(old=st.sets(st.integers(0, 11), min_size=1), new=st.sets(st.integers(0, 11), min_size=1))
def test_it_is_the_difference_of_the_sets_of_rows(
    old: set[int], new: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    where = tmp_path_factory.mktemp("law")
    a, b = (release(where / name, map(row, sorted(of))) for name, of in (("a", old), ("b", new)))
    expected = {"added": len(new - old), "removed": len(old - new)}
    assert of_all(diff(a, b)) == {kind: count for kind, count in expected.items() if count}
    assert of_all(diff(b, a)).get("added", 0) == len(old - new)


def noisy(number: int, *, k: int) -> Row:
    """A row whose picture takes 40 KB."""
    from PIL import Image

    out = BytesIO()
    Image.frombytes("RGB", (120, 120), random.Random(number).randbytes(3 * 120 * 120)).save(out, "PNG")
    return row(number, k=k, data=out.getvalue())


def test_from_the_hub_it_takes_columns_and_no_pictures_and_no_rows_of_files_that_are_the_same(tmp_path: Path) -> None:
    same = [noisy(number, k=2) for number in range(100, 160)]
    old = [noisy(number, k=1) for number in range(60)]
    release(tmp_path / "a", [*same, *old])
    release(tmp_path / "b", [*same, *old[1:], replace(old[0], image_license="CC-BY-4.0")], "1.0.1")
    publishing = """
import sys
from compact_hf import publish
told = [publish(folder, "org/compact").tag for folder in sys.argv[1:]]
"""
    comparing = """
from compact_hf import CompactError, diff
told = [diff(a, b).to_dict() for a, b in (("org/compact@v1.0.0", "org/compact"), ("org/compact", "org/compact@v1.0.0"))]
for wrong in ("org/compact@v9.0.0", "org/nothing"):
    try:
        diff("org/compact", wrong)
    except CompactError as error:
        told.append([type(error).__name__, str(error)])
"""
    with HubServer() as server:
        told(server, publishing, tmp_path / "a", tmp_path / "b", home=tmp_path / "home")
        published = len(server.asked)
        forth, back, *wrong = told(server, comparing, home=tmp_path / "elsewhere")
        got = [one for one in server.asked[published:] if one.method == "GET" and one.path.endswith(".parquet")]
    corrected = [sum(split["corrected"] for split in one["rows"]["all"].values()) for one in (forth, back)]
    assert (corrected, forth["step"], back["step"]) == ([1, 1], "patch", "patch")
    assert forth["examples"] == {"corrected": [old[0].id]}
    taken: Counter[str] = Counter()
    for one in got:
        first, last = map(int, one.headers["range"].removeprefix("bytes=").split("-"))
        taken["k1" if "/k1/" in one.path else "k2"] += last - first + 1
    sizes = {k: sum(path.stat().st_size for path in (tmp_path / "a" / "data" / k).iterdir()) for k in ("k1", "k2")}
    assert taken["k1"] < 0.5 * sizes["k1"]
    assert taken["k2"] < 0.3 * sizes["k2"]
    assert [kind for kind, _ in wrong] == ["HubError", "HubError"]
    assert all("404" in line and "\n" not in line for _, line in wrong)


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
        (tmp_path / "empty", ReleaseError, "holds no release"),
        (broken, ReleaseError, "cannot be read"),
        (tmp_path / "nowhere" / "at" / "all", UsageError, "neither a folder nor a repository"),
    ]
    for other, kind, part in cases:
        with pytest.raises(kind, match=part) as caught:
            diff(before, str(other))
        assert "\n" not in str(caught.value)


def test_the_command_tells_tables_or_json(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = release(tmp_path / "after", [*rows(61), TEXT], "1.1.0")
    assert main(["diff", os.fspath(before), os.fspath(after)]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["config", "split", "before", "after", "added", "removed", "changed", "corrected"] in lines
    assert ["added", row(60).id] in lines
    assert err.strip().endswith("1 row added; a minor change")
    assert main(["diff", os.fspath(before), os.fspath(after), "--json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert (as_json["step"], as_json["versions"]) == ("minor", ["1.0.0", "1.1.0"])
    assert sum(split["added"] for split in as_json["rows"]["all"].values()) == 1
