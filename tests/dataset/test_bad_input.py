"""Tests that invalid input of `compact publish` gives one clear line and status 1 or 2, and does not change the Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compact_hf.dataset.writer import write_dataset
from tests.doubles.hub.http import READ_TOKEN
from tests.doubles.hub.server import HubRequest, HubServer
from tests.doubles.hub.store import MAIN, File, Repository
from tests.hub.clients import run_source

from .samples import contents, make_rows

K2: Final = "data/k2/train-00000-of-00001.parquet"
COMMANDS: Final = """
import contextlib, io, json, os, sys
from pathlib import Path
from compact_hf.cli.main import main

told = {}
for case, (arguments, token) in json.loads(Path(sys.argv[1]).read_text()).items():
    os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    told[case] = [status, out.getvalue(), err.getvalue()]
"""


def truncate(release: Path) -> None:
    data = (release / K2).read_bytes()
    (release / K2).write_bytes(data[: len(data) // 2])


def narrow_k_type(release: Path) -> None:
    table = pq.read_table(release / K2)
    index = table.schema.get_field_index("k")
    pq.write_table(table.set_column(index, "k", table["k"].cast(pa.int32())), release / K2)


def drop_first_row(release: Path) -> None:
    pq.write_table(pq.read_table(release / K2).slice(1), release / K2)


def swap_configs(release: Path) -> None:
    card = release / "README.md"
    assert "data/k2/train" in card.read_text()
    card.write_text(card.read_text().replace("data/k2/train", "data/k1/train"))


DEFECTS: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "a Parquet file is missing": (lambda path: (path / K2).unlink(), "card's configs do not match the files"),
    "a Parquet file is cut": (truncate, "unreadable file: " + K2),
    "a file is no Parquet file": (lambda path: (path / K2).write_bytes(b"not Parquet" * 99), "unreadable file: " + K2),
    "a Parquet file of something else": (
        lambda path: pq.write_table(pa.table({"text": ["a"]}), path / K2),
        "schema differs: data/k2/train-00000-of-00001.parquet the columns are text; they should be id, images,",
    ),
    "a Parquet file more": (
        lambda path: shutil.copy(path / K2, path / "data" / "more.parquet"),
        "unexpected file: data/more.parquet",
    ),
    "a column has another type": (narrow_k_type, "schema differs: " + K2 + " k is int32; it should be int64"),
    "the card counts other rows": (drop_first_row, "card's counts are wrong: README.md config all has"),
    "the card names other files": (swap_configs, "card's configs do not match the files: README.md"),
    "a name that collides": (
        lambda path: (path / "compact.py").write_text("raise SystemExit"),
        "unexpected file: compact.py",
    ),
}
REFUSALS: Final[dict[str, tuple[int, str]]] = {
    "the version exists": (
        1,
        "org/there is at v1.0.0, and v1.0.0 exists already; published versions are never replaced",
    ),
    "bad characters": (2, "'org/com pact' is not the name of a repository"),
    "no namespace": (2, "'compact' is not the name of a repository: give namespace/name"),
    "no token": (1, "no token for the Hub was found: set HF_TOKEN, or run `hf auth login`"),
    "a wrong token": (1, "the Hub rejected the token (401"),
    "a token that only reads": (1, "the token may not create org/new (403"),
    "a token that only reads what is there": (1, "the token may not open pull requests in org/there (403"),
    "another's namespace": (1, "the token may not create someone/compact (403"),
    "a name that collides in the repository": (
        1,
        "files that do not belong to a release and would be lost (compact.py)",
    ),
    "no folder": (2, "nowhere is not a directory: give the directory to publish"),
}


@dataclass(frozen=True)
class PublishResults:
    """The output of the commands, the requests to the server, and its repositories."""

    results: dict[str, Any]
    requests: list[HubRequest]
    existing: Repository
    colliding: Repository
    server: HubServer


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> PublishResults:
    directory = tmp_path_factory.mktemp("bad")
    write_dataset(make_rows(60), directory / "whole", sources=("compact",), version="1.0.0")
    write_dataset(make_rows(61), directory / "more", sources=("compact",), version="1.1.0")
    write_dataset(make_rows(61), directory / "other", sources=("compact",), version="1.0.0")
    commands = {}
    for number, (case, (spoil, _)) in enumerate(DEFECTS.items()):
        spoiled = Path(shutil.copytree(directory / "whole", directory / f"spoiled {number}"))
        spoil(spoiled)
        commands[f"publish: {case}"] = (["publish", str(spoiled), "org/new"], "hf_test")
        commands[f"dry run: {case}"] = (["publish", str(spoiled), "org/new", "--dry-run"], "hf_test")
        commands[f"validate: {case}"] = (["validate", str(spoiled)], "")
    with HubServer() as server:
        existing, colliding = (
            server.store.create("dataset", f"org/{name}", private=False, author="tester")
            for name in ("there", "script")
        )
        attributes = existing.get_commit("main").files[".gitattributes"]
        colliding.add_commit(MAIN, {"compact.py": attributes}, title="script", message="", author="tester")
        files = {
            path: File.from_bytes(data, lfs=path.endswith(".parquet"))
            for path, data in contents(directory / "whole").items()
        }
        existing.add_commit(MAIN, files, title="Release v1.0.0", message="", author="tester")
        existing.add_tag("v1.0.0", "main")
        commands |= {
            "the version exists": (["publish", str(directory / "other"), "org/there"], "hf_test"),
            "bad characters": (["publish", str(directory / "whole"), "org/com pact"], "hf_test"),
            "no namespace": (["publish", str(directory / "whole"), "compact"], "hf_test"),
            "no token": (["publish", str(directory / "whole"), "org/new"], ""),
            "a wrong token": (["publish", str(directory / "whole"), "org/new"], "hf_wrong"),
            "a token that only reads": (["publish", str(directory / "whole"), "org/new"], READ_TOKEN),
            "a token that only reads what is there": (["publish", str(directory / "more"), "org/there"], READ_TOKEN),
            "another's namespace": (["publish", str(directory / "whole"), "someone/compact"], "hf_test"),
            "a name that collides in the repository": (["publish", str(directory / "whole"), "org/script"], "hf_test"),
            "no folder": (["publish", str(directory / "nowhere"), "org/new"], "hf_test"),
        }
        (directory / "commands.json").write_text(json.dumps(commands))
        results = run_source(server, COMMANDS, directory / "commands.json", home=directory / "home")
        return PublishResults(results, list(server.requests), existing, colliding, server)


@pytest.mark.parametrize("case", DEFECTS)
def test_a_spoiled_release_is_refused_in_one_line(case: str, way: PublishResults) -> None:
    for command in ("publish", "dry run"):
        status, out, err = way.results[f"{command}: {case}"]
        (line,) = err.splitlines()
        assert (status, out) == (1, "")
        assert line.startswith("compact: ")
        assert "is not a valid release (" in line
        assert "and was not published: list the problems with compact validate " in line


@pytest.mark.parametrize("case", DEFECTS)
def test_validate_says_what_is_wrong_and_where(case: str, way: PublishResults) -> None:
    status, out, err = way.results[f"validate: {case}"]
    assert status == 1
    assert DEFECTS[case][1] in out
    assert " is not a valid release: " in err.splitlines()[-1]


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_hub_or_its_state_refuses_is_one_line(case: str, way: PublishResults) -> None:
    status, out, err = way.results[case]
    expected, part = REFUSALS[case]
    line = err.splitlines()[-1]
    assert (status, out) == (expected, "")
    assert line.startswith("compact: ")
    assert part in line
    assert "hf_" not in err, "a token must not be shown"


def test_nothing_was_created_or_changed(way: PublishResults) -> None:
    """Only if the missing permission of a token cannot be known locally, a write request was sent."""
    writes = {(request.method, request.path) for request in way.requests if request.method not in ("GET", "HEAD")}
    assert writes - {("POST", "/api/validate-yaml")} <= {
        ("POST", "/api/repos/create"),
        ("POST", "/api/datasets/org/there/discussions"),
    }
    assert not any(way.server.store.has("dataset", name) for name in ("org/new", "someone/compact"))
    assert [commit.title for commit in way.existing.history("main")] == ["Release v1.0.0", "initial commit"]
    assert list(way.colliding.get_commit("main").files) == ["compact.py"]
    for repository in (way.existing, way.colliding):
        assert (repository.pull_requests, len(repository.refs)) == ([], 1 + (repository is way.existing))
