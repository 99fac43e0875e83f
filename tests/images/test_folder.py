from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.errors import SourceError, UsageError
from compact_hf.images.folder import ImageFolder
from tests.irregular import IRREGULAR


def write_files(root: Path, *refs: str) -> Path:
    for ref in refs:
        (root / ref).parent.mkdir(parents=True, exist_ok=True)
        (root / ref).write_bytes(ref.encode())
    return root


def test_pictures_are_found_whatever_the_case_and_depth(tmp_path: Path) -> None:
    refs = ["B.JPG", "a.jpeg", "b.JFIF", "c.jpe", "deep/d.webp", "deep/er/c.PnG", "é.JPEG"]
    source = ImageFolder(write_files(tmp_path, *refs, "notes.txt", "e.gif", "jpg"))
    assert list(source.refs()) == refs
    assert [source.read(ref) for ref in source.refs()] == [ref.encode() for ref in refs]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    assert list(ImageFolder(write_files(tmp_path, ".cache/a.png", "._b.jpg", "c.png")).refs()) == ["c.png"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = write_files(tmp_path / "elsewhere", "far.png")
    root = write_files(tmp_path / "root", "near.png", "sub/low.png")
    (root / "linked").symlink_to(elsewhere)
    write_files(tmp_path / "beside", "other.png")
    (root / "sub" / "again").symlink_to(root)
    (root / "sub" / "itself").symlink_to(root / "sub")
    (root / "above").symlink_to(tmp_path)
    (root / "broken.png").symlink_to(tmp_path / "nowhere.png")
    assert list(ImageFolder(root).refs()) == ["linked/far.png", "near.png", "sub/low.png"]


def test_what_only_looks_like_a_file_is_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    assert list(ImageFolder(write_files(tmp_path, "a.png", "folder.png/b.png")).refs()) == ["a.png", "folder.png/b.png"]


def test_what_is_left_out_is_counted_with_a_hint_for_images(tmp_path: Path) -> None:
    source = ImageFolder(write_files(tmp_path, "a.jfif", "b.HEIC", "c.heic", "deep/d.txt", "LICENSE", ".hidden"))
    list(source.refs())
    assert source.describe_skipped() == (
        f"4 files in {tmp_path} were skipped: 2 .heic, 1 .txt, 1 without extension; convert .heic files first, for "
        "example by ImageMagick: magick mogrify -format jpg FILE..."
    )


@pytest.mark.parametrize("kind", IRREGULAR)
def test_a_file_that_cannot_be_read_does_not_hide_the_others(kind: str, tmp_path: Path) -> None:
    IRREGULAR[kind][0](write_files(tmp_path, "a.png") / "b.png")
    source = ImageFolder(tmp_path)
    assert list(source.refs()) == ["a.png"]
    label = "broken link" if kind == "link to itself" else kind.removeprefix("link to a ").replace("pipe", "named pipe")
    assert source.describe_skipped() == f"1 file in {tmp_path} was skipped: 1 {label}"


def test_unusual_extensions_never_reach_a_terminal(tmp_path: Path) -> None:
    names = ["a.\x1b[31m", "b." + "x" * 100, *(f"c.{number}" for number in range(9))]
    source = ImageFolder(write_files(tmp_path, "a.png", *names))
    list(source.refs())
    assert "\x1b" not in source.describe_skipped()
    assert source.describe_skipped().startswith(f"11 files in {tmp_path} were skipped: 4 of other kinds, 1 .0, ")
    assert sum(int(part.split()[0]) for part in source.describe_skipped().partition("skipped: ")[2].split(", ")) == 11


def test_nothing_left_out_is_not_worth_a_line(tmp_path: Path) -> None:
    source = ImageFolder(write_files(tmp_path, "a.png", ".hidden"))
    list(source.refs())
    assert source.describe_skipped() == ""


def test_the_name_is_published_and_never_the_path(tmp_path: Path) -> None:
    source = ImageFolder(write_files(tmp_path / "street scenes", "a.png"))
    assert source.origin("a.png") == ("street scenes", "unknown")
    assert source.identity == str(tmp_path / "street scenes")


def test_a_folder_is_the_same_place_by_any_way_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "pictures", "a.png")
    monkeypatch.chdir(tmp_path)
    assert (
        ImageFolder("pictures").identity
        == ImageFolder(tmp_path / "pictures").identity
        == ImageFolder("./pictures/").identity
    )


def test_one_clear_line_for_what_is_no_folder_of_pictures(tmp_path: Path) -> None:
    write_files(tmp_path, "file.png", "texts/a.txt", "texts/b.txt", "texts/c.gif", "texts/LICENSE")
    (tmp_path / "empty").mkdir()
    messages = {
        "nowhere": "no such directory: .*nowhere: give a directory with JPEG, PNG or WebP files",
        "file.png": "file.png is a file, not a directory: give the directory that contains it",
        "empty": "empty is empty: put JPEG, PNG or WebP files into it",
        "texts": r"no JPEG, PNG or WebP file in .*texts \(files found: 2 .txt, .*\): give a directory with images",
    }
    for name, message in messages.items():
        # No directory at all is wrong usage; what a directory contains may change.
        error = UsageError if name in ("nowhere", "file.png") else SourceError
        with pytest.raises(error, match=message) as excinfo:
            list(ImageFolder(tmp_path / name).refs())
        assert "\n" not in str(excinfo.value)


def test_a_folder_that_cannot_be_listed_is_told_and_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, "a.png", "closed/b.png")
    real_scandir = os.scandir

    def refuse(path: Path):  # simulated, because the user root can list every directory
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"cannot list .*closed \(Permission denied\): make it readable"):
        list(ImageFolder(tmp_path).refs())


def test_names_that_no_journal_can_hold_are_told(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb"):
        pass
    with pytest.raises(SourceError, match="is not UTF-8: rename the file"):
        list(ImageFolder(tmp_path).refs())


@pytest.mark.parametrize("ref", ["../secret.png", "a/../../secret.png", "/etc/passwd"])
def test_references_never_lead_out(tmp_path: Path, ref: str) -> None:
    write_files(tmp_path, "secret.png", "root/a/b.png")
    with pytest.raises(OSError, match="is outside the directory"):
        ImageFolder(tmp_path / "root").read(ref)


@given(
    names=st.sets(
        st.text(st.sampled_from("abcXYZ01 -é漢"), min_size=1, max_size=8).map(str.strip).filter(bool), min_size=1
    )
)
def test_order_does_not_depend_on_the_order_of_creation(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    refs = [f"{name}.png" for name in names]
    first = write_files(tmp_path_factory.mktemp("one"), *refs)
    second = write_files(tmp_path_factory.mktemp("other"), *reversed(refs))
    assert list(ImageFolder(first).refs()) == list(ImageFolder(second).refs()) == sorted(refs)
