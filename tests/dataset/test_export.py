"""Releases in other people's formats, read back by the code that people read them with."""

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
from tests.hub.clients import told

from .samples import contents, picture, row, rows

FORMATS = ("finevision", "llava", "messages")
TEXT = Row(
    id=f"{10**6:032x}", messages=(Message("user", "Hello?"), Message("assistant", "Hello.")), source="instruction"
)


def released(folder: Path) -> Path:
    """61 compositional rows in both splits, two more about pictures that are there already, and one without any."""
    again = [replace(row(number), id=f"{10**5 + number:032x}") for number in (0, 1)]
    other = replace(row(61, data=picture(61)), id=f"{61:032x}")
    write_dataset([*rows(61), *again, other, TEXT], folder, version="1.0.0")
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released(tmp_path_factory.mktemp("release") / "release")


def rows_of(release: Path, config: str = "all") -> dict[str, list[dict[str, Any]]]:
    """Split -> the release's rows, pictures as bytes."""
    from datasets import Image, List, load_dataset

    loaded = load_dataset(str(release), config).cast_column("images", List(Image(decode=False)))
    return {split: list(of_split) for split, of_split in loaded.items()}


def test_llava_json_comes_back_as_the_same_messages_and_the_same_bytes(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "llava"
    counts = export(release, out, format="llava")
    for split, expected in rows_of(release).items():
        items = json.loads((out / f"{split}.json").read_text())
        assert counts[split] == len(expected) == len(items)
        back = {
            found.messages: found.read_image() if found.read_image else None
            for found in sample_instruction_rows(out / f"{split}.json", image_root=out, seed=0, fraction=1)
            if isinstance(found, Row)
        }
        for of_release in expected:
            messages = tuple(Message(each["role"], each["content"]) for each in of_release["messages"])
            assert back[messages] == (of_release["images"][0]["bytes"] if of_release["images"] else None)


def test_a_release_of_an_export_has_its_messages_and_pictures(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "llava"
    export(release, out, format="llava", split="train")
    again = sample_instruction_rows(out / "train.json", image_root=out, seed=0, fraction=1)
    write_dataset(again, tmp_path / "again", version="1.0.0")

    def told_by(of: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
        return sorted((json.dumps(each["messages"]), [image["bytes"] for image in each["images"]]) for each in of)

    assert told_by(rows_of(tmp_path / "again")["train"]) == told_by(rows_of(release)["train"])


def test_llava_json_is_what_llavas_code_reads(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "llava"
    export(release, out, format="llava")
    items = [item for name in ("train.json", "validation.json") for item in json.loads((out / name).read_text())]
    about_pictures = [item for item in items if "image" in item]
    assert len(items) - len(about_pictures) == 1
    for item in about_pictures:
        first, *others = item["conversations"]
        assert first["from"] == "human"
        assert first["value"].startswith("<image>\n")
        assert not any("<image>" in turn["value"] for turn in others)
        assert (out / item["image"]).is_file()
    endings = {Path(item["image"]).suffix for item in about_pictures}
    assert endings == {".png", ".jpg"}
    files = list((out / "images").iterdir())
    assert len(files) == 62 < len(about_pictures), "a picture of several rows was written several times"


def test_llava_json_is_described_for_llama_factory(release: Path, tmp_path: Path) -> None:
    """It loads the file with `datasets`, row by row takes the columns that dataset_info.json names, and looks for the
    picture in `media_dir`; a row has as many `<image>` as pictures."""
    from datasets import load_dataset

    out = tmp_path / "llava"
    counts = export(release, out, format="llava")
    described = json.loads((out / "dataset_info.json").read_text())
    assert described.keys() == {"compact_train", "compact_validation"}
    for of_split in described.values():
        assert of_split["formatting"] == "sharegpt"
        loaded = load_dataset("json", data_files=str(out / of_split["file_name"]), cache_dir=str(tmp_path / "cache"))
        assert len(loaded["train"]) == counts[Path(of_split["file_name"]).stem]
        for found in loaded["train"]:
            messages, image = (found[of_split["columns"][name]] for name in ("messages", "images"))
            assert [message["from"] for message in messages] == ["human", "gpt"] * (len(messages) // 2)
            assert sum(message["value"].count("<image>") for message in messages) == (image is not None)
            assert image is None or (out / image).is_file()


def test_messages_load_as_trl_takes_them(release: Path, tmp_path: Path) -> None:
    from datasets import Image, List, load_dataset

    export(release, tmp_path / "out", format="messages")
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].features["images"] == List(Image())
    loaded = loaded.cast_column("images", List(Image(decode=False)))
    for split, expected in rows_of(release).items():
        assert loaded[split]["id"] == [each["id"] for each in expected]
        assert loaded[split]["messages"] == [each["messages"] for each in expected]
        for found, of_release in zip(loaded[split], expected, strict=True):
            data = [image["bytes"] or Path(image["path"]).read_bytes() for image in found["images"]]
            assert data == [image["bytes"] for image in of_release["images"]]


def test_finevision_has_its_columns_and_the_lowest_confidence(release: Path, tmp_path: Path) -> None:
    from datasets import Image, List, load_dataset

    export(release, tmp_path / "out", format="finevision", config="k2")
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].column_names == ["images", "texts", "source", "confidence_ratings", "confidence_min"]
    loaded = loaded.cast_column("images", List(Image(decode=False)))
    for split, expected in rows_of(release, "k2").items():
        for found, of_release in zip(loaded[split], expected, strict=True):
            said = [text for pair in found["texts"] for text in (pair["user"], pair["assistant"])]
            assert said == [message["content"] for message in of_release["messages"]]
            assert found["images"][0]["bytes"] == of_release["images"][0]["bytes"]
            assert found["source"] == "compact"
            assert (found["confidence_ratings"], found["confidence_min"]) == ([90, 90], 90)


def test_the_confidence_of_a_finevision_row_is_that_of_its_least_confident_turn(tmp_path: Path) -> None:
    from datasets import load_dataset

    first, second = row(0).turns
    write_dataset(
        [replace(row(0), turns=(replace(first, confidence=95), replace(second, confidence=71)))],
        tmp_path / "in",
        version="1.0.0",
    )
    export(tmp_path / "in", tmp_path / "out", format="finevision", config="k1")
    (found,) = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    assert (found["confidence_ratings"], found["confidence_min"]) == ([95, 71], 71)


def test_rows_of_text_have_no_confidence(release: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    export(release, tmp_path / "out", format="finevision", config="instruction")
    (found,) = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert (found["images"], found["confidence_ratings"], found["confidence_min"]) == ([], [], None)


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_comes_back_by_our_own_readers(format: str, release: Path, tmp_path: Path) -> None:
    """What `compact annotate` and `augment` read of it are the release's own questions about the same pictures."""

    def asked(pictures: VqaSource) -> dict[str, list[Any]]:
        found = {}
        for ref in pictures.refs():
            if rows := pictures.read_rows(ref):
                found[compute_image_id(pictures.read(ref))] = sorted(
                    astuple(each) for row in rows for each in row.exchanges
                )
        return found

    out = tmp_path / "out"
    export(release, out, format=format, split="train")
    back = (
        open_dataset_source(str(out / "train.json"))
        if format == "llava"
        else open_dataset_source(str(out), split="train")
    )
    expected = asked(open_dataset_source(str(release), split="train"))
    assert len(expected) > 50
    assert asked(back) == expected


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
        ({"format": "coco"}, "there are finevision, llava, messages"),
        ({"config": "k7"}, "it has all, compositional, instruction, with_images, k1, k2, k3"),
        ({"split": "test"}, "train and validation"),
        ({"config": "instruction", "split": "validation"}, "has no rows in validation"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    wrong: dict[str, str], said: str, release: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        export(release, tmp_path / "out", **{"format": "llava"} | wrong)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_release_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        export(tmp_path / "nothing", tmp_path / "out", format="llava")
    with pytest.raises(ReleaseError, match="no data files of a release"):
        export(tmp_path, tmp_path / "out", format="llava")


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def many(count: int) -> Iterator[Row]:
        data = picture(0)
        for number in range(count):
            messages = (Message("user", f"{number} {'word ' * 200}?"), Message("assistant", "yes"))
            yield replace(row(0, data=data), id=f"{number:032x}", messages=messages, turns=())

    peaks = []
    for count in (500, 4_000):
        write_dataset(many(count), tmp_path / str(count), version="1.0.0")
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
    assert capsys.readouterr().out.split() == ["split", "rows", "train", str(len(rows_of(release, "k1")["train"]))]


OF_HUB = """
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
        seen = told(hub, OF_HUB, release, tmp_path / "hub", home=tmp_path / "home")
    export(release, tmp_path / "here", format="llava", config="k3")
    assert contents(tmp_path / "hub") == contents(tmp_path / "here")
    assert seen[0] == {split: len(of_split) for split, of_split in rows_of(release, "k3").items()}
    assert all("for this token" in refusal for refusal in seen[1:])
    fetched = {path.parent.name for path in (tmp_path / "home").rglob("snapshots/*/data/*/*.parquet")}
    assert fetched == {"k3"}
