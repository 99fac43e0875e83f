"""Tests a directory of images that changes during a run, between its sessions, and before assembly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.responses import Response

from compact_hf.errors import SourceError, StoppedEarly
from compact_hf.images.inspection import compute_image_id
from compact_hf.methods.assembly import AssemblyOptions, iter_rows
from compact_hf.methods.generate import RunProgress, generate
from compact_hf.records import Reject, Row
from compact_hf.testing.gemini import GeminiServer, ModelRequest
from tests.teachers.asking import photograph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "pictures"
    directory.mkdir()
    for index in range(6):
        (directory / f"{index}.jpg").write_bytes(photograph(64 + index))
    return directory


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as gemini_server:
        yield gemini_server


def read_images(run: Path) -> dict[str, bytes]:
    """Read the images of a run as assembly does: image id -> bytes of the file."""
    rows = [item for item in iter_rows([run], AssemblyOptions()) if isinstance(item, Row)]
    return {row.image_id or "": row.read_images[0]() for row in rows if row.read_images}


def list_missing_refs(run: Path) -> list[str]:
    return [
        item.subject
        for item in iter_rows([run], AssemblyOptions())
        if isinstance(item, Reject) and item.reason == "picture is gone"
    ]


def test_pictures_that_vanished_are_named_then_left_out_and_come_back(
    folder: Path, server: GeminiServer, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    generate(str(folder), run, teacher_url=server.url)
    request_count = len(server.requests)
    (folder / "3.jpg").rename(tmp_path / "aside.jpg")
    with pytest.raises(SourceError, match=r"3\.jpg in .* can no longer be read"):
        read_images(run)
    generate(str(folder), run, teacher_url=server.url)
    assert list_missing_refs(run) == ["3.jpg"]
    assert len(read_images(run)) == 5
    (tmp_path / "aside.jpg").rename(folder / "3.jpg")
    generate(str(folder), run, teacher_url=server.url)
    assert len(read_images(run)) == 6
    assert len(server.requests) == request_count


def test_a_picture_that_was_replaced_is_asked_about_anew(folder: Path, server: GeminiServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    generate(str(folder), run, teacher_url=server.url)
    new_image = photograph(300, 200)
    (folder / "3.jpg").write_bytes(new_image)
    with pytest.raises(SourceError, match=r"3\.jpg in .* is not the same image as before: restore the image, or run"):
        read_images(run)
    generate(str(folder), run, teacher_url=server.url)
    assert list_missing_refs(run) == ["3.jpg"]
    assert read_images(run)[compute_image_id(new_image)]


def replace_at_the_same_time(file: Path) -> None:
    """Replace a file by another image of the same size and modification time, as `cp -p` may."""
    stat, new_image = file.stat(), photograph(80, 60)
    file.write_bytes(new_image + bytes(stat.st_size - len(new_image)))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


@pytest.mark.parametrize(
    ("change", "message", "count"),
    [
        (lambda file: file.unlink(), r"can no longer be read .*: .* or run the command .* again, which leaves it", 5),
        (lambda file: file.write_bytes(b"no image"), "is not the same image .*, or run the command .* again, which", 5),
        (lambda file: file.write_bytes(photograph(300, 200)), "is not the same image .*, or run the command", 6),
        (
            replace_at_the_same_time,
            "is not the same image .*, or run the command .* again, which treats it as a new",
            6,
        ),
    ],
)
def test_the_advice_about_a_changed_image_works(
    change: Callable[[Path], None], message: str, count: int, folder: Path, server: GeminiServer, tmp_path: Path
) -> None:
    (folder / "3.jpg").write_bytes(photograph(600, 400))
    generate(str(folder), tmp_path / "run", teacher_url=server.url)
    change(folder / "3.jpg")
    with pytest.raises(SourceError, match=message):
        read_images(tmp_path / "run")
    generate(str(folder), tmp_path / "run", teacher_url=server.url)
    assert len(read_images(tmp_path / "run")) == count


def test_pictures_that_were_moved_within_the_folder_are_found(
    folder: Path, server: GeminiServer, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    generate(str(folder), run, teacher_url=server.url)
    request_count, before = len(server.requests), read_images(run)
    (folder / "sub").mkdir()
    (folder / "3.jpg").rename(folder / "sub" / "three.jpg")
    generate(str(folder), run, teacher_url=server.url)
    assert len(server.requests) == request_count
    assert read_images(run) == before


def test_a_picture_that_changes_while_it_is_asked_about_is_not_paid_for_under_its_old_name(
    folder: Path, tmp_path: Path
) -> None:
    """All images are replaced after inspection; all but the first one before they are sent."""
    new_images = {file.name: photograph(400 + index) for index, file in enumerate(sorted(folder.iterdir()))}

    def replace(request: ModelRequest, number: int) -> Response | None:
        if number == 0:
            for name, data in new_images.items():
                (folder / name).write_bytes(data)
        return None

    with GeminiServer(fault=replace) as server, pytest.raises(StoppedEarly, match="not the same image as before"):
        generate(str(folder), tmp_path / "run", teacher_url=server.url, concurrency=1)
    with GeminiServer() as server:
        generate(str(folder), tmp_path / "run", teacher_url=server.url)
    images = read_images(tmp_path / "run")
    assert images.keys() == {compute_image_id(data) for data in new_images.values()}


def test_a_run_inside_its_own_folder_of_pictures_asks_about_no_file_of_its_own(
    folder: Path, server: GeminiServer
) -> None:
    for _ in range(2):
        progress = generate(str(folder), folder / "run", teacher_url=server.url)
        assert (progress.images, progress.finished) == (6, 6)


def test_the_count_never_says_more_done_than_there_is(folder: Path, server: GeminiServer, tmp_path: Path) -> None:
    (folder / "copy.jpg").write_bytes((folder / "0.jpg").read_bytes())
    (folder / "empty.jpg").touch()
    updates: list[RunProgress] = []
    for limit in (5, 2, None):
        final_progress = generate(
            str(folder), tmp_path / "run", teacher_url=server.url, limit=limit, on_progress=updates.append
        )
        assert final_progress.finished == final_progress.images == (6 if limit is None else 5)
    assert all(progress.finished <= progress.images for progress in updates)


def test_fewer_scenes_or_a_lower_limit_say_that_the_others_stay_in_the_run(tmp_path: Path) -> None:
    def run(source: str, **options: int) -> list[str]:
        notes: list[str] = []
        generate(source, tmp_path / "run", on_wait=notes.append, **options)  # type: ignore[call-overload]
        return notes

    assert run("scenes:5") == run("scenes:5") == run("scenes:6") == []
    for notes in (run("scenes:2"), run("scenes:6", limit=2), run("scenes:4-8", limit=4)):
        (note,) = notes
        assert note.startswith("the run also has 4 finished images that this call does not select")
    assert run("scenes:8") == []


def test_a_limit_draws_from_the_whole_folder_and_a_larger_one_adds(
    folder: Path, server: GeminiServer, tmp_path: Path
) -> None:
    for index in range(6, 30):
        (folder / f"{index}.jpg").write_bytes(photograph(64 + index))
    first_ids = {compute_image_id((folder / f"{index}.jpg").read_bytes()) for index in range(5)}
    generate(str(folder), tmp_path / "run", teacher_url=server.url, limit=5)
    image_ids = read_images(tmp_path / "run").keys()
    assert len(image_ids) == 5
    assert image_ids != first_ids
    generate(str(folder), tmp_path / "run", teacher_url=server.url, limit=8)
    assert len(read_images(tmp_path / "run")) == 8
    assert image_ids < read_images(tmp_path / "run").keys()
