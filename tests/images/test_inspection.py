from __future__ import annotations

import hashlib
import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compact_hf.errors import SourceError
from compact_hf.images.codec import clean_image, encode_for_teacher
from compact_hf.images.folder import MAX_BYTES, ImageFolder
from compact_hf.images.inspection import inspect_image
from compact_hf.records import ImageInfo, Reject
from tests.images.made import HEIGHT, KINDS, REENCODED, WIDTH, BytesSource, encode, make_exif, make_image, photographs

ALL_KINDS = KINDS | REENCODED
FILES = {kind: make() for kind, make in ALL_KINDS.items()}


def reject_reason(data: bytes) -> str:
    result = inspect_image(BytesSource(data), "it")
    assert isinstance(result, Reject), result
    assert (result.stage, result.subject) == ("picture", "it")
    assert result.detail
    return result.reason


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_picture_is_known_by_its_bytes(kind: str) -> None:
    result = inspect_image(BytesSource(FILES[kind]), "it")
    image_id = hashlib.sha256(FILES[kind]).hexdigest()[:32]
    assert result == ImageInfo(image_id, "it", WIDTH, HEIGHT, "bytes", "CC0-1.0")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_size_is_what_people_see(format: str, orientation: int) -> None:
    result = inspect_image(BytesSource(encode(make_image(), format, exif=make_exif(orientation))), "it")
    assert isinstance(result, ImageInfo)
    expected = (HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT)
    assert (result.width, result.height) == expected


def test_real_photographs_are_pictures() -> None:
    for path in photographs():
        result = inspect_image(BytesSource(path.read_bytes()), path.name)
        if path.name == "no_time_for_that_tiny.gif":
            assert isinstance(result, Reject)
        else:
            assert isinstance(result, ImageInfo), result


def test_reasons() -> None:
    assert reject_reason(b"") == "empty file"
    assert reject_reason(b"not a picture at all") == "not a picture"
    assert reject_reason(b"\xff\xd8\xff\xe0 and then nothing of use") == "corrupt picture"
    assert reject_reason(encode(make_image().resize((500, 15)), "PNG")) == "too small"


def test_a_photo_in_another_format_is_named_as_such() -> None:
    result = inspect_image(BytesSource(bytes(3) + b"\x18ftypheic" + bytes(99)), "photo.jpg")
    assert isinstance(result, Reject)
    assert (result.reason, result.detail) == ("not a picture", "111 bytes, a HEIC or AVIF file, convert it to JPEG")


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((16, 1024), ""),
        ((1024, 16), ""),
        ((16, 1025), "too narrow"),
        ((20_000, 16), "too narrow"),
        ((40, 2561), "too narrow"),
    ],
)
def test_strips_that_teachers_would_see_as_a_line_are_rejected(size: tuple[int, int], reason: str) -> None:
    data = encode(make_image().resize(size), "PNG")
    if reason:
        assert reject_reason(data) == reason
    else:
        assert isinstance(inspect_image(BytesSource(data), "it"), ImageInfo)
        with Image.open(BytesIO(encode_for_teacher(data))) as sent:
            assert min(sent.size) == 16


def test_the_end_of_a_cut_jpeg_is_missed() -> None:
    photograph = next(path for path in photographs() if path.name == "rocket.jpg").read_bytes()
    assert reject_reason(photograph[: len(photograph) * 9 // 10]) == "corrupt picture"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header has huge dimensions."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_001, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs_are_never_decoded(size: tuple[int, int]) -> None:
    assert reject_reason(make_bomb(*size)) == "too many pixels"


def test_a_frame_larger_than_its_gif_is_never_decoded() -> None:
    screen, frame = struct.pack("<HHBBB", 48, 32, 0, 0, 0), struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0)
    assert reject_reason(b"GIF89a" + screen + b"," + frame + b"\x02\x02\x4c\x01\x00;") == "too many pixels"


@pytest.mark.parametrize("kind", [b"cHRM", b"gAMA", b"iCCP", b"sRGB", b"tRNS", b"IHDR"])
@pytest.mark.parametrize("behind_the_pixels", [False, True])
def test_chunks_too_short_for_their_kind_never_crash(kind: bytes, behind_the_pixels: bool) -> None:
    data = FILES["png"]
    offset = data.rindex(b"IEND") - 4 if behind_the_pixels else 33
    for length in range(3):
        check_survives(data[:offset] + chunk(kind, b"\0" * length) + data[offset:])


def test_a_vast_colour_profile_is_never_unpacked() -> None:
    profile = chunk(b"iCCP", b"vast\0\0" + zlib.compress(bytes(2**24)))
    after_header = 33
    data = FILES["png"]
    assert reject_reason(data[:after_header] + profile + data[after_header:]) == "corrupt picture"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "here.png").write_bytes(FILES["png"])
    with (tmp_path / "vast.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for ref, detail in (
        ("gone.png", "No such file"),
        ("vast.png", "too large"),
        ("../here.png", "outside the directory"),
    ):
        result = inspect_image(ImageFolder(tmp_path), ref)
        assert isinstance(result, Reject)
        assert result.reason == "unreadable file"
        assert detail in result.detail
        assert str(tmp_path) not in result.detail


def test_a_source_that_breaks_down_is_not_the_pictures_fault() -> None:
    class BrokenSource(BytesSource):
        def read(self, ref: str) -> bytes:
            raise SourceError("the disk is gone")

    with pytest.raises(SourceError, match="the disk is gone"):
        inspect_image(BrokenSource(b""), "it")


def check_survives(data: bytes) -> None:
    """Check that any bytes are either rejected, or an image that can be sent to teachers and published."""
    result = inspect_image(BytesSource(data), "it")
    if isinstance(result, ImageInfo):
        encode_for_teacher(data, 24)
        cleaned = inspect_image(BytesSource(clean_image(data)), "it")
        assert isinstance(cleaned, ImageInfo)
        assert (cleaned.width, cleaned.height) == (result.width, result.height)


@given(kind=st.sampled_from(sorted(FILES)), share=st.floats(0, 1))
def test_a_file_cut_anywhere_never_crashes(kind: str, share: float) -> None:
    check_survives(FILES[kind][: int(share * len(FILES[kind]))])


@given(
    kind=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_file_with_wrong_bytes_never_crashes(kind: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(FILES[kind])
    for position, value in changes:
        data[int(position * len(data))] = value
    check_survives(bytes(data))
