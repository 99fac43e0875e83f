"""Runs the real clients of the Hub against the test server, in separate processes with their own settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests import preforked
from tests.doubles.hub.server import HubServer
from tests.doubles.hub.store import Repository

ROOT: Final = Path(__file__).parents[2]
COMPACT: Final = "import sys; from compact_hf.cli.main import main; sys.exit(main())"
PUSH: Final = """
import sys
from compact_hf.hub.push import push
pushed = push(sys.argv[1], "org/things", repo_type="dataset", message="Release v1", tag="v1")
told = [pushed.commit, pushed.tag, pushed.url]
"""
_PRINT_RESULT: Final = "\nimport json; print('told:' + json.dumps(told))"


def start(
    server: HubServer,
    source: str,
    *arguments: object,
    home: Path,
    popen: type[subprocess.Popen[str]] = preforked.Popen,
    **environment: str,
) -> subprocess.Popen[str]:
    """Start Python source in a process that uses the server as its Hub.

    `home` is the directory of its cache. `popen` is `subprocess.Popen` if the process must not have imported anything.
    """
    return popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | server.environment | {"HF_HOME": str(home)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    server: HubServer, source: str, *arguments: object, home: Path, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python source as in `start`, and wait for its end."""
    with start(server, source, *arguments, home=home, **options) as process:
        try:
            out, err = process.communicate(timeout=500)
        finally:
            process.kill()  # a process that hangs must not outlive its test
    return subprocess.CompletedProcess(source, process.returncode, out, err)


def run_source(server: HubServer, source: str, *arguments: object, home: Path, **options: Any) -> Any:
    """Run Python source as in `start`, wait for its end, and return the value of its variable `told`."""
    process = run(server, source + _PRINT_RESULT, *arguments, home=home, **options)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.rpartition("told:")[2])


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def revision_files(repository: Repository, revision: str) -> dict[str, bytes]:
    """Return the files of a revision, without those that the Hub adds."""
    files = repository.get_commit(revision).files
    return {path: file.data for path, file in files.items() if path != ".gitattributes"}


def get_repository(server: HubServer) -> Repository:
    return server.store.repository("dataset", "org/things")


def statuses(repository: Repository) -> list[str]:
    return [pull.status for pull in repository.pull_requests]
