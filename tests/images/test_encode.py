from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from compact_hf.images.codec import ImageError, encode_for_teacher
from tests.images.made import KINDS, REWRITTEN, SECRET, WIDTH, drawing, encoded, exif, photographs


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


@pytest.mark.parametrize("kind", KINDS | REWRITTEN)
def test_every_kind_becomes_a_plain_jpeg(kind: str) -> None:
    sent = encode_for_teacher((KINDS | REWRITTEN)[kind]())
    assert (opened(sent).format, opened(sent).mode, opened(sent).width) == ("JPEG", "RGB", WIDTH)
    assert SECRET not in sent
    assert not opened(sent).getexif()


@pytest.mark.parametrize(
    ("size", "sent"), [((3000, 2000), (1024, 683)), ((2000, 3000), (683, 1024)), ((40, 20), (40, 20))]
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_the_longer_edge_is_at_most_the_limit(format: str, size: tuple[int, int], sent: tuple[int, int]) -> None:
    assert opened(encode_for_teacher(encoded(drawing().resize(size), format))).size == sent


def test_extreme_shapes_keep_at_least_one_pixel() -> None:
    assert opened(encode_for_teacher(encoded(drawing().resize((5000, 1)), "PNG"), 64)).size == (64, 1)


def test_orientation_is_applied() -> None:
    """Orientation 6 is a camera on its side: the picture's left edge becomes its upper one."""
    left_is_dark = encoded(Image.linear_gradient("L").rotate(90), "JPEG", exif=exif(6))
    pixels = np.asarray(opened(encode_for_teacher(left_is_dark)).convert("L"), int)
    assert pixels[0].mean() < 30
    assert pixels[-1].mean() > 225


def test_orientation_is_applied_to_a_light_jpeg_of_the_right_size_too() -> None:
    photograph = opened(next(path for path in photographs() if path.name == "china.jpg").read_bytes())
    on_its_side = encoded(photograph, "JPEG", quality=80, exif=exif(6))
    assert opened(encode_for_teacher(on_its_side)).size == photograph.size[::-1]


def test_transparency_lies_on_white() -> None:
    clear = encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), "PNG")
    assert np.asarray(opened(encode_for_teacher(clear))).min() > 250


def test_deep_grey_is_not_blown_out() -> None:
    pixels = np.asarray(opened(encode_for_teacher(REWRITTEN["png deep grey"]())).convert("L"))
    assert 100 < pixels.mean() < 155


def test_a_small_jpeg_shows_what_the_large_one_did() -> None:
    photograph = opened(next(path for path in photographs() if path.name == "china.jpg").read_bytes())
    large = encoded(photograph.resize((2560, 1708)), "JPEG", quality=95)
    sent = np.asarray(opened(encode_for_teacher(large, 640)), int)
    assert np.abs(sent - np.asarray(photograph.resize((640, 427)), int)).mean() < 5


def test_the_same_bytes_in_give_the_same_bytes_out() -> None:
    assert encode_for_teacher(KINDS["webp"]()) == encode_for_teacher(KINDS["webp"]())


def test_a_cut_file_raises() -> None:
    with pytest.raises(ImageError, match="corrupt picture"):
        encode_for_teacher(KINDS["jpeg"]()[:-200])


def test_a_light_jpeg_of_the_right_size_is_sent_pixel_for_pixel() -> None:
    photograph = opened(next(path for path in photographs() if path.name == "china.jpg").read_bytes())
    light = encoded(photograph, "JPEG", quality=80, comment=SECRET)
    sent = encode_for_teacher(light)
    assert SECRET not in sent
    assert np.array_equal(np.asarray(opened(sent)), np.asarray(opened(light)))
    heavy = encoded(photograph, "JPEG", quality=100, subsampling=0)
    assert len(encode_for_teacher(heavy)) < len(heavy) / 2
