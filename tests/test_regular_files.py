from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compact_hf.regular_files import (
    check_regular,
    check_regular_files,
    describe_kind,
    open_regular,
    read_regular,
    read_regular_text,
)
from tests.irregular import IRREGULAR, released_pipes


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("function", [check_regular, open_regular, read_regular, read_regular_text])
def test_what_is_no_regular_file_is_an_error_at_once(
    kind: str, function: Callable[[Path], object], tmp_path: Path
) -> None:
    make, message = IRREGULAR[kind]
    make(tmp_path / "it")
    with released_pipes(tmp_path), pytest.raises(OSError, match=message):
        function(tmp_path / "it")


def test_directories_and_missing_files_raise_the_usual_errors(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")


def test_regular_files_are_read_also_through_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\r\nb\xff")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link") == b"a\r\nb\xff"
    assert read_regular_text(tmp_path / "link", errors="replace") == "a\nb\N{REPLACEMENT CHARACTER}"
    with pytest.raises(UnicodeDecodeError):
        read_regular_text(tmp_path / "link")


def test_no_more_is_read_than_allowed(tmp_path: Path) -> None:
    with (tmp_path / "vast").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        read_regular(tmp_path / "vast", max_bytes=1000)
    (tmp_path / "file").write_bytes(bytes(1000))
    assert len(read_regular(tmp_path / "file", max_bytes=1000)) == 1000


def test_a_file_that_is_longer_than_it_states_is_read_and_bounded() -> None:
    path = Path("/proc/self/status")
    if not path.exists() or path.stat().st_size:
        pytest.skip("needs Linux")
    assert b"Pid:" in read_regular(path)
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_regular(path, max_bytes=10)


def test_the_kind_is_that_of_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "to a directory").symlink_to(tmp_path)
    (tmp_path / "to a file").symlink_to("file")
    (tmp_path / "to nothing").symlink_to("nothing")
    (tmp_path / "to itself").symlink_to("to itself")
    kinds = [describe_kind(tmp_path / f"to {target}") for target in ("a directory", "a file", "nothing", "itself")]
    assert kinds == ["directory", "regular file", "broken link", "broken link"]


def test_a_directory_is_searched_at_all_depths_for_what_would_be_waited_for(tmp_path: Path) -> None:
    (tmp_path / "data" / "k1").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nothing")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / ".git").mkdir()
    make_pipe = IRREGULAR["pipe"][0]
    make_pipe(tmp_path / ".git" / "pipe")
    make_pipe(tmp_path / ".pipe")
    check_regular_files(tmp_path)
    make_pipe(tmp_path / "data" / "k1" / "pipe")
    with pytest.raises(OSError, match="data/k1/pipe is a named pipe, not a regular file"):
        check_regular_files(tmp_path)
