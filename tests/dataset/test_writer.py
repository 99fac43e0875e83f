"""Tests writing a release and reading it with `datasets`."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from compact_hf.dataset import writer
from compact_hf.dataset.validate import validate
from compact_hf.dataset.writer import write_dataset
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.records import Message, Reject, Row
from tests import preforked

from .samples import contents, make_image, make_row, make_rows

INSTRUCTION = [
    Row(id="a" * 32, messages=(Message("user", "Hi"), Message("assistant", "Hello")), source="instruction"),
    replace(
        make_row(5000), id="b" * 32, source="instruction", k=None, turns=(), capabilities=(), teacher=None,
        verifier=None, preset_version=None,
    ),
]  # fmt: skip


@contextmanager
def capture_warnings() -> Iterator[list[str]]:
    """Collect the warnings that `datasets` and the Hub's client log; Python warnings are errors in every test."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield messages
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def load(path: Path, *config: str, cache: Path, **options: Any) -> Any:
    from datasets import load_dataset

    return load_dataset(str(path), *config, cache_dir=str(cache), **options)


def test_load_dataset_reads_every_config_without_a_warning(tmp_path: Path) -> None:
    stats = write_dataset([*make_rows(120), *INSTRUCTION], tmp_path / "out", sources=("compact",), version="1.0.0")
    with capture_warnings() as messages:
        for name, subsets in stats.configs.items():
            config = [] if name == "all" else [name]
            data = load(tmp_path / "out", *config, cache=tmp_path / "cache")
            stream = load(tmp_path / "out", *config, cache=tmp_path / "cache", streaming=True)
            assert data.keys() == stream.keys()
            for split, part in data.items():
                assert part.num_rows == stats.rows(*subsets, split=split)
                assert [row["id"] for row in stream[split]] == part["id"][:]
            assert str(data["train"].info.version) == "1.0.0"
    assert messages == []


def test_a_warning_of_datasets_would_be_noticed(tmp_path: Path) -> None:
    write_dataset(make_rows(1), tmp_path / "out", sources=("compact",), version="1.0.0")
    card = tmp_path / "out" / "README.md"
    card.write_text(card.read_text().replace("default: true", "default: true\n  unheard_of: 1"))
    with capture_warnings() as messages:
        load(tmp_path / "out", cache=tmp_path / "cache")
    assert any("unheard_of" in line for line in messages)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    from datasets import Image as ImageFeature
    from datasets import List

    write_dataset([*make_rows(30), *INSTRUCTION], tmp_path / "out", sources=("compact",), version="1.0.0")
    data = load(tmp_path / "out", cache=tmp_path / "cache")
    assert data["train"].features["images"] == List(ImageFeature())
    row_by_id = {row["id"]: row for row in chain(*data.values())}
    assert len(row_by_id) == 32
    for expected in [*make_rows(30), *INSTRUCTION]:
        row = row_by_id[expected.id]
        assert row["messages"] == [{"role": m.role, "content": m.content} for m in expected.messages]
        own_columns = {"k": None, "capabilities": [], "turns": []} | expected.own_columns()
        assert {name: row[name] for name in own_columns} == own_columns
        for name in ("source", "image_id", "image_source", "image_license", "teacher", "preset_version"):
            assert row[name] == getattr(expected, name)
        assert len(row["images"]) == len(expected.read_images)
    image = row_by_id[f"{3:032x}"]["images"][0]
    assert isinstance(image, Image.Image)
    assert image.getpixel((0, 0)) == (3, 0, 77)


def test_metadata_is_dropped_and_orientation_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF orientation: rotated by 90 degrees
    exif[0x010E] = "a secret"
    data = make_image(1, exif=exif, comment=b"a secret")
    assert data.count(b"a secret") == 2
    write_dataset([make_row(1, data=data)], tmp_path / "out", sources=("compact",), version="1.0.0")
    assert not any(b"a secret" in content for content in contents(tmp_path / "out").values())
    (row,) = chain(*load(tmp_path / "out", cache=tmp_path / "cache").values())
    assert row["images"][0].size == (24, 32)


def test_the_same_rows_give_the_same_bytes_whatever_the_timing(tmp_path: Path) -> None:
    def delay_read(row: Row, seconds: float) -> Row:
        (read,) = row.read_images
        assert read is not None
        return replace(row, read_images=(lambda: (time.sleep(seconds), read())[1],))

    write_dataset(make_rows(250), tmp_path / "one", sources=("compact",), version="1.0.0")
    write_dataset(
        (delay_read(row, 0.003 * (index % 3)) for index, row in enumerate(make_rows(250))),
        tmp_path / "two",
        sources=("compact",),
        version="1.0.0",
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_row_groups_and_files_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(writer, "MAX_GROUP_ROWS", 10)
    monkeypatch.setattr(writer, "MAX_FILE_BYTES", 10_000)
    out = tmp_path / "out"
    stats = write_dataset((make_row(number) for number in range(95)), out, sources=("compact",), version="1.0.0")
    files = sorted((out / "data" / "k1").glob("train-*"))
    count = stats.sizes["k1", "train"].files
    assert [file.name for file in files] == [f"train-{index:05d}-of-{count:05d}.parquet" for index in range(count)]
    assert count > 3
    groups = [pq.ParquetFile(file).metadata.row_group(0).num_rows for file in files]
    assert max(groups) == 10
    ids = [row_id for file in files for row_id in pq.read_table(file)["id"].to_pylist()]
    assert ids == sorted(ids)
    assert validate(out).counts == {}


def test_a_row_group_ends_where_pictures_are_big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    size = len(make_image(1, file_format="PNG"))
    monkeypatch.setattr(writer, "MAX_GROUP_BYTES", 3 * size + 10)
    write_dataset((make_row(number) for number in range(9)), tmp_path / "out", sources=("compact",), version="1.0.0")
    (file,) = (tmp_path / "out" / "data" / "k1").glob("train-*")
    metadata = pq.ParquetFile(file).metadata
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [3, 3, 3]


def test_rejects_among_the_rows_are_counted_on_the_card(tmp_path: Path) -> None:
    reject = Reject("verification", "needs another k", "a question")
    stats = write_dataset([*make_rows(5), reject, reject], tmp_path / "out", sources=("compact",), version="1.0.0")
    assert stats.rejects == {("verification", "needs another k"): 2}
    assert "| verification | needs another k | 2 |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0-rc1", "01.0.0", ""])
def test_a_version_is_three_numbers(version: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="three numbers"):
        write_dataset(make_rows(1), tmp_path / "out", sources=("compact",), version=version)


def test_nothing_to_write_is_said_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="needs another k 1"):
        write_dataset(
            [Reject("verification", "needs another k", "a question")],
            tmp_path / "out",
            sources=("compact",),
            version="1.0.0",
        )
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_release_is_replaced(tmp_path: Path) -> None:
    write_dataset([*make_rows(20), *INSTRUCTION], tmp_path / "out", sources=("compact",), version="1.0.0")
    write_dataset(make_rows(5), tmp_path / "out", sources=("compact",), version="1.1.0")
    write_dataset(make_rows(5), tmp_path / "other", sources=("compact",), version="1.1.0")
    assert contents(tmp_path / "out") == contents(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_dataset(make_rows(1), tmp_path / "out", sources=("compact",), version="1.0.0")
    assert validate(tmp_path / "out").is_valid


@pytest.mark.parametrize("name", ["notes.txt", "data/k1/my.parquet", "README.md"])
def test_anything_else_is_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if name != "README.md":
        write_dataset(make_rows(5), out, sources=("compact",), version="1.0.0")
    out.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ReleaseError, match="contents other than an earlier release"):
        write_dataset(make_rows(1), out, sources=("compact",), version="1.0.0")
    assert contents(tmp_path) == before


def test_a_card_that_was_edited_by_hand_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(make_rows(5), out, sources=("compact",), version="1.0.0")
    with (out / "README.md").open("a") as card:
        card.write("Thanks to all annotators.\n")
    assert validate(out).is_valid
    before = contents(tmp_path)
    with pytest.raises(
        ReleaseError, match=r"README\.md was edited by hand and would be replaced: choose another --out"
    ):
        write_dataset(make_rows(9), out, sources=("compact",), version="1.1.0")
    assert contents(tmp_path) == before
    write_dataset(make_rows(9), tmp_path / "another", sources=("compact",), version="1.1.0")


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ReleaseError, match="not a directory"):
        write_dataset(make_rows(1), tmp_path / "out", sources=("compact",), version="1.0.0")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_picture_that_is_gone_or_changed_stops_the_release(tmp_path: Path) -> None:
    gone = replace(make_row(1), read_images=(lambda: (tmp_path / "gone.png").read_bytes(),))
    changed = replace(make_row(1), read_images=(lambda: make_image(2),))
    for broken, message in ((gone, "cannot be read any more"), (changed, "has changed")):
        with pytest.raises(ReleaseError, match=message):
            write_dataset([*make_rows(50), broken], tmp_path / "out", sources=("compact",), version="1.0.0")
    assert list(tmp_path.iterdir()) == []


CHILD = """
import os, resource, signal, sys
from pathlib import Path
from tests.dataset.samples import make_rows
from compact_hf.dataset.writer import write_dataset

def cut(at):
    for number, row in enumerate(make_rows(400)):
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield row

out, what = Path(sys.argv[1]), sys.argv[2]
if what == "kill":
    write_dataset(cut(350), out, sources=("compact",), version="2.0.0")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
write_dataset(make_rows(400), out, sources=("compact",), version="2.0.0")
"""


def run_child(out: Path, mode: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", CHILD, str(out), mode]
    return preforked.run(command, cwd=root, env=environment)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_kill_in_the_middle_leaves_what_was_there(earlier: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if earlier:
        write_dataset(make_rows(5), out, sources=("compact",), version="1.0.0")
    before = contents(out)
    process = run_child(out, "kill")
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert contents(out) == before
    assert out.exists() == earlier
    write_dataset(make_rows(400), out, sources=("compact",), version="2.0.0")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert validate(out).is_valid


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    out, old = tmp_path / "out", tmp_path / ".out.writing" / "old"
    write_dataset(make_rows(5), out, sources=("compact",), version="1.0.0")
    before = contents(out)
    old.parent.mkdir()
    (old.parent / "compact_hf.lock").touch()
    out.rename(old)  # what a kill leaves behind
    with pytest.raises(ReleaseError, match="no rows"):
        write_dataset([], out, sources=("compact",), version="2.0.0")
    assert contents(out) == before


def test_a_kill_after_the_two_renames_is_cleared_away(tmp_path: Path) -> None:
    out, old = tmp_path / "out", tmp_path / ".out.writing" / "old"
    write_dataset(make_rows(5), out, sources=("compact",), version="1.0.0")
    shutil.copytree(out, old)
    (old.parent / "compact_hf.lock").touch()
    write_dataset(make_rows(9), out, sources=("compact",), version="2.0.0")
    assert validate(out).is_valid
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_rename_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write_dataset(make_rows(5), out, sources=("compact",), version="1.0.0")
    before = contents(tmp_path)
    real_rename = Path.rename

    def fail_for_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError(13, "Permission denied")
        return real_rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(ReleaseError, match="Permission denied"):
        write_dataset(make_rows(9), out, sources=("compact",), version="2.0.0")
    assert contents(tmp_path) == before


def test_a_full_disk_is_one_clear_line_and_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(make_rows(5), out, sources=("compact",), version="1.0.0")
    before = contents(tmp_path)
    process = run_child(out, "full")
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("compact_hf.errors.ReleaseError: ")
    assert "cannot be written (" in last
    assert "File too large" in last
    assert contents(tmp_path) == before


def test_two_writers_of_one_release_do_not_mix(tmp_path: Path) -> None:
    def iter_rows_while_writing() -> Iterator[Row]:
        with pytest.raises(ReleaseError, match="being written by another process"):
            write_dataset(make_rows(1), tmp_path / "out", sources=("compact",), version="1.0.0")
        yield from make_rows(5)

    write_dataset(iter_rows_while_writing(), tmp_path / "out", sources=("compact",), version="1.0.0")
    assert validate(tmp_path / "out").is_valid
