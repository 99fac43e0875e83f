"""Reads and decodes the images of training rows with the codec, for screening as well as for training.

`datasets` would decode them with other rules than evaluation and teachers: 16-bit grey would become white.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compact_hf.errors import TuningError
from compact_hf.images.codec import ImageError, decode_rgb
from compact_hf.images.folder import MAX_BYTES
from compact_hf.images.reasons import ImageReason, RowReason
from compact_hf.regular_files import read_regular


def decode_images(rows: Any) -> Any:
    """Return the same rows; whenever one is read, its images are decoded by the codec to RGB.

    Args:
        rows (`datasets.Dataset`): with the column `images`; a row without images may have null there.
    """
    from datasets import Image

    decoded_rows = rows.with_format(None)  # a copy, whose features can be changed
    # An image is then the struct of bytes and path that is stored, as in screening.
    decoded_rows.info.features["images"].feature = Image(decode=False)
    return decoded_rows.with_transform(_decode_batch)


def read_image(image: Mapping[str, Any] | None) -> bytes:
    """Return the encoded image of a row.

    Args:
        image (`Mapping[str, Any] | None`): as `datasets` stores it, with `bytes`, or with a local path or a URL as
            `path`.

    Raises:
        ImageError: there is no image, or its file cannot be read.
    """
    data, path = (image["bytes"], image["path"]) if image else (None, None)
    if data is not None:
        return bytes(data)
    if not path:
        raise ImageError(RowReason.NO_IMAGE, "null, with neither bytes nor a path")
    try:
        return _read_path(path)
    except (OSError, ValueError) as error:
        detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(ImageReason.UNREADABLE, f"{path}: {' '.join(detail.split())}") from error


def _read_path(path: str) -> bytes:
    """Return the content of a file, or of a URL that `datasets` can open."""
    import pyarrow as pa
    from datasets import Image
    from datasets.utils.file_utils import is_local_path

    if is_local_path(path):
        return read_regular(path, max_bytes=MAX_BYTES)
    storage = Image().embed_storage(pa.array([{"bytes": None, "path": path}], Image.pa_type))
    data: bytes = storage[0]["bytes"].as_py()
    return data


def _decode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the columns of some rows, with decoded images; called by `datasets`."""
    try:
        images = [[decode_rgb(read_image(image)) for image in row or ()] for row in batch["images"]]
    except ImageError as error:
        # All rows were decoded in screening.
        raise TuningError(
            f"an image of the data can no longer be read ({error}): restore it, and run the same command again"
        ) from error
    return {**batch, "images": images}
