"""Tests that exports can be read by the code for which each format is made."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest

from compact_hf.cli.main import main
from compact_hf.dataset.export import export
from compact_hf.dataset.instruction import sample_instruction_rows
from compact_hf.dataset.writer import write_dataset
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.images.inspection import compute_image_id
from compact_hf.images.questions import VqaSource
from compact_hf.records import Message, Row
from compact_hf.runs.sources import open_dataset_source
from tests.doubles.hub.server import HubServer
from tests.hub.clients import run_source

from .samples import contents, make_image, make_row, make_rows

FORMATS = ("finevision", "llava", "messages")
TEXT_ROW = Row(
    id=f"{10**6:032x}", messages=(Message("user", "Hello?"), Message("assistant", "Hello.")), source="instruction"
)


def write_release(directory: Path) -> Path:
    """Write 61 rows in both splits, two more about images of these, one with a JPEG, and one without an image."""
    repeated = [replace(make_row(number), id=f"{10**5 + number:032x}") for number in (0, 1)]
    jpeg_row = replace(make_row(61, data=make_image(61)), id=f"{61:032x}")
    write_dataset([*make_rows(61), *repeated, jpeg_row, TEXT_ROW], directory, sources=("compact",), version="1.0.0")
    return directory


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release") / "release")


def read_rows(release: Path, config: str = "all") -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the release by split, with images as bytes."""
    from datasets import Image, List, load_dataset

    dataset = load_dataset(str(release), config).cast_column("images", List(Image(decode=False)))
    return {split: list(split_rows) for split, split_rows in dataset.items()}


def test_llava_json_comes_back_as_the_same_messages_and_the_same_bytes(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "llava"
    counts = export(release, out, format="llava")
    for split, expected in read_rows(release).items():
        items = json.loads((out / f"{split}.json").read_text())
        assert counts[split] == len(expected) == len(items)
        exported = {
            row.messages: row.read_images[0]() if row.read_images else None
            for row in sample_instruction_rows(out / f"{split}.json", image_root=out, seed=0, fraction=1)
            if isinstance(row, Row)
        }
        for expected_row in expected:
            messages = tuple(Message(message["role"], message["content"]) for message in expected_row["messages"])
            assert exported[messages] == (expected_row["images"][0]["bytes"] if expected_row["images"] else None)


def test_a_release_of_an_export_has_its_messages_and_pictures(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "llava"
    export(release, out, format="llava", split="train")
    exported = sample_instruction_rows(out / "train.json", image_root=out, seed=0, fraction=1)
    write_dataset(exported, tmp_path / "again", sources=("compact",), version="1.0.0")

    def sort_content(rows: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
        return sorted((json.dumps(row["messages"]), [image["bytes"] for image in row["images"]]) for row in rows)

    assert sort_content(read_rows(tmp_path / "again")["train"]) == sort_content(read_rows(release)["train"])


def test_llava_json_is_what_llavas_code_reads(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "llava"
    export(release, out, format="llava")
    items = [item for name in ("train.json", "validation.json") for item in json.loads((out / name).read_text())]
    image_items = [item for item in items if "image" in item]
    assert len(items) - len(image_items) == 1
    for item in image_items:
        first, *later_turns = item["conversations"]
        assert first["from"] == "human"
        assert first["value"].startswith("<image>\n")
        assert not any("<image>" in turn["value"] for turn in later_turns)
        assert (out / item["image"]).is_file()
    suffixes = {Path(item["image"]).suffix for item in image_items}
    assert suffixes == {".png", ".jpg"}
    files = list((out / "images").iterdir())
    assert len(files) == 62 < len(image_items), "an image of several rows was written several times"


def test_llava_json_is_described_for_llama_factory(release: Path, tmp_path: Path) -> None:
    """Reads the file as LLaMA-Factory does: load it with `datasets`, take the columns that dataset_info.json names, and
    look for the image in `media_dir`. The number of `<image>` placeholders in a row is the number of its images."""
    from datasets import load_dataset

    out = tmp_path / "llava"
    counts = export(release, out, format="llava")
    dataset_info = json.loads((out / "dataset_info.json").read_text())
    assert dataset_info.keys() == {"compact_train", "compact_validation"}
    for entry in dataset_info.values():
        assert entry["formatting"] == "sharegpt"
        dataset = load_dataset("json", data_files=str(out / entry["file_name"]), cache_dir=str(tmp_path / "cache"))
        assert len(dataset["train"]) == counts[Path(entry["file_name"]).stem]
        for row in dataset["train"]:
            messages, image = (row[entry["columns"][name]] for name in ("messages", "images"))
            assert [message["from"] for message in messages] == ["human", "gpt"] * (len(messages) // 2)
            assert sum(message["value"].count("<image>") for message in messages) == (image is not None)
            assert image is None or (out / image).is_file()


def test_messages_load_as_trl_takes_them(release: Path, tmp_path: Path) -> None:
    from datasets import Image, List, load_dataset

    export(release, tmp_path / "out", format="messages")
    dataset = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert dataset["train"].features["images"] == List(Image())
    dataset = dataset.cast_column("images", List(Image(decode=False)))
    for split, expected in read_rows(release).items():
        assert dataset[split]["id"] == [row["id"] for row in expected]
        assert dataset[split]["messages"] == [row["messages"] for row in expected]
        for exported_row, expected_row in zip(dataset[split], expected, strict=True):
            data = [image["bytes"] or Path(image["path"]).read_bytes() for image in exported_row["images"]]
            assert data == [image["bytes"] for image in expected_row["images"]]


def test_finevision_has_its_columns_and_the_lowest_confidence(release: Path, tmp_path: Path) -> None:
    from datasets import Image, List, load_dataset

    export(release, tmp_path / "out", format="finevision", config="k2")
    dataset = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert dataset["train"].column_names == ["images", "texts", "source", "confidence_ratings", "confidence_min"]
    dataset = dataset.cast_column("images", List(Image(decode=False)))
    for split, expected in read_rows(release, "k2").items():
        for exported_row, expected_row in zip(dataset[split], expected, strict=True):
            texts = [text for pair in exported_row["texts"] for text in (pair["user"], pair["assistant"])]
            assert texts == [message["content"] for message in expected_row["messages"]]
            assert exported_row["images"][0]["bytes"] == expected_row["images"][0]["bytes"]
            assert exported_row["source"] == "compact"
            assert (exported_row["confidence_ratings"], exported_row["confidence_min"]) == ([90, 90], 90)


def test_the_confidence_of_a_finevision_row_is_that_of_its_least_confident_turn(tmp_path: Path) -> None:
    from datasets import load_dataset

    first, second = make_row(0).turns
    write_dataset(
        [replace(make_row(0), turns=(replace(first, confidence=95), replace(second, confidence=71)))],
        tmp_path / "in",
        sources=("compact",),
        version="1.0.0",
    )
    export(tmp_path / "in", tmp_path / "out", format="finevision", config="k1")
    (exported_row,) = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    assert (exported_row["confidence_ratings"], exported_row["confidence_min"]) == ([95, 71], 71)


def test_rows_of_text_have_no_confidence(release: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    export(release, tmp_path / "out", format="finevision", config="instruction")
    (exported_row,) = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert (exported_row["images"], exported_row["confidence_ratings"], exported_row["confidence_min"]) == (
        [],
        [],
        None,
    )


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_comes_back_by_our_own_readers(format: str, release: Path, tmp_path: Path) -> None:
    """`compact annotate` and `augment` read the same questions about the same images from it as from the release."""

    def read_questions(source: VqaSource) -> dict[str, list[Any]]:
        questions = {}
        for ref in source.refs():
            if rows := source.read_rows(ref):
                questions[compute_image_id(source.read(ref))] = sorted(
                    astuple(exchange) for row in rows for exchange in row.exchanges
                )
        return questions

    out = tmp_path / "out"
    export(release, out, format=format, split="train")
    exported = (
        open_dataset_source(str(out / "train.json"))
        if format == "llava"
        else open_dataset_source(str(out), split="train")
    )
    expected = read_questions(open_dataset_source(str(release), split="train"))
    assert len(expected) > 50
    assert read_questions(exported) == expected


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_release_gives_the_same_files(format: str, release: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(release, tmp_path / name, format=format)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("format", FORMATS)
def test_a_broken_export_leaves_nothing(format: str, release: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name, data in contents(release).items():
        (broken / name).parent.mkdir(parents=True, exist_ok=True)
        (broken / name).write_bytes(data)
    file = broken / "data" / "k3" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ReleaseError, match=r"k3/train-00000-of-00001\.parquet cannot be read"):
        export(broken, tmp_path / "out", format=format)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_folder_that_holds_something_is_left_alone(release: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ReleaseError, match="is not empty"):
        export(release, tmp_path, format="llava")
    assert contents(tmp_path) == {"mine.txt": b"mine"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"format": "coco"}, "choose one of finevision, llava, messages"),
        ({"config": "k7"}, "choose one of all, compositional, instruction, with_images, k1, k2, k3"),
        ({"split": "test"}, "choose train or validation"),
        ({"config": "instruction", "split": "validation"}, "has no validation rows"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    wrong: dict[str, str], said: str, release: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        export(release, tmp_path / "out", **{"format": "llava"} | wrong)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_release_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"directory .* does not exist"):
        export(tmp_path / "nothing", tmp_path / "out", format="llava")
    with pytest.raises(ReleaseError, match="no data files of a dataset release"):
        export(tmp_path, tmp_path / "out", format="llava")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def iter_long_rows(count: int) -> Iterator[Row]:
        data = make_image(0)
        for number in range(count):
            messages = (Message("user", f"{number} {'word ' * 200}?"), Message("assistant", "yes"))
            yield replace(make_row(0, data=data), id=f"{number:032x}", messages=messages, turns=())

    peaks = []
    for count in (500, 4_000):
        write_dataset(iter_long_rows(count), tmp_path / str(count), sources=("compact",), version="1.0.0")
        tracemalloc.start()
        export(tmp_path / str(count), tmp_path / f"out{count}", format="llava")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_the_command_tells_the_rows_of_each_split(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["export", str(release), "--format", "llava", "--config", "k1", "--split", "train", "--out", out]) == 0
    assert capsys.readouterr().out.split() == ["split", "rows", "train", str(len(read_rows(release, "k1")["train"]))]


EXPORT_SOURCE = """
import sys
from compact_hf.errors import CompactError
from compact_hf.dataset.export import export
from compact_hf.dataset.publish import publish

release, out = sys.argv[1:]
publish(release, "org/compact")
told = [export("org/compact@v1.0.0", out, format="llava", config="k3")]
for wrong in ("org/nothing", "org/compact@v9.9.9"):
    try:
        export(wrong, f"{out}-wrong", format="llava")
    except CompactError as error:
        told.append(str(error))
"""


def test_of_a_repository_only_the_configs_files_are_fetched(release: Path, tmp_path: Path) -> None:
    with HubServer() as hub:
        results = run_source(hub, EXPORT_SOURCE, release, tmp_path / "hub", home=tmp_path / "home")
    export(release, tmp_path / "here", format="llava", config="k3")
    assert contents(tmp_path / "hub") == contents(tmp_path / "here")
    assert results[0] == {split: len(split_rows) for split, split_rows in read_rows(release, "k3").items()}
    assert all("was not found on the Hub" in refusal for refusal in results[1:])
    fetched_subsets = {path.parent.name for path in (tmp_path / "home").rglob("snapshots/*/data/*/*.parquet")}
    assert fetched_subsets == {"k3"}
