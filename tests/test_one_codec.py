"""Tests that training, evaluation, teachers, pages and releases see the same pixels of an image of any kind."""

from __future__ import annotations

import base64
import runpy
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from compact_hf.evaluation.benchmarks.lmms_eval import benchmark_tasks
from compact_hf.evaluation.inference import model_inputs, shared_inputs
from compact_hf.images.codec import ImageError, clean_image, decode_rgb, encode_for_teacher
from compact_hf.images.phash import perceptual_hash
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.reports.contact_sheet import thumbnail
from compact_hf.training.row_images import decode_images
from compact_hf.training.sft import run
from tests.images.made import encode, make_exif
from tests.training.samples import MODEL_SIZE

Pixels = npt.NDArray[Any]

HEIGHT, WIDTH = 32, 48
GREY = (np.arange(HEIGHT)[:, None] * 4 + np.arange(WIDTH)[None, :] * 2).astype("uint8")  # 0 to 218, without symmetries
COLOR = np.stack([GREY, GREY // 2, 255 - GREY], axis=2)
IS_OPAQUE = GREY > 60
ON_WHITE = np.where(IS_OPAQUE, GREY, 255)
ALPHA = (IS_OPAQUE * 255).astype("uint8")
QUESTION, ANSWER = "What color is it?", "red"


def to_rgb(grey: Pixels) -> Pixels:
    return np.stack([grey] * 3, axis=2).astype("uint8")


def encode_palette(**options: Any) -> bytes:
    """Return a PNG with a palette that inverts the grey values."""
    image = Image.fromarray(GREY)
    image.putpalette([255 - index // 3 for index in range(768)])
    return encode(image, "PNG", **options)


def encode_png(lines: Pixels, depth: int, color_type: int, *, transparent: bytes = b"") -> bytes:
    """Return a PNG of a kind that Pillow cannot write; `lines` has the packed bytes, `(height, bytes of a line)`."""

    def make_chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, color_type, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    chunks = ((b"IHDR", header), (b"tRNS", transparent), (b"IDAT", content), (b"IEND", b""))
    written = (make_chunk(kind, content) for kind, content in chunks if content or kind == b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def animate(format: str, **options: Any) -> bytes:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    return encode(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)


DEEP_COLOR = (COLOR.astype("uint16") * 256 + 77).astype(">u2")
GREY_OF_4_BITS = GREY // 16
DEEP_GREY = Image.fromarray(GREY.astype("uint16") * 256 + 77)
# The kind of file -> the file and the pixels that everyone has to see; JPEG is lossy.
KINDS: dict[str, tuple[Callable[[], bytes], Pixels]] = {
    "rgb": (lambda: encode(Image.fromarray(COLOR), "PNG"), COLOR),
    "rgb of 16 bits": (lambda: encode_png(DEEP_COLOR, 16, 2), COLOR),
    "rgb of 16 bits with a transparent color": (
        lambda: encode_png(DEEP_COLOR, 16, 2, transparent=struct.pack(">3H", *map(int, COLOR[5, 5]))),
        COLOR,
    ),
    "rgb with a transparent color": (
        lambda: encode(Image.fromarray(COLOR), "PNG", transparency=tuple(map(int, COLOR[5, 5]))),
        np.where((COLOR[5, 5] == COLOR).all(axis=2, keepdims=True), 255, COLOR),
    ),
    "rgba": (
        lambda: encode(Image.fromarray(np.dstack([COLOR, ALPHA])), "PNG"),
        np.where(IS_OPAQUE[..., None], COLOR, 255),
    ),
    "black and white": (lambda: encode(Image.fromarray(GREY > 100), "PNG"), to_rgb((GREY > 100) * 255)),
    "grey": (lambda: encode(Image.fromarray(GREY), "PNG"), to_rgb(GREY)),
    "grey of 16 bits": (lambda: encode(DEEP_GREY, "PNG"), to_rgb(GREY)),
    "grey of 16 bits with a transparent value": (
        lambda: encode(DEEP_GREY, "PNG", transparency=int(GREY[5, 5]) * 256 + 77),
        to_rgb(np.where(GREY[5, 5] == GREY, 255, GREY)),
    ),
    "grey of 16 bits with a transparent value that none has": (
        lambda: encode(DEEP_GREY, "PNG", transparency=int(GREY[5, 5]) * 256),
        to_rgb(GREY),
    ),
    "grey of 4 bits with a transparent value": (
        lambda: encode_png(GREY_OF_4_BITS[:, ::2] << 4 | GREY_OF_4_BITS[:, 1::2], 4, 0, transparent=b"\0\5"),
        to_rgb(np.where(GREY_OF_4_BITS == 5, 255, GREY_OF_4_BITS * 17)),
    ),
    "grey with alpha": (lambda: encode(Image.fromarray(np.dstack([GREY, ALPHA])), "PNG"), to_rgb(ON_WHITE)),
    "palette": (encode_palette, to_rgb(255 - GREY)),
    "palette with transparent entries": (
        lambda: encode_palette(transparency=bytes(0 if index <= 60 else 255 for index in range(256))),
        to_rgb(np.where(IS_OPAQUE, 255 - GREY, 255)),
    ),
    "rotated": (lambda: encode(Image.fromarray(COLOR), "PNG", exif=make_exif(6)), np.rot90(COLOR, -1)),
    "rotated jpeg": (
        lambda: encode(Image.fromarray(COLOR), "JPEG", exif=make_exif(6), quality=100, subsampling=0),
        np.rot90(COLOR, -1),
    ),
    "jpeg": (lambda: encode(Image.fromarray(COLOR), "JPEG", quality=100, subsampling=0), COLOR),
    "cmyk jpeg": (
        lambda: encode(Image.fromarray(COLOR).convert("CMYK"), "JPEG", quality=100, subsampling=0),
        COLOR,
    ),
    "animated gif": (lambda: animate("GIF"), to_rgb(GREY)),
    "animated webp": (lambda: animate("WEBP", lossless=True), to_rgb(GREY)),
    "animated png": (lambda: animate("PNG"), to_rgb(GREY)),
}
FEATURES = Features(images=List(ImageFeature()), messages=List({"role": Value("string"), "content": Value("string")}))
MESSAGES = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]


def make_rows(*images: Any) -> Dataset:
    """Return rows with one image each, as `datasets` stores it; null for a row without images."""
    rows = [{"images": image and [image], "messages": MESSAGES} for image in images]
    return Dataset.from_list(rows, features=FEATURES)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoProcessor

    model = build_tiny(tmp_path_factory.mktemp("tiny") / "model", [QUESTION, ANSWER], seed=0, size=MODEL_SIZE)
    return AutoProcessor.from_pretrained(model)


@pytest.fixture(scope="module")
def heldout_task(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = benchmark_tasks("org/name", tmp_path_factory.mktemp("task"))
    return runpy.run_path(str(out / "compact_heldout.py"))


@pytest.mark.parametrize("kind", KINDS)
def test_everyone_sees_the_same_pixels(kind: str, processor: Any, heldout_task: dict[str, Any]) -> None:
    from transformers.image_transforms import convert_to_rgb
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    make, expected = KINDS[kind]
    data = make()
    pixels = decode_rgb(data)
    assert pixels.mode == "RGB"
    assert np.abs(np.asarray(pixels, int) - expected).max() <= (3 if "jpeg" in kind else 0)
    # Training and evaluation, up to the model's inputs.
    collate = DataCollatorForVisionLanguageModeling(processor, max_length=1024, assistant_only_loss=True)
    batch = collate([decode_images(make_rows({"bytes": data, "path": None}))[0]])
    asked = model_inputs(processor, [(data, QUESTION)], device="cpu", dtype=batch["pixel_values"].dtype)
    shared = shared_inputs(processor, [(data, QUESTION), (data, ANSWER)])
    right = processor.image_processor(pixels, return_tensors="pt")["pixel_values"]
    assert all(values.equal(right) for values in (batch["pixel_values"], asked["pixel_values"], shared.pixel_values))
    # A release, which plain TRL and lmms-eval decode without the codec. A JPEG that is rotated is encoded again.
    released = clean_image(data)
    decoded = ImageFeature().decode_example({"bytes": released, "path": None})
    published = decode_rgb(released), convert_to_rgb(decoded), heldout_task["doc_to_visual"]({"image": decoded})[0]
    tolerance = 3 if kind == "rotated jpeg" else 0
    assert all(np.abs(np.asarray(image, int) - np.asarray(pixels)).max() <= tolerance for image in published)
    # Teachers and pages, which get lossy copies.
    preview = base64.b64decode(thumbnail(data)["url"].partition(",")[2])
    for copy in (encode_for_teacher(data), preview):
        assert np.abs(np.asarray(decode_rgb(copy), int) - np.asarray(pixels)).mean() < 8
    assert perceptual_hash(data) == perceptual_hash(encode(pixels, "PNG"))


@pytest.mark.parametrize("values", ["float32", "int32", "uint16"])
def test_a_tiff_is_refused_with_what_to_do_as_its_range_is_unknown(values: str) -> None:
    array = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    data = encode(Image.fromarray((array * (1 if values == "float32" else 60000)).astype(values)), "TIFF")
    with pytest.raises(ImageError, match=r"not a picture: .* a TIFF file, convert it to PNG with 8 or 16 bits"):
        decode_rgb(data)


def test_a_row_whose_images_are_null_is_trained_on_as_text(processor: Any) -> None:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    collate = DataCollatorForVisionLanguageModeling(processor, max_length=1024, assistant_only_loss=True)
    assert "pixel_values" not in collate([decode_images(make_rows(None))[0]])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_changed_since_screening_ends_training_in_one_line(
    num_workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.utils.data import DataLoader

    (tmp_path / "it.png").write_bytes(encode(Image.fromarray(COLOR), "PNG")[:90])
    rows = decode_images(make_rows({"bytes": None, "path": str(tmp_path / "it.png")}))

    def read_all(_: object) -> None:
        list(DataLoader(rows, num_workers=num_workers))

    assert run(read_all, []) == 1
    message = "an image of the data can no longer be read (corrupt picture: PNG: "
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"compact_hf.errors.TuningError: {message}")
    assert line.endswith("): restore it, and run the same command again")


def test_a_file_beside_the_rows_is_read(tmp_path: Path) -> None:
    (tmp_path / "it.png").write_bytes(encode(Image.fromarray(COLOR), "PNG"))
    rows = decode_images(make_rows({"bytes": None, "path": str(tmp_path / "it.png")}))
    assert np.array_equal(np.asarray(rows[0]["images"][0]), COLOR)
