"""Tests that shards divide a run so that nothing is lost, doubled or paid for twice, and can be reassembled."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from compact_hf.dataset.assemble import assemble
from compact_hf.errors import JournalError, SettingsMismatchError, UsageError
from compact_hf.methods.generate import generate
from compact_hf.runs.journal import FILE_NAME
from compact_hf.runs.run import RunProgress
from compact_hf.runs.shards import Shard, find_runs
from compact_hf.testing.gemini import GeminiServer

COUNTS = st.integers(1, 20)


def make_shards(count: int) -> list[Shard]:
    return [Shard(index, count) for index in range(1, count + 1)]


@given(COUNTS, st.data())
def test_a_shard_is_read_as_it_is_written(count: int, data: st.DataObject) -> None:
    shard = Shard(data.draw(st.integers(1, count)), count)
    assert Shard.parse(str(shard)) == shard


@pytest.mark.parametrize("text", ["", "2", "0/8", "9/8", "0/0", "-1/8", "1/8/2", "a/b", " 1/8", "1.0/8", "1/", "٢/٨"])
def test_what_is_no_shard_is_refused_in_one_line_that_shows_one(text: str) -> None:
    with pytest.raises(UsageError, match="I from 1 to N, such as 2/8") as excinfo:
        Shard.parse(text)
    assert "\n" not in str(excinfo.value)


@given(COUNTS, st.integers(0, 100))
def test_every_picture_belongs_to_one_shard(count: int, pictures: int) -> None:
    assume(pictures >= count)
    refs = [f"{number}.jpg" for number in range(pictures)]
    parts = [shard.select(refs) for shard in make_shards(count)]
    assert sorted(ref for part in parts for ref in part) == sorted(refs)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part == sorted(part, key=refs.index) for part in parts)


@given(COUNTS, st.integers(0, 100), st.integers(1, 120))
def test_the_shards_of_a_limit_take_what_the_whole_run_takes(count: int, pictures: int, limit: int) -> None:
    assume(pictures >= count and limit >= count)
    refs = [f"{number}.jpg" for number in range(pictures)]
    selected_refs = [ref for shard in make_shards(count) for ref in shard.select(refs)[: shard.share("limit", limit)]]
    assert sorted(selected_refs) == sorted(refs[:limit])


@given(COUNTS, st.integers(1, 10**9))
def test_shares_of_a_whole_number_add_up_to_it_and_are_even(count: int, whole: int) -> None:
    assume(whole >= count)
    shares = [shard.share("max_requests", whole) or 0 for shard in make_shards(count)]
    assert sum(shares) == whole
    assert max(shares) - min(shares) <= 1


@given(COUNTS, st.floats(1e-6, 1e9))
def test_portions_of_a_rate_add_up_to_it(count: int, whole: float) -> None:
    assert sum(shard.portion(whole) or 0.0 for shard in make_shards(count)) == pytest.approx(whole)


def test_no_limit_stays_no_limit() -> None:
    assert Shard(2, 8).share("limit", None) is None
    assert Shard(2, 8).portion(None) is None


def test_a_shard_that_is_left_with_nothing_says_what_to_do() -> None:
    assert Shard(5, 8).share("limit", 5) == 1
    with pytest.raises(
        UsageError, match=r"shard 6/8 gets no share of limit 5 .*: raise it to at least 8, or use fewer shards"
    ):
        Shard(6, 8).share("limit", 5)
    with pytest.raises(UsageError, match=r"shard 6/8 has no images .* only 5\): use fewer shards"):
        Shard(6, 8).select(list("abcde"))


def make_run(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / FILE_NAME).touch()
    return directory


def test_a_folder_of_shards_stands_for_its_runs_in_order(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / shard.directory_name) for shard in make_shards(11)]
    make_run(tmp_path / "backup-of-shard-1")
    assert find_runs(tmp_path) == runs
    assert find_runs(runs[3]) == [runs[3]]


def test_a_folder_without_runs_stands_for_itself(tmp_path: Path) -> None:
    (tmp_path / Shard(1, 2).directory_name).mkdir()
    assert find_runs(tmp_path) == [tmp_path]
    assert find_runs(tmp_path / "missing") == [tmp_path / "missing"]


def test_half_a_run_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    for index in (1, 3):
        make_run(tmp_path / Shard(index, 4).directory_name)
    with pytest.raises(JournalError, match="lacks shard-2-of-4, shard-4-of-4: copy them there"):
        find_runs(tmp_path)
    make_run(tmp_path / Shard(2, 2).directory_name)
    with pytest.raises(
        JournalError, match=r"holds shards of several runs \(of 2 and of 4 shards\): name those of one run"
    ):
        find_runs(tmp_path)


def generate_shards(out: Path, source: str, count: int, **settings: Any) -> list[RunProgress]:
    return [generate(source, out / shard.directory_name, shard=str(shard), **settings) for shard in make_shards(count)]


def read_release(run: Path) -> dict[str, bytes]:
    """Assemble a run, or the shards in a directory, and return the Parquet files."""
    out = run.parent / f"{run.name}-release"
    assemble(find_runs(run), out, version="1.0.0")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.parquet")}


@pytest.mark.parametrize("limit", [None, 7])
def test_shards_of_scenes_give_the_release_of_the_whole_byte_for_byte(tmp_path: Path, limit: int | None) -> None:
    whole = generate("scenes:12", tmp_path / "run", limit=limit, noise=0.3)
    parts = generate_shards(tmp_path / "shards", "scenes:12", 3, limit=limit, noise=0.3)
    assert sum(part.finished for part in parts) == whole.finished == (limit or 12)
    assert sum(part.sent for part in parts) == whole.sent
    assert read_release(tmp_path / "shards") == read_release(tmp_path / "run")


def test_a_picture_that_two_shards_meet_comes_into_the_release_once(few: Path, tmp_path: Path) -> None:
    directory = tmp_path / "pictures"
    shutil.copytree(few, directory)
    for number, file in enumerate(sorted(few.iterdir())):
        shutil.copy(file, directory / f"again-{number}{file.suffix}")
    with GeminiServer(accept_rate=0.7) as server:
        whole = generate(str(directory), tmp_path / "run", teacher_url=server.url)
        parts = generate_shards(tmp_path / "shards", str(directory), 2, teacher_url=server.url)
    assert sum(part.finished for part in parts) > whole.finished == 7
    assert read_release(tmp_path / "shards") == read_release(tmp_path / "run")


def test_a_shard_goes_on_as_itself_only(tmp_path: Path) -> None:
    generate("scenes:4", tmp_path / "run", shard="1/2")
    assert generate("scenes:4", tmp_path / "run", shard="1/2").sent == 0
    with pytest.raises(SettingsMismatchError, match="shard was '1/2', now '2/2'"):
        generate("scenes:4", tmp_path / "run", shard="2/2")
