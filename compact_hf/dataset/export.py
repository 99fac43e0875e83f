"""`compact export`: convert a dataset, a directory or on the Hub, to the format of another training code.

    compact export release --format llava --out llava

    llava        train.json, a JSON list as LLaVA's and LLaMA-Factory's code read it, images/, and dataset_info.json, by
                 which LLaMA-Factory finds it: `dataset_dir: FOLDER`, `media_dir: FOLDER`, `dataset: compact_train`
    finevision   data/CONFIG/train-*.parquet: `images`, `texts`, `source`, and the teacher's confidence
    messages     train/metadata.jsonl and train/images/, which `load_dataset` reads as TRL takes it

and the same for `validation`. An image is written once, with the bytes that the dataset has, under its hash. One row
group is in memory at a time; of a repository only the files that are needed are downloaded, at one commit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.dataset.schema import DEFAULT_CONFIG, SPLITS, configs, order_of, place_of
from compact_hf.dataset.writer import MAX_GROUP_ROWS, ParquetFolder
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.hub.download import listing, snapshot
from compact_hf.images.address import HUB, Address
from compact_hf.images.codec import PictureError, stripped
from compact_hf.images.conversations import IMAGE_MARK
from compact_hf.images.inspection import image_id_of
from compact_hf.storage import replace_directory

COLUMNS: Final = ("id", "images", "messages", "turns", "source")
"""What exports need of a row; only these columns are read."""


@dataclass(frozen=True, slots=True)
class Part:
    """A config of a release, or some of its splits.

    Attributes:
        root (`Path`): the folder in which the files lie.
        config (`str`): the config's name.
        files (`dict[str, tuple[str, ...]]`): split -> its files inside `root`, in the order of the rows.
    """

    root: Path
    config: str
    files: Mapping[str, tuple[str, ...]]

    def records(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a split as records of `COLUMNS`, pictures as the bytes of their files.

        Raises:
            ReleaseError: a file cannot be read, or lacks a column.
        """
        for name in self.files[split]:
            yield from _records(self.root / name)


def open_part(release: str | Path, *, config: str = DEFAULT_CONFIG, split: str | None = None) -> Part:
    """Find a config's files.

    Args:
        release (`str | Path`): a folder, or `org/name[@revision]`, with or without `hf://datasets/` before it.
        config (`str`, *optional*, defaults to `all`): one of the configs in the release's card.
        split (`str`, *optional*): `train` or `validation`; those that are there by default.

    Raises:
        UsageError: there is no such folder, config or split, or it is not a repository's name.
        ReleaseError: there are no data files of a release.
        HubError: the Hub cannot be reached, or has no such repository.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"got the split {split!r}; a release has {' and '.join(SPLITS)}")
    folder = Path(release)
    if folder.is_dir():
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")]
        return Part(folder, config, _chosen(str(release), names, config, split))
    if folder.is_absolute() or (not str(release).startswith(HUB) and str(release).count("/") != 1):
        raise UsageError(f"there is no folder {release}; give one, or org/name of a data set on the Hub")
    return _from_hub(Address.parse(f"{HUB}{str(release).removeprefix(HUB)}"), config, split)


def _from_hub(address: Address, config: str, split: str | None) -> Part:
    config = address.config or config
    there = listing(address.path, repo_type="dataset", revision=address.revision or None)
    chosen = _chosen(address.told, list(there.files), config, split)
    names = [name for of_split in chosen.values() for name in of_split]
    return Part(snapshot(address.path, repo_type="dataset", revision=there.commit, files=names), config, chosen)


def _chosen(told: str, names: list[str], config: str, split: str | None) -> dict[str, tuple[str, ...]]:
    places = {name: place for name in names if (place := place_of(name))}
    if not places:
        raise ReleaseError(f"{told} holds no data files of a release; give what `compact assemble` wrote")
    there = configs(leaf for leaf, _ in places.values())
    if config not in there:
        raise UsageError(f"{told} has no config {config!r}; it has {', '.join(there)}")
    in_order = sorted(places, key=lambda name: (order_of(places[name][0]), name))
    chosen = {
        each: tuple(name for name in in_order if places[name][0] in there[config] and places[name][1] == each)
        for each in SPLITS
        if split in (None, each)
    }
    if not any(chosen.values()):
        raise UsageError(f"config {config!r} of {told} has no rows in {split}; leave the split out, or give another")
    return {each: of_split for each, of_split in chosen.items() if of_split}


def _records(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, pre_buffer=False) as opened:
            if missing := set(COLUMNS) - set(opened.schema_arrow.names):
                raise ReleaseError(f"{file} lacks {', '.join(sorted(missing))}; it is no file of a release")
            for batch in opened.iter_batches(batch_size=MAX_GROUP_ROWS, columns=list(COLUMNS)):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        told = " ".join(str(error).split())
        raise ReleaseError(f"{file} cannot be read ({told}); `compact validate` says what else is wrong") from error


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


def export(
    release: str | Path,
    out: str | Path,
    *,
    format: str,
    config: str = DEFAULT_CONFIG,
    split: str | None = None,
) -> dict[str, int]:
    """Write a release in another format. Pictures keep their bytes; memory holds one row group at a time.

    `k`, capabilities, licences and the other columns of a release have no place in these formats; the `id` of `llava`
    and `messages` leads back to them.

    Args:
        release (`str | Path`): a folder, or `org/name[@revision]` of a data set on the Hub.
        out (`str | Path`): a folder that is new or empty; it is there completely or not at all.
        format (`str`): `llava`, `finevision` or `messages` (the top of this file says what each holds).
        config (`str`, *optional*, defaults to `all`): one of the configs in the release's card.
        split (`str`, *optional*): `train` or `validation`; both by default.

    Returns:
        Split -> rows that were written.

    Raises:
        UsageError: no such release, format, config or split.
        ReleaseError: `out` is not empty or cannot be written, or the release is damaged.
        HubError: the Hub cannot be reached, or has no such repository.
    """
    if format not in FORMATS:
        raise UsageError(f"got the format {format!r}; there are {', '.join(FORMATS)}")
    out = Path(out)
    _refuse_taken(out)
    part = open_part(release, config=config, split=split)
    try:
        with replace_directory(out, ours=lambda folder: False) as folder:
            return _written(part, folder, FORMATS[format])
    except OSError as error:
        raise ReleaseError(
            f"{out} cannot be written ({error.strerror or error}); "
            "nothing was left there, make room or choose another --out"
        ) from error


def _written(part: Part, folder: Path, write_split: Callable[..., int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for split in part.files:
        counts[split] = write_split(part.records(split), folder, config=part.config, split=split)
    return counts


def _refuse_taken(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise ReleaseError(f"{out} is not empty; an export is written to a new or empty folder, choose another --out")
