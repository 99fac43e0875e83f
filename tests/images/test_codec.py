from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from compact_hf.images.codec import ImageError, clean_image, encode_for_teacher
from tests.images.made import (
    HEIGHT,
    KINDS,
    ORIENTATION,
    REENCODED,
    SECRET,
    WIDTH,
    encode,
    make_exif,
    make_image,
    photographs,
)

METADATA = {"exif", "xmp", "comment", "photoshop", "mp", "XML:com.adobe.xmp", "Raw profile type exif"}


def decode(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


def same_pixels(first: Image.Image, second: Image.Image) -> bool:
    return first.mode == second.mode and first.size == second.size and first.tobytes() == second.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_stay_exactly_as_they_were(kind: str) -> None:
    data = KINDS[kind]()
    assert same_pixels(decode(clean_image(data)), decode(data))


@pytest.mark.parametrize("kind", KINDS | REENCODED)
def test_no_metadata_is_left(kind: str) -> None:
    cleaned = clean_image((KINDS | REENCODED)[kind]())
    assert SECRET not in cleaned
    assert not METADATA & decode(cleaned).info.keys()
    assert not decode(cleaned).getexif()


@pytest.mark.parametrize("kind", KINDS | REENCODED)
def test_cleaning_twice_changes_nothing(kind: str) -> None:
    cleaned = clean_image((KINDS | REENCODED)[kind]())
    assert clean_image(cleaned) == cleaned


@pytest.mark.parametrize("photograph", photographs(), ids=lambda path: path.name)
def test_photographs_keep_their_pixels_and_lose_their_metadata(photograph: Path) -> None:
    data = photograph.read_bytes()
    cleaned = decode(clean_image(data))
    assert same_pixels(cleaned, decode(data))
    assert not METADATA & cleaned.info.keys()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_is_applied(format: str, orientation: int) -> None:
    smooth = make_image().resize((240, 160), Image.Resampling.BICUBIC)
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(smooth, format, exif=make_exif(orientation), **options)
    upright = ImageOps.exif_transpose(decode(data))
    cleaned = decode(clean_image(data))
    assert cleaned.format == format
    assert cleaned.size == upright.size
    assert ORIENTATION not in cleaned.getexif()
    difference = np.abs(np.asarray(cleaned.convert("RGB"), int) - np.asarray(upright.convert("RGB"), int))
    assert difference.mean() < (2 if format == "JPEG" else 1e-9)


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_an_orientation_that_does_not_exist_changes_nothing(orientation: int) -> None:
    data = encode(make_image(), "JPEG", exif=make_exif(orientation))
    assert same_pixels(decode(clean_image(data)), decode(data))


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_in_either_byte_order(order: str) -> None:
    metadata = make_exif(6)
    metadata.endian = order
    assert decode(clean_image(encode(make_image(), "JPEG", exif=metadata))).size == (HEIGHT, WIDTH)


def test_a_webp_no_longer_announces_the_metadata_it_had() -> None:
    flags = clean_image(KINDS["webp"]())[20]
    assert KINDS["webp"]()[20] & 0x0C == 0x0C
    assert flags & 0x0C == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_end_is_dropped(kind: str) -> None:
    data = KINDS[kind]()
    assert clean_image(data + b"a motion photo's film: " + SECRET * 100) == clean_image(data)


def test_colour_profile_is_kept() -> None:
    chelsea = next(path for path in photographs() if path.name == "chelsea.png")
    profile = decode(chelsea.read_bytes()).info["icc_profile"]
    for format in ("JPEG", "PNG", "WEBP"):
        for orientation in (1, 6):
            data = encode(make_image(), format, icc_profile=profile, exif=make_exif(orientation))
            assert decode(clean_image(data)).info["icc_profile"] == profile


def test_deep_grey_becomes_eight_bits_over_the_same_range() -> None:
    """Pillow converts 16-bit grey above 255 to white RGB, which would make an X-ray all white."""
    data = REENCODED["png deep grey"]()
    pixels = np.asarray(decode(clean_image(data)))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(decode(data)) // 256)


def test_animations_become_their_first_frame() -> None:
    for kind in ("png animated", "webp animated", "gif animated"):
        cleaned = decode(clean_image((KINDS | REENCODED)[kind]()))
        assert getattr(cleaned, "n_frames", 1) == 1
        assert cleaned.format in ("PNG", "WEBP")
        difference = np.abs(np.asarray(cleaned.convert("RGB"), int) - np.asarray(make_image(), int))
        assert difference.mean() < 12


def test_garbage_between_segments_is_skipped_as_decoders_do() -> None:
    data = KINDS["jpeg"]()
    after_jfif = 20
    assert clean_image(data[:after_jfif] + b"\x00\x01" + data[after_jfif:]) == clean_image(data)


@pytest.mark.parametrize("data", [b"", b"hello", b"BM" + bytes(60), b"<svg/>"])
def test_what_is_no_picture_raises(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"empty file|not a picture"):
        clean_image(data)


def test_a_jpeg_of_many_scans_is_not_decoded() -> None:
    buffer = BytesIO()
    Image.new("L", (64, 64), 200).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    assert encode_for_teacher(data)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="106 scans, limit 100"):
        encode_for_teacher(data[:-2] + 100 * last_scan + data[-2:])


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp simple", "gif animated"])
def test_half_a_picture_raises(kind: str) -> None:
    data = (KINDS | REENCODED)[kind]()
    with pytest.raises(ImageError, match="corrupt picture"):
        clean_image(data[: len(data) // 2])


@st.composite
def images(draw: st.DrawFn) -> Image.Image:
    mode = draw(st.sampled_from(["RGB", "RGBA", "L"]))
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return make_image(mode, seed=draw(st.integers(0, 99))).resize((width, height))


@given(image=images(), orientation=st.integers(0, 9), format=st.sampled_from(["PNG", "WEBP"]), tail=st.binary())
def test_lossless_pictures_keep_every_pixel(image: Image.Image, orientation: int, format: str, tail: bytes) -> None:
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    data = encode(image, format, exif=make_exif(orientation), **options)
    cleaned = clean_image(data + tail)
    expected = ImageOps.exif_transpose(decode(data)).convert("RGBA")
    actual = decode(cleaned).convert("RGBA")
    opaque = np.asarray(expected)[..., 3:] > 0
    assert actual.size == expected.size
    assert np.array_equal(np.asarray(actual) * opaque, np.asarray(expected) * opaque)
    assert clean_image(cleaned) == cleaned
