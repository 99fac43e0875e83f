"""The formats of an export: in go records of a release, out come a format's files in a folder.

    llava        train.json, a JSON list as LLaVA's and LLaMA-Factory's code read it, images/, and dataset_info.json, by
                 which LLaMA-Factory finds it: `dataset_dir: FOLDER`, `media_dir: FOLDER`, `dataset: compact_train`
    finevision   data/CONFIG/train-*.parquet: `images`, `texts`, `source`, and the teacher's confidence
    messages     train/metadata.jsonl and train/images/, which `load_dataset` reads as TRL takes it

and the same for `validation`. A picture is written once, with the bytes that the release has, under their hash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from compact_hf.dataset.parquet import ParquetFolder
from compact_hf.errors import ReleaseError
from compact_hf.images.codec import PictureError, stripped
from compact_hf.images.conversations import IMAGE_MARK
from compact_hf.images.inspection import image_id_of

Records = Iterable[dict[str, Any]]

_IMAGES: Final = "images"
_ENDINGS: Final = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}
_SPEAKERS: Final = {"user": "human", "assistant": "gpt"}


def write_llava(records: Records, folder: Path, *, config: str, split: str) -> int:  # noqa: ARG001 (one signature)
    """Write `SPLIT.json` and return its rows: a list of `{id, image, conversations: [{from, value}]}`.

    The first human turn starts with `<image>`; rows without a picture have no `image`.

    Raises:
        ReleaseError: a row holds no picture where it says one, or several, which the format has no place for.
    """
    count = 0
    with (folder / f"{split}.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for count, record in enumerate(records, 1):
            names = _written_pictures(record, folder)
            if len(names) > 1:
                raise ReleaseError(f"row {record['id']} has {len(names)} pictures; LLaVA's format holds one")
            mark = f"{IMAGE_MARK}\n" if names else ""
            turns = [
                {"from": _SPEAKERS[message["role"]], "value": f"{'' if at else mark}{message['content']}"}
                for at, message in enumerate(record["messages"])
            ]
            item = {"id": record["id"], **({"image": names[0]} if names else {}), "conversations": turns}
            file.write(f"{',' if count > 1 else ''}\n{json.dumps(item, ensure_ascii=False)}")
        file.write("\n]\n")
    _describe(folder, split)
    return count


def write_messages(records: Records, folder: Path, *, config: str, split: str) -> int:  # noqa: ARG001
    """Write `SPLIT/metadata.jsonl` and return its rows: `{id, images_file_names, messages}` in each line.

    That is the name by which `load_dataset(folder)` makes a column `images` of the files.

    Raises:
        ReleaseError: a row holds something other than a picture.
    """
    count = 0
    (folder / split).mkdir()
    with (folder / split / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for record in records:
            count += 1
            names = _written_pictures(record, folder / split)
            line = {"id": record["id"], "images_file_names": names, "messages": record["messages"]}
            file.write(f"{json.dumps(line, ensure_ascii=False)}\n")
    return count


def write_finevision(records: Records, folder: Path, *, config: str, split: str) -> int:
    """Write `data/CONFIG/SPLIT-*.parquet` and return the rows: `{images, texts: [{user, assistant}], source}`.

    FineVision's own ratings (relevance, formatting, image correspondence, visual dependency, 1 to 5) were given by
    judges that a release has not asked, so they are left out. What is known stands beside, in the same manner and under
    a name of its own: `confidence_ratings`, the teacher's confidence in per cent for each turn, and `confidence_min`,
    the lowest; empty and null for instruction rows.
    """
    from datasets import Features, Image, List, Value

    text, number = Value("string"), Value("int64")
    columns = Features(
        {
            "images": List(Image()),
            "texts": List({"user": text, "assistant": text}),
            "source": text,
            "confidence_ratings": List(number),
            "confidence_min": number,
        }
    )
    with ParquetFolder(folder, columns) as files:
        for record in records:
            said = [message["content"] for message in record["messages"]]
            confidences = [turn["confidence"] for turn in record["turns"]]
            rated = {
                "images": record["images"],
                "texts": [{"user": user, "assistant": told} for user, told in zip(said[::2], said[1::2], strict=True)],
                "source": record["source"],
                "confidence_ratings": confidences,
                "confidence_min": min(confidences, default=None),
            }
            files.add(config, split, rated)
        return sum(written.rows for written in files.close().values())


FORMATS: Final[dict[str, Callable[..., int]]] = {
    "finevision": write_finevision,
    "llava": write_llava,
    "messages": write_messages,
}
"""Format -> what writes a split of it."""


def _describe(folder: Path, split: str) -> None:
    """Tell LLaMA-Factory of a split; what it takes for granted of `sharegpt` are LLaVA's own names of speakers."""
    file = folder / "dataset_info.json"
    described = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    described[f"compact_{split}"] = {
        "file_name": f"{split}.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "image"},
    }
    file.write_text(f"{json.dumps(described, indent=2)}\n", encoding="utf-8")


def _written_pictures(record: dict[str, Any], folder: Path) -> list[str]:
    """Return the pictures' paths inside `folder`, where they lie now."""
    names = []
    for image in record["images"]:
        # The name comes of the bytes: somebody else's release may name any path in its columns.
        data = image["bytes"] or b""
        try:
            ending = _ENDINGS[stripped(data).format]
        except PictureError as error:
            raise ReleaseError(f"the picture of row {record['id']} cannot be used ({error})") from error
        name = f"{_IMAGES}/{image_id_of(data)}.{ending}"
        path = folder / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        names.append(name)
    return names
