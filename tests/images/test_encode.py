from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from compact_hf.images.codec import ImageError, encode_for_teacher
from tests.images.made import KINDS, REENCODED, SECRET, WIDTH, encode, make_exif, make_image, photographs


def open_image(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


@pytest.mark.parametrize("kind", KINDS | REENCODED)
def test_every_kind_becomes_a_plain_jpeg(kind: str) -> None:
    jpeg = encode_for_teacher((KINDS | REENCODED)[kind]())
    assert (open_image(jpeg).format, open_image(jpeg).mode, open_image(jpeg).width) == ("JPEG", "RGB", WIDTH)
    assert SECRET not in jpeg
    assert not open_image(jpeg).getexif()


@pytest.mark.parametrize(
    ("size", "sent"), [((3000, 2000), (1024, 683)), ((2000, 3000), (683, 1024)), ((40, 20), (40, 20))]
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_the_longer_edge_is_at_most_the_limit(format: str, size: tuple[int, int], sent: tuple[int, int]) -> None:
    assert open_image(encode_for_teacher(encode(make_image().resize(size), format))).size == sent


def test_extreme_shapes_keep_at_least_one_pixel() -> None:
    assert open_image(encode_for_teacher(encode(make_image().resize((5000, 1)), "PNG"), 64)).size == (64, 1)


def test_orientation_is_applied() -> None:
    """Orientation 6 is a camera held vertically: the left edge of the stored image is the upper edge of the image."""
    left_is_dark = encode(Image.linear_gradient("L").rotate(90), "JPEG", exif=make_exif(6))
    pixels = np.asarray(open_image(encode_for_teacher(left_is_dark)).convert("L"), int)
    assert pixels[0].mean() < 30
    assert pixels[-1].mean() > 225


def test_orientation_is_applied_to_a_light_jpeg_of_the_right_size_too() -> None:
    photograph = open_image(next(path for path in photographs() if path.name == "china.jpg").read_bytes())
    rotated = encode(photograph, "JPEG", quality=80, exif=make_exif(6))
    assert open_image(encode_for_teacher(rotated)).size == photograph.size[::-1]


def test_transparency_lies_on_white() -> None:
    transparent = encode(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), "PNG")
    assert np.asarray(open_image(encode_for_teacher(transparent))).min() > 250


def test_deep_grey_is_not_blown_out() -> None:
    pixels = np.asarray(open_image(encode_for_teacher(REENCODED["png deep grey"]())).convert("L"))
    assert 100 < pixels.mean() < 155


def test_a_small_jpeg_shows_what_the_large_one_did() -> None:
    photograph = open_image(next(path for path in photographs() if path.name == "china.jpg").read_bytes())
    large = encode(photograph.resize((2560, 1708)), "JPEG", quality=95)
    pixels = np.asarray(open_image(encode_for_teacher(large, 640)), int)
    assert np.abs(pixels - np.asarray(photograph.resize((640, 427)), int)).mean() < 5


def test_the_same_bytes_in_give_the_same_bytes_out() -> None:
    assert encode_for_teacher(KINDS["webp"]()) == encode_for_teacher(KINDS["webp"]())


def test_a_cut_file_raises() -> None:
    with pytest.raises(ImageError, match="corrupt picture"):
        encode_for_teacher(KINDS["jpeg"]()[:-200])


def test_a_light_jpeg_of_the_right_size_is_sent_pixel_for_pixel() -> None:
    photograph = open_image(next(path for path in photographs() if path.name == "china.jpg").read_bytes())
    light = encode(photograph, "JPEG", quality=80, comment=SECRET)
    jpeg = encode_for_teacher(light)
    assert SECRET not in jpeg
    assert np.array_equal(np.asarray(open_image(jpeg)), np.asarray(open_image(light)))
    heavy = encode(photograph, "JPEG", quality=100, subsampling=0)
    assert len(encode_for_teacher(heavy)) < len(heavy) / 2
