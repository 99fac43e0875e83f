"""Converts a dataset release, in a directory or on the Hub, to the format of other training code.

    compact export release --format llava --out llava

    llava        train.json, a JSON list for the training code of LLaVA and LLaMA-Factory, images/, and
                 dataset_info.json, by which LLaMA-Factory finds it: `dataset_dir: DIR`, `media_dir: DIR`,
                 `dataset: compact_train`
    finevision   data/CONFIG/train-*.parquet: `images`, `texts`, `source`, and the teacher's confidence
    messages     train/metadata.jsonl and train/images/, which `load_dataset` reads in the form that TRL expects

The validation split is written in the same way. An image is written once, with the bytes from the dataset, and is named
by its hash. One row group is in memory at a time; of a repository only the needed files are downloaded, at one commit.
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
from compact_hf.regular_files import check_regular
from compact_hf.storage import is_empty_directory, replace_directory, translate_disk_errors

COLUMNS: Final = ("id", "images", "messages", "turns", "source")
"""The columns that exports need; no others are read."""


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """The data files of a config of a release, or of some of its splits.

    Attributes:
        root (`Path`): directory that contains the files.
        config (`str`): name of the config.
        files (`dict[str, tuple[str, ...]]`): for each split its files, relative to `root`, in the order of the rows.
    """

    root: Path
    config: str
    files: Mapping[str, tuple[str, ...]]

    def iter_records(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a split as records of `COLUMNS`, images as the bytes of their files.

        Args:
            split (`str`): `train` or `validation`.

        Raises:
            ReleaseError: a file cannot be read, or lacks a column.
        """
        for name in self.files[split]:
            yield from _iter_records(self.root / name)


def find_config_files(dataset: str | Path, *, config: str = DEFAULT_CONFIG, split: str | None = None) -> ConfigFiles:
    """Find the data files of a config; those of a repository are downloaded.

    Args:
        dataset (`str | Path`): a directory, or `org/name[@revision]` on the Hub, with or without the prefix
            `hf://datasets/`.
        config (`str`, *optional*, defaults to `all`): one of the configs that the release's card lists.
        split (`str`, *optional*): `train` or `validation`; by default all splits that exist.

    Returns:
        The files.

    Raises:
        UsageError: the directory, config or split does not exist, or the name is not that of a repository.
        ReleaseError: there are no data files of a release.
        HubError: the Hub cannot be reached, or the repository was not found.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: choose {' or '.join(SPLITS)}")
    directory = Path(dataset)
    if directory.is_dir():
        names = [path.relative_to(directory).as_posix() for path in directory.rglob("*.parquet")]
        return ConfigFiles(directory, config, _select_files(str(dataset), names, config, split))
    # Neither a prefix nor the form a/b: the name can only be a path, and no such directory exists.
    if directory.is_absolute() or (not str(dataset).startswith(HUB_PREFIX) and str(dataset).count("/") != 1):
        raise UsageError(f"directory {dataset} does not exist: give a directory, or org/name of a dataset on the Hub")
    return _download_config_files(Address.parse(f"{HUB_PREFIX}{str(dataset).removeprefix(HUB_PREFIX)}"), config, split)


def _download_config_files(address: Address, config: str, split: str | None) -> ConfigFiles:
    config = address.config or config
    # Listed first, so that only the files of the config are downloaded, at the listed commit.
    remote = get_repo_listing(address.path, repo_type="dataset", revision=address.revision or None)
    config_files = _select_files(address.display_name, list(remote.files), config, split)
    names = [name for split_files in config_files.values() for name in split_files]
    return ConfigFiles(
        download_snapshot(address.path, repo_type="dataset", revision=remote.commit, files=names), config, config_files
    )


def _select_files(display_name: str, names: list[str], config: str, split: str | None) -> dict[str, tuple[str, ...]]:
    """Return the files of a config by split, in the order of subsets; raise if there are none."""
    # path -> (subset, split); other files are ignored
    split_keys = {name: split_key for name in names if (split_key := parse_data_path(name))}
    if not split_keys:
        raise ReleaseError(
            f"{display_name} has no data files of a dataset release: give the output of `compact assemble`"
        )
    available = configs_from_subsets(subset for subset, _ in split_keys.values())
    if config not in available:
        raise UsageError(f"{display_name} has no config {config!r}: choose one of {', '.join(available)}")
    # By subset and file name, which is the order of the rows in `load_dataset`.
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
            f"config {config!r} of {display_name} has no {split} rows: omit the split, or choose the other one"
        )
    return {split_name: split_files for split_name, split_files in by_split.items() if split_files}


def _iter_records(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        check_regular(file)
        # pre_buffer, which is on by default, reads ahead in threads, which is faster but needs more memory.
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            if missing := set(COLUMNS) - set(parquet.schema_arrow.names):
                raise ReleaseError(
                    f"{file} does not belong to a dataset release (no column {', '.join(sorted(missing))})"
                )
            for batch in parquet.iter_batches(batch_size=MAX_GROUP_ROWS, columns=list(COLUMNS)):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        message = " ".join(str(error).split())
        raise ReleaseError(f"{file} cannot be read ({message}): run `compact validate` to list all problems") from error


Records = Iterable[dict[str, Any]]

_IMAGE_DIRECTORY: Final = "images"
# Format, by the bytes of the file -> extension. The extension in the release may be missing or wrong.
_EXTENSIONS: Final = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}
_LLAVA_ROLES: Final = {"user": "human", "assistant": "gpt"}


def write_llava(records: Records, directory: Path, *, config: str, split: str) -> int:  # noqa: ARG001 (one signature)
    """Write `SPLIT.json`, a list of `{id, image, conversations: [{from, value}]}`, and return the number of rows.

    The first human turn starts with `<image>`; rows without an image have no `image`.

    Args:
        records (`Iterable[dict[str, Any]]`): the rows of the split.
        directory (`Path`): output directory.
        config (`str`): name of the config; not used by this format.
        split (`str`): name of the split.

    Raises:
        ReleaseError: a row's image cannot be decoded, or a row has several images, which the format does not support.
    """
    count = 0
    with (directory / f"{split}.json").open("w", encoding="utf-8") as file:
        # Written item by item: `json.dump` would need all rows in memory.
        file.write("[")
        for count, record in enumerate(records, 1):
            names = _write_images(record, directory)
            if len(names) > 1:
                raise ReleaseError(f"row {record['id']} has {len(names)} images: LLaVA's format supports one per row")
            prefix = f"{IMAGE_TOKEN}\n" if names else ""
            turns = [
                # Only the first turn, which is the user's, gets the token: there is one image.
                {"from": _LLAVA_ROLES[message["role"]], "value": f"{'' if index else prefix}{message['content']}"}
                for index, message in enumerate(record["messages"])
            ]
            item = {"id": record["id"], **({"image": names[0]} if names else {}), "conversations": turns}
            file.write(f"{',' if count > 1 else ''}\n{json.dumps(item, ensure_ascii=False)}")
        file.write("\n]\n")
    _add_dataset_info(directory, split)
    return count


def write_messages(records: Records, directory: Path, *, config: str, split: str) -> int:  # noqa: ARG001
    """Write `SPLIT/metadata.jsonl`, with `{id, images_file_names, messages}` per line, and return the number of rows.

    `load_dataset(directory)` turns a column of the name `images_file_names` into a column `images`.

    Args:
        records (`Iterable[dict[str, Any]]`): the rows of the split.
        directory (`Path`): output directory.
        config (`str`): name of the config; not used by this format.
        split (`str`): name of the split.

    Raises:
        ReleaseError: a row's image cannot be decoded.
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
    """Write `data/CONFIG/SPLIT-*.parquet`, rows of `{images, texts: [{user, assistant}], source}`, and count them.

    FineVision's own ratings (relevance, formatting, image correspondence, visual dependency, 1 to 5) come from judge
    models that were not asked about a release, so these columns are omitted. Two similar columns are added:
    `confidence_ratings`, the teacher's confidence in per cent for each turn, and `confidence_min`, the lowest of them.
    For instruction rows the first is an empty list and the second is null.

    Args:
        records (`Iterable[dict[str, Any]]`): the rows of the split.
        directory (`Path`): output directory.
        config (`str`): name of the config, which becomes a directory below `data`.
        split (`str`): name of the split.

    Returns:
        The number of rows.
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
    # The data files of an export have the layout of a release, with the config as the subset.
    with DatasetWriter(directory, columns) as writer:
        for record in records:
            contents = [message["content"] for message in record["messages"]]
            confidences = [turn["confidence"] for turn in record["turns"]]
            row = {
                "images": record["images"],
                "texts": [
                    {"user": user, "assistant": assistant}
                    # Even positions are the user's, odd ones the assistant's; `strict` raises if a message is unpaired.
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
"""The function that writes a split, by format."""


def _add_dataset_info(directory: Path, split: str) -> None:
    """Add a split to dataset_info.json. LLaMA-Factory's defaults for `sharegpt` are LLaVA's names of the speakers."""
    file = directory / "dataset_info.json"
    info = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    info[f"compact_{split}"] = {
        "file_name": f"{split}.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "image"},
    }
    file.write_text(f"{json.dumps(info, indent=2)}\n", encoding="utf-8")


def _write_images(record: dict[str, Any], directory: Path) -> list[str]:
    """Write the images of a row, and return their paths relative to `directory`."""
    names = []
    for image in record["images"]:
        # The file name is derived from the bytes: the paths in a release of someone else cannot be trusted.
        data = image["bytes"] or b""
        try:
            extension = _EXTENSIONS[strip_metadata(data).format]
        except ImageError as error:
            raise ReleaseError(f"the image of row {record['id']} cannot be exported ({error})") from error
        name = f"{_IMAGE_DIRECTORY}/{compute_image_id(data)}.{extension}"
        path = directory / name
        # The name is a hash of the bytes, so an existing file is the same image in another row.
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
    """Write a dataset release in another format. Images keep their bytes; memory holds one row group at a time.

    The formats have no columns for `k`, capabilities, licenses and other metadata. The `id` in `llava` and `messages`
    refers to the row of the release.

    Args:
        dataset (`str | Path`): a directory, or `org/name[@revision]` of a dataset on the Hub.
        out (`str | Path`): output directory, new or empty. It is written completely or not at all.
        format (`str`): `llava`, `finevision` or `messages`; the module docstring describes them.
        config (`str`, *optional*, defaults to `all`): one of the configs that the release's card lists.
        split (`str`, *optional*): `train` or `validation`; by default both.

    Returns:
        The number of rows that were written, by split.

    Raises:
        UsageError: the release, format, config or split does not exist.
        ReleaseError: `out` is not empty or cannot be written, or the release is damaged.
        HubError: the Hub cannot be reached, or the repository was not found.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}: choose one of {', '.join(FORMATS)}")
    out = Path(out)
    # Before the download, which may take long.
    _check_empty(out)
    config_files = find_config_files(dataset, config=config, split=split)
    with (
        translate_disk_errors(ReleaseError, out, "nothing was written, free some disk space or choose another --out"),
        # No directory with contents may be replaced: an export cannot be recognised as one of ours.
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
        raise ReleaseError(f"{out} is not empty: choose a new or empty directory for --out")
