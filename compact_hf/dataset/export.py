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

from compact_hf.dataset.schema import DEFAULT_CONFIG, SPLITS, configs_from_subsets, parse_data_path, subset_order
from compact_hf.dataset.writer import MAX_GROUP_ROWS, DatasetWriter
from compact_hf.errors import ReleaseError, UsageError
from compact_hf.hub.download import download_snapshot, get_repo_listing
from compact_hf.images.address import HUB_PREFIX, Address
from compact_hf.images.codec import ImageError, strip_metadata
from compact_hf.images.conversations import IMAGE_TOKEN
from compact_hf.images.inspection import compute_image_id
from compact_hf.storage import is_empty_directory, replace_directory, translate_disk_errors

COLUMNS: Final = ("id", "images", "messages", "turns", "source")
"""What exports need of a row; only these columns are read."""


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """A config of a release, or some of its splits.

    Attributes:
        root (`Path`): the folder in which the files lie.
        config (`str`): the config's name.
        files (`dict[str, tuple[str, ...]]`): split -> its files inside `root`, in the order of the rows.
    """

    root: Path
    config: str
    files: Mapping[str, tuple[str, ...]]

    def iter_records(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a split as records of `COLUMNS`, images as the bytes of their files.

        Raises:
            ReleaseError: a file cannot be read, or lacks a column.
        """
        for name in self.files[split]:
            yield from _iter_records(self.root / name)


def find_config_files(dataset: str | Path, *, config: str = DEFAULT_CONFIG, split: str | None = None) -> ConfigFiles:
    """Find a config's files.

    Args:
        dataset (`str | Path`): a folder, or `org/name[@revision]`, with or without `hf://datasets/` before it.
        config (`str`, *optional*, defaults to `all`): one of the configs in the release's card.
        split (`str`, *optional*): `train` or `validation`; those that are there by default.

    Raises:
        UsageError: there is no such folder, config or split, or it is not a repository's name.
        ReleaseError: there are no data files of a release.
        HubError: the Hub cannot be reached, or has no such repository.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"got the split {split!r}; a release has {' and '.join(SPLITS)}")
    directory = Path(dataset)
    if directory.is_dir():
        names = [path.relative_to(directory).as_posix() for path in directory.rglob("*.parquet")]
        return ConfigFiles(directory, config, _select_files(str(dataset), names, config, split))
    if directory.is_absolute() or (not str(dataset).startswith(HUB_PREFIX) and str(dataset).count("/") != 1):
        raise UsageError(f"there is no folder {dataset}; give one, or org/name of a data set on the Hub")
    return _download_config_files(Address.parse(f"{HUB_PREFIX}{str(dataset).removeprefix(HUB_PREFIX)}"), config, split)


def _download_config_files(address: Address, config: str, split: str | None) -> ConfigFiles:
    config = address.config or config
    remote = get_repo_listing(address.path, repo_type="dataset", revision=address.revision or None)
    config_files = _select_files(address.display_name, list(remote.files), config, split)
    names = [name for split_files in config_files.values() for name in split_files]
    return ConfigFiles(
        download_snapshot(address.path, repo_type="dataset", revision=remote.commit, files=names), config, config_files
    )


def _select_files(display_name: str, names: list[str], config: str, split: str | None) -> dict[str, tuple[str, ...]]:
    split_keys = {name: split_key for name in names if (split_key := parse_data_path(name))}
    if not split_keys:
        raise ReleaseError(f"{display_name} holds no data files of a release; give what `compact assemble` wrote")
    available = configs_from_subsets(subset for subset, _ in split_keys.values())
    if config not in available:
        raise UsageError(f"{display_name} has no config {config!r}; it has {', '.join(available)}")
    ordered = sorted(split_keys, key=lambda name: (subset_order(split_keys[name][0]), name))
    by_split = {
        split_name: tuple(
            name for name in ordered if split_keys[name][0] in available[config] and split_keys[name][1] == split_name
        )
        for split_name in SPLITS
        if split in (None, split_name)
    }
    if not any(by_split.values()):
        raise UsageError(
            f"config {config!r} of {display_name} has no rows in {split}; leave the split out, or give another"
        )
    return {split_name: split_files for split_name, split_files in by_split.items() if split_files}


def _iter_records(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            if missing := set(COLUMNS) - set(parquet.schema_arrow.names):
                raise ReleaseError(f"{file} lacks {', '.join(sorted(missing))}; it is no file of a release")
            for batch in parquet.iter_batches(batch_size=MAX_GROUP_ROWS, columns=list(COLUMNS)):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        message = " ".join(str(error).split())
        raise ReleaseError(f"{file} cannot be read ({message}); `compact validate` says what else is wrong") from error


Records = Iterable[dict[str, Any]]

_IMAGE_DIRECTORY: Final = "images"
_EXTENSIONS: Final = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}
_LLAVA_ROLES: Final = {"user": "human", "assistant": "gpt"}


def write_llava(records: Records, directory: Path, *, config: str, split: str) -> int:  # noqa: ARG001 (one signature)
    """Write `SPLIT.json` and return its rows: a list of `{id, image, conversations: [{from, value}]}`.

    The first human turn starts with `<image>`; rows without an image have no `image`.

    Raises:
        ReleaseError: a row holds no image where it says one, or several, which the format has no place for.
    """
    count = 0
    with (directory / f"{split}.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for count, record in enumerate(records, 1):
            names = _write_images(record, directory)
            if len(names) > 1:
                raise ReleaseError(f"row {record['id']} has {len(names)} pictures; LLaVA's format holds one")
            prefix = f"{IMAGE_TOKEN}\n" if names else ""
            turns = [
                {"from": _LLAVA_ROLES[message["role"]], "value": f"{'' if index else prefix}{message['content']}"}
                for index, message in enumerate(record["messages"])
            ]
            item = {"id": record["id"], **({"image": names[0]} if names else {}), "conversations": turns}
            file.write(f"{',' if count > 1 else ''}\n{json.dumps(item, ensure_ascii=False)}")
        file.write("\n]\n")
    _add_dataset_info(directory, split)
    return count


def write_messages(records: Records, directory: Path, *, config: str, split: str) -> int:  # noqa: ARG001
    """Write `SPLIT/metadata.jsonl` and return its rows: `{id, images_file_names, messages}` in each line.

    That is the name by which `load_dataset(folder)` makes a column `images` of the files.

    Raises:
        ReleaseError: a row holds something other than an image.
    """
    count = 0
    (directory / split).mkdir()
    with (directory / split / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for record in records:
            count += 1
            names = _write_images(record, directory / split)
            line = {"id": record["id"], "images_file_names": names, "messages": record["messages"]}
            file.write(f"{json.dumps(line, ensure_ascii=False)}\n")
    return count


def write_finevision(records: Records, directory: Path, *, config: str, split: str) -> int:
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
    with DatasetWriter(directory, columns) as writer:
        for record in records:
            contents = [message["content"] for message in record["messages"]]
            confidences = [turn["confidence"] for turn in record["turns"]]
            row = {
                "images": record["images"],
                "texts": [
                    {"user": user, "assistant": assistant}
                    for user, assistant in zip(contents[::2], contents[1::2], strict=True)
                ],
                "source": record["source"],
                "confidence_ratings": confidences,
                "confidence_min": min(confidences, default=None),
            }
            writer.add(config, split, row)
        return sum(size.rows for size in writer.close().values())


FORMATS: Final[dict[str, Callable[..., int]]] = {
    "finevision": write_finevision,
    "llava": write_llava,
    "messages": write_messages,
}
"""Format -> what writes a split of it."""


def _add_dataset_info(directory: Path, split: str) -> None:
    """Tell LLaMA-Factory of a split; what it takes for granted of `sharegpt` are LLaVA's own names of speakers."""
    file = directory / "dataset_info.json"
    info = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    info[f"compact_{split}"] = {
        "file_name": f"{split}.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "image"},
    }
    file.write_text(f"{json.dumps(info, indent=2)}\n", encoding="utf-8")


def _write_images(record: dict[str, Any], directory: Path) -> list[str]:
    """Return the images' paths inside `directory`, where they lie now."""
    names = []
    for image in record["images"]:
        # The name comes of the bytes: somebody else's release may name any path in its columns.
        data = image["bytes"] or b""
        try:
            extension = _EXTENSIONS[strip_metadata(data).format]
        except ImageError as error:
            raise ReleaseError(f"the picture of row {record['id']} cannot be used ({error})") from error
        name = f"{_IMAGE_DIRECTORY}/{compute_image_id(data)}.{extension}"
        path = directory / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        names.append(name)
    return names


def export(
    dataset: str | Path,
    out: str | Path,
    *,
    format: str,
    config: str = DEFAULT_CONFIG,
    split: str | None = None,
) -> dict[str, int]:
    """Write a release in another format. Images keep their bytes; memory holds one row group at a time.

    `k`, capabilities, licences and the other columns of a release have no place in these formats; the `id` of `llava`
    and `messages` leads back to them.

    Args:
        dataset (`str | Path`): a folder, or `org/name[@revision]` of a dataset on the Hub.
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
    _check_empty(out)
    config_files = find_config_files(dataset, config=config, split=split)
    with (
        translate_disk_errors(ReleaseError, out, "nothing was left there, make room or choose another --out"),
        replace_directory(out, is_replaceable=lambda directory: False) as directory,
    ):
        return _write_splits(config_files, directory, FORMATS[format])


def _write_splits(config_files: ConfigFiles, directory: Path, write_split: Callable[..., int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for split in config_files.files:
        counts[split] = write_split(
            config_files.iter_records(split), directory, config=config_files.config, split=split
        )
    return counts


def _check_empty(out: Path) -> None:
    if out.is_dir() and not is_empty_directory(out):
        raise ReleaseError(f"{out} is not empty; an export is written to a new or empty folder, choose another --out")
