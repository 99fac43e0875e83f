"""Tests the command line: data on stdout, messages on stderr, one clear line for each error, and exit statuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compact_hf.cli.main import main
from compact_hf.scenes.scene import EVALUATION_SEEDS
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import KEY
from tests.disk import limited_file_size
from tests.teachers.asking import photograph

SCENES = "scenes:12"


def test_a_full_disk_is_one_line_wherever_it_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands report the path themselves; this is for files of libraries, such as their caches."""
    write = lambda: (tmp_path / "cache").write_bytes(bytes(2_000))  # noqa: E731
    monkeypatch.setattr("compact_hf.training.recipes.recipe_names", write)
    with limited_file_size(1_000):
        assert main(["recipe", "list"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("compact: a file cannot be written ([Errno 27] File too large): free disk space and run")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    directory = tmp_path / "pictures"
    directory.mkdir()
    (directory / "a.jpg").write_bytes(photograph())
    return directory


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finished") / "run"
    assert main(["generate", SCENES, "--out", str(directory), "--noise", "0.5"]) == 0
    return directory


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def run_failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that must fail, and return its status and its one-line error."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    line = output.err.strip().splitlines()[-1]
    assert line.startswith("compact"), output.err
    return status, line


ADDRESS_HINT = "is not the address of a dataset: write hf://datasets/org/name"
BAD_COMMANDS: dict[str, tuple[list[str], int, str]] = {
    "no key": (["generate", "PICTURES", "--out", "NEW"], 2, "set GEMINI_API_KEY"),
    "unknown teacher": (["generate", SCENES, "--out", "NEW", "--teacher", "gemimi"], 2, "did you mean gemini?"),
    "no model": (["generate", "PICTURES", "--out", "NEW", "--teacher", "openai"], 2, "--teacher openai:MODEL"),
    "no key for OpenAI": (
        ["generate", "PICTURES", "--out", "NEW", "--teacher", "openai:m", "--teacher-url", "https://api.openai.com"],
        2,
        "set OPENAI_API_KEY",
    ),
    "scenes on photographs": (
        ["generate", "PICTURES", "--out", "NEW", "--teacher", "scenes"],
        2,
        "only supports drawn scenes",
    ),
    "k of 0": (["generate", SCENES, "--out", "NEW", "--k", "0"], 2, "a question needs 1 to 10"),
    "k of 11": (["generate", SCENES, "--out", "NEW", "--k", "1,11"], 2, "a question needs 1 to 10"),
    "k without questions": (["generate", SCENES, "--out", "NEW", "--k", "6"], 2, "has questions for k = 1 to 5"),
    "k that is no number": (["generate", SCENES, "--out", "NEW", "--k", "one"], 2, "such as 1,2,3"),
    "a mistyped option that is required": (["generate", SCENES, "--outt", "NEW"], 2, "did you mean --out?"),
    "a mistyped option of another command": (["evaluate", "m", SCENES, "--outt=NEW"], 2, "did you mean --out?"),
    "an empty folder without a key": (["generate", "EMPTY", "--out", "NEW"], 1, "is empty: put JPEG, PNG or WebP"),
    "a negative budget": (["generate", SCENES, "--out", "NEW", "--max-cost", "-1"], 2, "got --max-cost -1: it must"),
    "an adapter that is none": (["adapter", "merge", "NOWHERE", "--out", "NEW"], 2, "there is no such directory, and"),
    "scenes to evaluate that are none": (["evaluate", "openai:m", "scenes:x", "--out", "NEW"], 2, "is not scenes:N"),
    "no such folder": (["generate", "NOWHERE", "--out", "NEW", "--teacher", "gemini"], 2, "no such directory"),
    "an address of something else": (["generate", "hf://foo", "--out", "NEW", "--teacher", "gemini"], 2, ADDRESS_HINT),
    "an address of a website": (["generate", "https://hf.co/datasets/a/b", "--out", "NEW"], 2, ADDRESS_HINT),
    "annotate something else": (["annotate", "hf://foo", "--out", "NEW"], 2, ADDRESS_HINT),
    "analyze something else": (["analyze", "hf://foo"], 2, ADDRESS_HINT),
    "validate something else": (["validate", "hf://foo"], 2, "give the directory of a release, or org/name"),
    "no scenes": (["generate", "scenes:0", "--out", "NEW"], 2, "contains no scenes"),
    "reserved scenes": (
        ["generate", f"scenes:{EVALUATION_SEEDS.start}-{EVALUATION_SEEDS.start + 5}", "--out", "NEW"],
        2,
        "reserved for evaluation",
    ),
    "no pictures at a time": (["generate", SCENES, "--out", "NEW", "--concurrency", "0"], 2, "must be at least 1"),
    "unknown preset": (["generate", SCENES, "--out", "NEW", "--preset", "fast"], 2, "there are paper, efficient"),
    "no rate": (["generate", SCENES, "--out", "NEW", "--rpm", "0"], 2, "got --rpm 0: it must be above 0"),
    "no budget": (["generate", SCENES, "--out", "NEW", "--max-requests", "0"], 2, "must be at least 1"),
    "one price": (["generate", SCENES, "--out", "NEW", "--price-in", "1"], 2, "give both"),
    "no such part": (["generate", SCENES, "--out", "NEW", "--shard", "3/2"], 2, "such as 2/8"),
    "more parts than pictures": (["generate", SCENES, "--out", "NEW", "--shard", "99/99"], 2, "fewer shards"),
    "no edge": (["generate", SCENES, "--out", "NEW", "--max-edge", "0"], 2, "at least 1"),
    "ray without parts": (["generate", SCENES, "--out", "NEW", "--runner", "ray"], 2, "give --shards N"),
    "parts without ray": (["generate", SCENES, "--out", "NEW", "--shards", "2"], 2, "needs --runner ray"),
    "a dry run of nothing": (["generate", "NOWHERE", "--out", "NEW", "--dry-run"], 2, "no such directory"),
    "a dry run with a teacher that is none": (
        ["generate", SCENES, "--out", "NEW", "--dry-run", "--teacher", "gemimi"],
        2,
        "did you mean gemini?",
    ),
    "batches of one question": (
        ["generate", "PICTURES", "--out", "NEW", "--dry-run", "--teacher", "gemini-batch"],
        2,
        "use --preset efficient",
    ),
    "noise for nobody": (["generate", SCENES, "--out", "NEW", "--noise", "2"], 2, "0 (no faults) to 1"),
    "--out is full of something else": (["generate", SCENES, "--out", "PICTURES"], 2, "not a run"),
    "--out is a file": (["generate", SCENES, "--out", "FILE"], 2, "is a file"),
    "status of nothing": (["status", "NOWHERE"], 2, "is not a run"),
    "assemble nothing": (["assemble", "NOWHERE", "--out", "NEW", "--version", "1.0.0"], 2, "is not a run"),
    "a version that is none": (["assemble", "RUN", "--out", "NEW", "--version", "one"], 2, "is not a version"),
    "assemble over something else": (
        ["assemble", "RUN", "--out", "PICTURES", "--version", "1.0.0"],
        1,
        "has contents other",
    ),
    "an image root alone": (
        ["assemble", "RUN", "--out", "NEW", "--version", "1.0.0", "--image-root", "PICTURES"],
        2,
        "--image-root needs an instruction file",
    ),
    "validate nothing": (["validate", "NOWHERE"], 2, "is not a directory"),
    "publish nothing": (["publish", "NOWHERE", "org/compact"], 2, "is not a directory"),
    "publish without a namespace": (["publish", "PICTURES", "compact"], 2, "give namespace/name"),
    "publish offline": (["publish", "PICTURES", "org/compact"], 1, "HF_HUB_OFFLINE is set"),
    "unknown recipe": (["tune", "tiny-gpu"], 2, "tiny-cpu"),
    "settings without names": (["tune", "tiny-cpu", "output_dir", "x"], 2, "--name value"),
    "evaluate no model": (["evaluate", "NOWHERE", "scenes:2", "--out", "NEW"], 2, "NOWHERE"),
    "demo over something else": (["demo", "--out", "PICTURES"], 2, "not a demo"),
    "a demo too small": (["demo", "--out", "NEW", "--scenes", "3"], 2, "at least 40"),
    "unknown command": (["genrate"], 2, "did you mean generate?"),
    "unknown option": (["status", "RUN", "--jsn"], 2, "unrecognized arguments: --jsn; did you mean --json?"),
    "unknown choice": (["generate", "PICTURES", "--out", "NEW", "--runner", "rey"], 2, "did you mean ray?"),
    "misspelt preset": (["generate", "scenes:2", "--out", "NEW", "--preset", "efficent"], 2, "did you mean efficient?"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_bad_input_gets_one_clear_line(
    case: str, tmp_path: Path, pictures: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, status, message = BAD_COMMANDS[case]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    paths = {
        "EMPTY": tmp_path / "empty",
        "PICTURES": pictures,
        "NEW": tmp_path / "new",
        "NOWHERE": tmp_path / "nowhere",
        "RUN": run,
        "FILE": tmp_path / "file",
    }
    actual, line = run_failing(capsys, *(str(paths.get(argument, argument)) for argument in arguments))
    assert actual == status, line
    assert message in line or message in line.replace(str(tmp_path / "nowhere"), "NOWHERE")
    assert [path.name for path in pictures.iterdir()] == ["a.jpg"]
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_and_one_without_pictures_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.mkdir()
    text.mkdir()
    (text / "notes.txt").write_text("no picture")
    assert run_failing(capsys, "generate", str(empty), "--out", str(tmp_path / "run")) == (
        1,
        f"compact: {empty} is empty: put JPEG, PNG or WebP files into it",
    )
    status, line = run_failing(capsys, "generate", str(text), "--out", str(tmp_path / "run"))
    assert (status, "1 .txt" in line) == (1, True)


def test_a_server_that_is_not_there_ends_in_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    url = "http://127.0.0.1:9"
    status, line = run_failing(capsys, "generate", str(pictures), "--out", str(tmp_path / "run"), "--teacher-url", url)
    assert status == 1
    assert f"{url} cannot be reached" in line
    assert "nothing is lost" in line


def test_a_wrong_key_ends_in_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "a-wrong-key")
    with GeminiServer() as server:
        status, line = run_failing(
            capsys, "generate", str(pictures), "--out", str(tmp_path / "run"), "--teacher-url", server.url
        )
    assert status == 1
    assert "needs a valid key" in line
    assert "a-wrong-key" not in line


def test_an_extra_that_is_not_installed_is_named_with_the_command_that_installs_it(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ray_options = ("--runner", "ray", "--shards", "2")
    assert run_failing(capsys, "generate", str(pictures), "--out", str(tmp_path / "run"), *ray_options) == (
        1,
        "compact: ray is not installed: run pip install 'compact_hf[ray]'",
    )


def test_sigterm_ends_any_command_like_ctrl_c(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compact_hf.methods.status.status", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    previous = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert run_failing(capsys, "status", str(run)) == (
            3,
            "compact: interrupted; finished work is kept: run the same command again to resume",
        )
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_run_of_another_seed_is_refused_and_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "journal.sqlite").read_bytes()
    status, line = run_failing(capsys, "generate", SCENES, "--out", str(run), "--noise", "0.5", "--seed", "7")
    assert status == 2
    assert "seed was 0, now 7" in line
    assert (run / "journal.sqlite").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    # No user, not even root, can create a directory in /proc.
    status, line = run_failing(capsys, "generate", SCENES, "--out", "/proc/run")
    assert (status, "cannot be written" in line) == (1, True)


def test_generate_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", SCENES, "--out", str(tmp_path / "run")]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert "12 of 12" in output.err
    assert "compact assemble" in output.err


def test_status_is_a_table_for_people_and_json_for_machines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    table = capsys.readouterr().out
    assert "dropped at" in table
    assert "planted" in table
    assert main(["status", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["finished"] == 12
    assert result["questions"] == sum(result["questions_by_k"].values()) > 0


def test_assemble_and_validate_say_what_is_there(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = tmp_path / "release"
    assert main(["assemble", str(run), "--out", str(release), "--version", "1.0.0"]) == 0
    assert "compositional" in capsys.readouterr().out
    assert main(["validate", str(release)]) == 0
    assert "is valid" in capsys.readouterr().err
    next(release.rglob("*.parquet")).write_bytes(b"PAR1")
    assert main(["validate", str(release)]) == 1
    assert "unreadable file" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["demo", "generate", "status", "assemble", "validate", "publish", "tune", "evaluate"])
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as excinfo:
        main([name, "--help"])
    assert excinfo.value.code == 0
    assert f"example: compact {name}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("command", "modules"), [("--help", set()), ("ablate", {"ablate"}), ("validate", {"dataset"})])
def test_only_the_command_that_is_called_is_imported(command: str, modules: set[str]) -> None:
    code = (
        "import sys; from compact_hf.cli.main import make_parser; make_parser(sys.argv[1:]).format_help()\n"
        "print(*(name.rpartition('.')[2] for name in sys.modules if name.startswith('compact_hf.cli.')))"
    )
    output = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=True).stdout
    assert set(output.split()) == {"console", "main", "parser"} | modules
