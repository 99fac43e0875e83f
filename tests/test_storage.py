"""Tests that files are written completely or not at all, and that the file system of a path is recognized."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.dataset.export import export
from compact_hf.dataset.writer import write_dataset
from compact_hf.errors import CompactError, ReleaseError
from compact_hf.models.llava.shipped import copy_aligned
from compact_hf.storage import (
    MOUNTS,
    atomic_file,
    get_network_file_system,
    hidden_directory,
    is_empty_directory,
    replace_directory,
    write_atomically,
)
from tests.dataset.samples import make_rows

MOUNTINFO = """\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
24 22 0:22 / /proc rw,nosuid shared:12 - proc proc rw
30 22 0:44 / /home rw,relatime shared:60 - nfs4 filer:/export/home rw,vers=4.2,addr=10.0.0.2
31 30 259:3 / /home/scratch rw - xfs /dev/nvme1n1 rw
32 22 0:50 / /mnt/big\\040disk rw - cifs //filer/share rw
33 22 0:51 / /mnt/keys rw,relatime shared:70 master:2 - fuse.sshfs me@host:/data rw
34 22 0:52 / /mnt/pictures rw - fuse.gocryptfs /secret rw
35 22 0:53 / /over rw - lustre 10.0.0.3@tcp:/fs rw
36 35 0:54 / /over rw - tmpfs tmpfs rw
37 22 0:55 / /under rw - tmpfs tmpfs rw
38 37 0:56 / /under rw - gpfs gpfs0 rw
39 22 0:57 / /sandbox rw - 9p none rw,trans=fd
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", None),
        ("/srv/run", None),
        ("/home", "nfs4"),
        ("/home/ann/run/journal.sqlite", "nfs4"),
        ("/home/scratch/run", None),
        ("/home/scratchpad/run", "nfs4"),
        ("/homework", None),
        ("/mnt/big disk/run", "cifs"),
        ("/mnt/keys/run", "fuse.sshfs"),
        ("/mnt/pictures/run", None),
        ("/over/run", None),
        ("/under/run", "gpfs"),
        ("/sandbox/run", None),
        ("/home/scratch/../run", "nfs4"),
    ],
)
def test_the_nearest_mount_above_a_path_says_what_it_lies_on(path: str, kind: str | None) -> None:
    assert get_network_file_system(path, mountinfo=MOUNTINFO) == kind


def test_links_are_followed_to_where_a_file_would_really_lie(tmp_path: Path) -> None:
    text = f"1 0 0:1 / / rw - ext4 disk rw\n2 1 0:2 / {tmp_path}/far rw - nfs filer:/x rw\n"
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    assert get_network_file_system(tmp_path / "near" / "run", mountinfo=text) == "nfs"
    assert get_network_file_system(tmp_path / "run", mountinfo=text) is None


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8))
def test_any_name_is_found_as_the_kernel_escapes_it(name: str) -> None:
    if name in (".", ".."):
        return
    escaped = "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in name)
    text = f"1 0 0:1 / / rw - ext4 disk rw\n2 1 0:2 / /m/{escaped} rw - nfs filer:/x rw\n"
    assert get_network_file_system(Path("/m") / name / "run", mountinfo=text) == "nfs"
    assert get_network_file_system(Path("/m") / f"{name}2" / "run", mountinfo=text) is None


@pytest.mark.parametrize("text", ["", "\n", "nonsense\n", "1 0 0:1 / - ext4 disk rw\n"])
def test_what_cannot_be_read_says_nothing(text: str) -> None:
    assert get_network_file_system("/home/run", mountinfo=text) is None


@pytest.mark.skipif(not MOUNTS.exists(), reason="only Linux has it")
def test_this_machine_can_be_asked() -> None:
    assert get_network_file_system("/proc/self") is None
    mountinfo = MOUNTS.read_text().replace(" - proc ", " - nfs4 ")
    assert get_network_file_system("/proc/self", mountinfo=mountinfo) == "nfs4"


def test_a_system_without_mountinfo_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compact_hf.storage.MOUNTS", tmp_path / "missing")
    assert get_network_file_system(tmp_path) is None


def test_a_file_is_replaced_when_it_is_whole_and_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    write_atomically(path, "eins\n")

    def fail_in_the_middle() -> None:
        with atomic_file(path) as temp_file:
            temp_file.write_text("half")
            assert path.read_text() == "eins\n"
            raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail_in_the_middle()
    assert path.read_text() == "eins\n"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_kill_left_over_is_written_over_and_is_nobodys_work(tmp_path: Path) -> None:
    (tmp_path / ".results.json.part").write_text("half of it, and long")
    assert is_empty_directory(tmp_path)
    write_atomically(tmp_path / "results.json", b"whole")
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert not is_empty_directory(tmp_path)
    assert is_empty_directory(tmp_path, besides=("results.json",))
    assert not is_empty_directory(tmp_path / "results.json")


def test_writers_of_the_same_file_do_not_take_each_others_half(tmp_path: Path) -> None:
    path = tmp_path / "cache.parquet"
    with atomic_file(path, is_shared=True) as first, atomic_file(path, is_shared=True) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first", "the outer block ends last"
    assert list(tmp_path.iterdir()) == [path]


def _write_release(out: Path) -> None:
    write_dataset(make_rows(2), out, sources=("compact",), version="1.0.0")


def _export_release(out: Path) -> None:
    _write_release(out.with_name("release"))
    export(out.with_name("release"), out, format="messages")


@pytest.mark.parametrize("write", [_write_release, _export_release, copy_aligned])
def test_a_directory_of_the_temporary_name_that_is_not_ours_is_left_alone(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    hidden = tmp_path / ".out.writing"
    for name in ("new", "old"):
        (hidden / name).mkdir(parents=True)
        (hidden / name / "thesis.txt").write_text("mine")
    with pytest.raises(CompactError, match=r"\.out\.writing .*has other contents: rename it, or choose another --out"):
        write(tmp_path / "out")
    assert [(hidden / name / "thesis.txt").read_text() for name in ("new", "old")] == ["mine", "mine"]
    hidden.rename(tmp_path / "mine")  # what the message says
    write(tmp_path / "out")
    assert not hidden.exists()


@pytest.mark.parametrize("kind", ["file", "link to an empty directory", "link to nothing"])
def test_other_things_of_the_temporary_name_are_left_alone(kind: str, tmp_path: Path) -> None:
    hidden, target = tmp_path / ".out.writing", tmp_path / "target"
    if kind == "file":
        hidden.write_text("mine")
    else:
        hidden.symlink_to(target)
    if kind == "link to an empty directory":
        target.mkdir()
    with pytest.raises(ReleaseError, match="has other contents"), hidden_directory(tmp_path / "out"):
        pass
    assert hidden.is_symlink() or hidden.read_text() == "mine"
    assert target.exists() == (kind == "link to an empty directory")


def test_what_a_user_puts_into_the_temporary_directory_stays_there(tmp_path: Path) -> None:
    with replace_directory(tmp_path / "out", is_replaceable=lambda directory: False) as new:
        (new.parent / "note.txt").write_text("mine")
    assert (tmp_path / "out").is_dir()
    assert [path.name for path in (tmp_path / ".out.writing").iterdir()] == ["note.txt"]
