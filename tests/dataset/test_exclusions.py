"""Tests what is excluded from a release: takedowns, images of benchmarks, and copies of validation images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compact_hf.cli.main import main
from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.card import read_header
from compact_hf.dataset.exclusions import Exclusions, RowFilter, read_excluded_images, read_ids
from compact_hf.dataset.image_similarity import FingerprintCache, find_similar_images
from compact_hf.dataset.schema import get_split
from compact_hf.dataset.validate import validate
from compact_hf.dataset.writer import write_dataset
from compact_hf.errors import UsageError
from compact_hf.methods.assembly import AssemblyOptions, iter_rows
from compact_hf.methods.generate import generate
from compact_hf.records import Reject, Row

from .samples import contents, make_image, make_item, make_row

SIMILAR_REASON = "picture is like one in the validation split"
EXCLUDED_REASON = "picture of an excluded data set"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run over drawn scenes."""
    run = tmp_path_factory.mktemp("hygiene") / "run"
    generate("scenes:60", run)
    return run


@pytest.fixture(scope="module")
def rows(run: Path) -> list[Row]:
    return [row for row in iter_rows([run], AssemblyOptions(max_similarity=1)) if isinstance(row, Row)]


def encode_half_size(row: Row, *, quality: int = 60) -> bytes:
    """Return the row's image at half its size, as a JPEG."""
    assert row.read_images
    out = BytesIO()
    with Image.open(BytesIO(row.read_images[0]())) as image:
        image.convert("RGB").resize((image.width // 2, image.height // 2)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def read_image_ids(release: Path) -> set[str]:
    from datasets import load_dataset

    return {image_id for split in load_dataset(str(release)).values() for image_id in split["image_id"] if image_id}


def test_ids_of_rows_and_pictures_stay_out_and_the_others_are_told(run: Path, rows: list[Row], tmp_path: Path) -> None:
    excluded_by_image, excluded_by_id = rows[0], rows[1]
    file = tmp_path / "takedowns.txt"
    file.write_text(
        f"# asked for on 3 May\n{str(excluded_by_image.image_id).upper()}  # her portrait\n"
        f"\n{excluded_by_id.id}\nabc\nabc\n"
    )
    notes: list[str] = []
    stats = assemble(run, tmp_path / "out", version="1.0.0", max_similarity=1, exclude_ids=file, on_note=notes.append)
    assert stats.rejects["assembly", "excluded by id"] == 2
    assert read_image_ids(tmp_path / "out") == {str(row.image_id) for row in rows[2:]}
    assert notes == ["excluded id abc matches no row or image"]
    assert "excluded by id" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"# nothing\n\n", "contains no ids"), (b"\xff\xfe\xff", "is not UTF-8"), (None, "cannot be read")],
)
def test_a_file_without_ids_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_ids(file)


def test_pictures_of_a_benchmark_stay_out_of_both_parts(run: Path, rows: list[Row], tmp_path: Path) -> None:
    benchmark, pool = tmp_path / "benchmark", tmp_path / "pool"
    for directory in (benchmark, pool):
        directory.mkdir()
    assert rows[0].read_images
    (benchmark / "same.png").write_bytes(rows[0].read_images[0]())
    (benchmark / "again.jpg").write_bytes(encode_half_size(rows[1]))
    (benchmark / "broken.jpg").write_bytes(b"no picture")
    (pool / "other.jpg").write_bytes(encode_half_size(rows[1], quality=90))
    (pool / "mine.jpg").write_bytes(encode_half_size(rows[2]))
    instruction = tmp_path / "llava.json"
    instruction.write_text(json.dumps([make_item(1, image="other.jpg"), make_item(2, image="mine.jpg"), make_item(3)]))
    stats = assemble(
        run,
        tmp_path / "out",
        version="1.0.0",
        max_similarity=1,
        instruction=instruction,
        image_root=pool,
        instruction_rows=3,
        exclude_images_of=benchmark,
    )
    assert stats.rejects["assembly", EXCLUDED_REASON] == 3
    assert (stats.rows("instruction"), stats.rows("instruction_text")) == (1, 1)
    assert read_image_ids(tmp_path / "out") >= {str(row.image_id) for row in rows[2:]}
    assert not read_image_ids(tmp_path / "out") & {str(row.image_id) for row in rows[:2]}


def test_a_release_is_a_benchmark_too(run: Path, rows: list[Row], tmp_path: Path) -> None:
    write_dataset(rows[:5], tmp_path / "benchmark", sources=("compact",), version="1.0.0")
    stats = assemble(
        run, tmp_path / "out", version="1.0.0", max_similarity=1, exclude_images_of=[str(tmp_path / "benchmark")]
    )
    assert stats.rejects["assembly", EXCLUDED_REASON] == 5
    assert stats.rows() == len(rows) - 5


def test_what_is_no_data_set_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        assemble(run, tmp_path / "out", version="1.0.0", exclude_images_of=[str(tmp_path / "nothing")])


def make_row_filter(distance: int | None, *datasets: str) -> RowFilter:
    return RowFilter(
        Exclusions(frozenset(), read_excluded_images(datasets) if datasets else None),
        FingerprintCache(),
        distance=distance,
    )


def filter_rows(rows: Sequence[Row | Reject], distance: int) -> list[Row | Reject]:
    row_filter = make_row_filter(distance)
    row_filter.compare_images(lambda: iter(rows))
    return list(row_filter.apply(rows))


def make_validation_copies(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return a training row with a compressed copy of the image of each validation row, and the validation rows."""
    validation_rows = [row for row in rows if get_split("compact", row.image_id) == "validation"]
    training_copies = []
    for number, original in enumerate(validation_rows):
        attempts = (
            make_row(500 + number, data=encode_half_size(original, quality=quality)) for quality in range(60, 90)
        )
        training_copies.append(next(row for row in attempts if get_split("compact", row.image_id) == "train"))
    return validation_rows, training_copies


def test_training_loses_the_copies_of_validation_pictures(rows: list[Row]) -> None:
    validation_rows, training_copies = make_validation_copies(rows)
    assert validation_rows, "no scene is for validation: take more"
    results = filter_rows([*rows, *training_copies], 6)
    rejects = [result for result in results if isinstance(result, Reject)]
    assert {result.subject for result in rejects} == {result.id for result in training_copies}
    assert {(result.stage, result.reason) for result in rejects} == {("assembly", SIMILAR_REASON)}
    assert [result for result in results if isinstance(result, Row)] == rows


def test_what_stays_does_not_depend_on_the_order(rows: list[Row]) -> None:
    everything = [*rows, *make_validation_copies(rows)[1]]
    forward, backward = filter_rows(everything, 6), filter_rows(everything[::-1], 6)
    assert {result.id for result in forward if isinstance(result, Row)} == {
        result.id for result in backward if isinstance(result, Row)
    }


def test_an_instruction_picture_like_one_in_validation_is_not_trained_on(
    run: Path, rows: list[Row], tmp_path: Path
) -> None:
    validation_row = next(row for row in rows if get_split("compact", row.image_id) == "validation")
    (tmp_path / "copy.jpg").write_bytes(encode_half_size(validation_row))
    (tmp_path / "llava.json").write_text(json.dumps([make_item(1, image="copy.jpg")]))
    common: dict[str, Any] = {
        "version": "1.0.0",
        "max_similarity": 1,
        "instruction": tmp_path / "llava.json",
        "instruction_rows": 1,
    }
    ungrouped = assemble(run, tmp_path / "without", **common)
    grouped = assemble(run, tmp_path / "grouped", **common, group_similar=6)
    again = assemble(run, tmp_path / "again", **common, group_similar=6)
    assert (ungrouped.rows("instruction"), grouped.rows("instruction")) == (1, 0)
    assert grouped.rejects["instruction", SIMILAR_REASON] == 1
    assert grouped == again
    assert contents(tmp_path / "grouped") == contents(tmp_path / "again")
    assert validate(tmp_path / "grouped").counts == {}


def test_grouping_keeps_instruction_rows_without_an_image_and_those_with_an_unrelated_image(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain.jpg").write_bytes(make_image(1))
    Image.frombytes("RGB", (64, 64), Random(0).randbytes(64 * 64 * 3)).save(tmp_path / "noise.png")
    items = [make_item(1), make_item(2), make_item(3, image="plain.jpg"), make_item(4, image="noise.png")]
    (tmp_path / "llava.json").write_text(json.dumps(items))
    stats = assemble(
        run,
        tmp_path / "out",
        version="1.0.0",
        max_similarity=1,
        instruction=tmp_path / "llava.json",
        instruction_rows=4,
        group_similar=6,
    )
    assert (stats.rows("instruction"), stats.rows("instruction_text")) == (2, 2)
    assert not [reason for stage, reason in stats.rejects if stage == "instruction"]


@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=40, unique=True), st.integers(0, 10))
def test_no_picture_for_training_is_within_the_distance_of_one_for_validation(seeds: list[int], distance: int) -> None:
    """Hashes with few bits, so that many are similar, and ids whose last digits determine the split."""
    hashes = {f"{seed:032x}": (seed % 97) << 3 for seed in seeds}
    similar_images = find_similar_images(hashes, distance)
    if similar_images.ignored_sizes:
        return
    remaining = {image_id: hash for image_id, hash in hashes.items() if image_id not in similar_images.excluded_ids}
    for image_id, hash in remaining.items():
        for other_id, other_hash in remaining.items():
            if get_split("compact", image_id) != get_split("compact", other_id):
                assert (hash ^ other_hash).bit_count() > distance
    assert all(get_split("compact", image_id) == "train" for image_id in similar_images.excluded_ids)


def test_a_group_of_many_is_told_and_stays() -> None:
    hashes: dict[str, int | None] = {f"{number:032x}": 7 for number in range(30)}
    hashes |= {f"{number:032x}": number << 40 for number in range(2**20, 2**20 + 100)}
    similar_images = find_similar_images(hashes, 0)
    assert similar_images.ignored_sizes == (30,)
    assert not similar_images.excluded_ids
    row_filter = RowFilter(Exclusions(frozenset(), None), FingerprintCache(), distance=0)
    row_filter._similar_images = similar_images
    (note,) = row_filter.notes()
    assert "kept in both splits: 1 group of similar images, each with more than 1% of all images" in note
    assert "(30 images)" in note


def test_a_distance_out_of_range_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for distance in (-1, 11):
        with pytest.raises(UsageError, match="use 0 to 10"):
            assemble(tmp_path / "no run", tmp_path / "out", version="1.0.0", group_similar=distance)


def test_the_command_takes_each_option_and_says_what_matched_nothing(
    run: Path, rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, entry in (("one", rows[0]), ("two", rows[1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "again.jpg").write_bytes(encode_half_size(entry))
    (tmp_path / "ids.txt").write_text(f"{rows[2].image_id}\n{'0' * 32}\n")
    options = ["--exclude-images-of", tmp_path / "one", "--exclude-images-of", tmp_path / "two"]
    options += ["--exclude-ids", tmp_path / "ids.txt", "--group-similar", "6", "--image-license", "cc-by-4.0"]
    options += ["--license", "cc-by-4.0", "--keep-similar", "--out", tmp_path / "out", "--version", "1.0.0"]
    assert main(["assemble", str(run), *map(str, options)]) == 0
    output = capsys.readouterr()
    words = [line.split() for line in output.out.splitlines()]
    counts = {" ".join(entry[1:-3]): tuple(entry[-3:-1]) for entry in words if entry and entry[0] == "assembly"}
    assert counts == {"excluded by id": ("1", "1"), EXCLUDED_REASON: ("2", "2")}  # rejects, and their rows
    assert f"excluded id {'0' * 32} matches no row or image" in output.err
    assert read_header(tmp_path / "out")["license"] == "cc-by-4.0"
