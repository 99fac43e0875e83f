"""Tests shards on a real Ray cluster on this machine: the result equals the unsharded run, also when workers die."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from compact_hf.dataset.assemble import assemble
from compact_hf.errors import CompactError, StoppedEarly, TeacherError, UsageError
from compact_hf.methods.generate import generate
from compact_hf.runs.journal import FILE_NAME, Journal
from compact_hf.runs.ray import RUN_FILE, generate_on_ray
from compact_hf.runs.ray_worker import local_run_directory
from compact_hf.runs.run import RunProgress
from compact_hf.runs.shards import Shard, find_runs
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import KEY, ModelRequest

DRIVER_SOURCES = {"Coordinator": "class Coordinator(Base): pass", "run_shard": "def run_shard(*given): pass"}
SHARDS = (Shard(1, 2), Shard(2, 2))


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """The disk of the machines. Its path is short, because Ray puts Unix sockets into it, whose paths are limited."""
    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", directory)
        patch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


@pytest.fixture(scope="module")
def cluster(disk: Path) -> Iterator[str]:
    """The address of one Ray cluster for all tests, with two CPUs and the local server's key in its environment."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMINI_API_KEY", KEY)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture(scope="module")
def pictures(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven photographs, one of them twice."""
    directory = tmp_path_factory.mktemp("pictures")
    for file in few.iterdir():
        shutil.copy(file, directory)
    first = min(few.iterdir())
    shutil.copy(first, directory / f"again{first.suffix}")
    return directory


def hash_unsharded_run(directory: Path, out: Path, **settings: Any) -> dict[str, str]:
    """Return the hashes of the Parquet files of a run without shards."""
    with GeminiServer(accept_rate=0.7) as server:
        generate(str(directory), out, teacher_url=server.url, **settings)
    return hash_release(out)


def hash_release(run: Path) -> dict[str, str]:
    """Assemble a run, or the shards in a directory, and return each Parquet file's name with its hash."""
    out = run.parent / f"{run.name}-release"
    assemble(find_runs(run), out, version="1.0.0")
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*.parquet")
    }


def read_reply_keys(run: Path) -> set[str]:
    if not (run / FILE_NAME).exists():
        return set()
    with Journal.read(run) as journal:
        return {reply.key for _, _, reply in journal.replies()}


def request_keys(requests: list[ModelRequest], directory: Path) -> set[str]:
    """Return the journal keys of the requests that a server received."""
    from compact_hf.images.codec import encode_for_teacher
    from compact_hf.images.inspection import compute_image_id
    from compact_hf.records import digest

    image_ids = {
        encode_for_teacher(path.read_bytes()): compute_image_id(path.read_bytes()) for path in directory.iterdir()
    }
    return {digest(request.role, image_ids[request.image], request.prompt) for request in requests}


def worker_directory(out: Path, shard: Shard) -> Path:
    """Return the directory in which a shard is processed on this machine."""
    return local_run_directory(json.loads((out / RUN_FILE).read_text())["run"]) / shard.directory_name


def find_worker_pid(directory: Path) -> int:
    """Return the id of the process that works on a run directory: the one that has its lock file open."""
    lock = str(directory / "journal.lock")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and lock in map(_read_link, _list_directory(entry / "fd")):
            return int(entry.name)
    raise AssertionError(f"nobody works on {directory}")


def _list_directory(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _read_link(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_shards_come_back_as_the_run_that_is_not_cut(
    pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, updates = tmp_path / "out", list[RunProgress]()
    with GeminiServer(accept_rate=0.7) as server:
        progress = generate_on_ray(
            generate, str(pictures), out, shards=2, teacher_url=server.url, on_progress=updates.append
        )
        assert hash_release(out) == hash_unsharded_run(pictures, tmp_path / "run")
        assert not worker_directory(out, SHARDS[0]).parent.exists()
        # The duplicated image is processed by both shards, and assembly drops one of the two outcomes.
        assert progress.finished == progress.images == 8
        assert progress.sent == len(server.requests)
        assert updates[-1] == progress
        request_count = len(server.requests)
        second_progress = generate_on_ray(generate, str(pictures), out, shards=2, teacher_url=server.url)
        assert (second_progress.sent, len(server.requests)) == (0, request_count)
    assert capfd.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_limit_is_the_whole_runs(few: Path, tmp_path: Path) -> None:
    with GeminiServer(accept_rate=0.7) as server:
        progress = generate_on_ray(generate, str(few), tmp_path / "out", shards=2, limit=5, teacher_url=server.url)
    assert progress.finished == progress.images == 5
    assert hash_release(tmp_path / "out") == hash_unsharded_run(few, tmp_path / "run", limit=5)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("folder_is", ["kept", "lost"])
def test_a_killed_worker_loses_nothing(folder_is: str, few: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of a shard; if the disk is lost too, the next worker resumes from the last upload."""
    out, kept_keys, kill_numbers = tmp_path / "out", set[str](), list[int]()

    def kill(request: ModelRequest, number: int) -> Response | None:
        if (
            not kill_numbers
            and number >= 15
            and (folder_is == "kept" or len(read_reply_keys(out / SHARDS[0].directory_name)) > 3)
        ):
            kill_numbers.append(number)
            directory = worker_directory(out, SHARDS[0])
            os.kill(find_worker_pid(directory), signal.SIGKILL)
            kept_keys.update(read_reply_keys(directory if folder_is == "kept" else out / SHARDS[0].directory_name))
            if folder_is == "lost":
                shutil.rmtree(directory)
        return None

    with GeminiServer(accept_rate=0.7, latency_s=0.05 if folder_is == "kept" else 0.5, fault=kill) as server:
        progress = generate_on_ray(generate, str(few), out, shards=2, teacher_url=server.url, concurrency=2)
    assert (progress.finished, len(kill_numbers)) == (7, 1)
    assert len(kept_keys) > 3
    assert not kept_keys & request_keys(server.requests[kill_numbers[0] + 1 :], few)
    assert hash_release(out) == hash_unsharded_run(few, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_refused_key_ends_all_shards_with_the_teachers_line(pictures: Path, tmp_path: Path) -> None:
    with GeminiServer(key="another") as server, pytest.raises(TeacherError) as excinfo:
        generate_on_ray(generate, str(pictures), tmp_path / "out", shards=2, teacher_url=server.url)
    assert str(excinfo.value).startswith("shard 1/2 on ")
    assert "needs a valid key" in str(excinfo.value)
    assert "\n" not in str(excinfo.value)
    assert type(excinfo.value) is TeacherError


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_other_settings_are_refused_as_without_ray(tmp_path: Path) -> None:
    generate_on_ray(generate, "scenes:4", tmp_path / "out", shards=2)
    with pytest.raises(
        UsageError, match=rf"{tmp_path}/out/shard-1-of-2 was started with other settings \(seed was 0, now 1\)"
    ):
        generate_on_ray(generate, "scenes:4", tmp_path / "out", shards=2, seed=1)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_shards_together_keep_the_rate_and_the_budget_of_the_whole(few: Path, tmp_path: Path) -> None:
    times: list[float] = []

    def record_time(request: ModelRequest, number: int) -> Response | None:
        times.append(time.monotonic())
        return None

    out, rpm, max_requests = tmp_path / "out", 300.0, 41
    with GeminiServer(accept_rate=0.7, fault=record_time) as server:
        with pytest.raises(StoppedEarly, match="max"):
            generate_on_ray(
                generate, str(few), out, shards=2, teacher_url=server.url, rpm=rpm, max_requests=max_requests
            )
        assert len(server.requests) == max_requests
        seconds = times[-1] - times[0]
        # Each shard may begin with a burst of one second's requests.
        assert max_requests <= rpm / 60 * (seconds + 1) * 1.05 + 1
        assert max_requests > rpm / 60 * seconds * 0.55
        assert generate_on_ray(generate, str(few), out, shards=2, teacher_url=server.url).finished == 7
    assert hash_release(out) == hash_unsharded_run(few, tmp_path / "run")


CHILD = """
import sys
import tempfile
from compact_hf.errors import CompactError
from compact_hf.methods.generate import generate
from compact_hf.runs.ray import generate_on_ray

try:
    generate_on_ray(generate, sys.argv[1], sys.argv[2], shards=2, teacher_url=sys.argv[3], concurrency=2)
except CompactError as error:
    print(type(error).__name__, error, file=sys.stderr)
    sys.exit(error.exit_status)
"""


def start_child(few: Path, out: Path, server: GeminiServer, **environment: str | None) -> subprocess.Popen[str]:
    """Start a process with its own Ray cluster, without the key that conftest.py sets for every test."""
    child_environment = os.environ | {"RAY_ADDRESS": "local", "GEMINI_API_KEY": None} | environment
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(few), str(out), server.url],
        env={name: value for name, value in child_environment.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ctrl_c_finishes_what_is_in_flight_and_the_same_call_goes_on(few: Path, tmp_path: Path, disk: Path) -> None:
    out, limit_reached = tmp_path / "out", threading.Event()

    def count(request: ModelRequest, number: int) -> Response | None:
        if number == 15:
            limit_reached.set()
        return None

    with (
        GeminiServer(accept_rate=0.7, latency_s=0.5, fault=count) as server,
        start_child(few, out, server, GEMINI_API_KEY=KEY) as process,
    ):
        try:
            assert limit_reached.wait(60)
            commands = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, stdout) == (3, "")
    assert re.fullmatch(r"StoppedEarly stopped after \d images; run the same command again to resume\n", stderr)
    kept_keys = set.union(*(read_reply_keys(run) for run in find_runs(out)))
    assert kept_keys == request_keys(server.requests, few)
    for path in (*disk.rglob("*"), *out.rglob("*")):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert not any(KEY.encode() in command for command in commands)
    with GeminiServer(accept_rate=0.7) as server:
        generate_on_ray(generate, str(few), out, shards=2, teacher_url=server.url)
    assert not kept_keys & request_keys(server.requests, few)
    assert hash_release(out) == hash_unsharded_run(few, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.usefixtures("disk")
def test_a_machine_without_a_key_says_where_it_is_missing(few: Path, tmp_path: Path) -> None:
    with GeminiServer() as server, start_child(few, tmp_path / "out", server) as process:
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (2, "")
    assert re.match(r"UsageError shard \d/2 on \S+: the teacher gemini needs a key and found none", stderr)
    assert stderr.count("\n") == 1


@pytest.mark.slow
def test_keys_stay_in_the_environments_of_a_cluster_that_is_there(few: Path, tmp_path: Path, cluster: str) -> None:
    """The driver has no key, and the workers have theirs."""
    out = tmp_path / "out"
    with GeminiServer(accept_rate=0.7) as server, start_child(few, out, server, RAY_ADDRESS=cluster) as process:
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    assert hash_release(out) == hash_unsharded_run(few, tmp_path / "run")


@pytest.mark.slow
def test_a_cluster_that_was_killed_is_not_waited_for(few: Path, tmp_path: Path, disk: Path) -> None:
    (disk / "ray").mkdir(exist_ok=True)
    (disk / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    with (
        GeminiServer() as server,
        start_child(few, tmp_path / "out", server, GEMINI_API_KEY=KEY, RAY_ADDRESS=None) as process,
    ):
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("what", ["Coordinator", "run_shard"])
def test_a_machine_that_cannot_load_this_package_is_said_in_a_line(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers cannot find the file from which the driver has loaded the module."""
    module = tmp_path / f"only_here_{what}.py"
    module.write_text(f"from compact_hf.runs.ray_worker import Coordinator as Base\n{DRIVER_SOURCES[what]}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(f"compact_hf.runs.ray.{what}", getattr(import_module(module.stem), what))
    module.unlink()
    with pytest.raises(CompactError, match=r"a machine of the Ray cluster cannot load .*No module named 'only_here"):
        generate_on_ray(generate, "scenes:4", tmp_path / "out", shards=2)
