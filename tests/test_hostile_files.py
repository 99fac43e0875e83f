"""Tests that each command that reads JSON or YAML from outside refuses hostile files in one line within seconds."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from compact_hf.cli.main import main
from tests import preforked
from tests.dataset.samples import make_row
from tests.hub.clients import COMPACT, ROOT

DEEP = "[" * 100_000
DEEP_YAML = f"---\ntags: {'[' * 20_000}\n---\n"
BOMB = "---\na: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n" for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_release(directory: Path, readme: str) -> Path:
    from compact_hf.dataset.writer import write_dataset

    write_dataset([make_row(1)], directory, sources=("compact",), version="1.0.0")
    write(directory / "README.md", readme)
    return directory


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "recipe": lambda tmp: ["tune", str(write(tmp / "a.yaml", DEEP)), "--output_dir", str(tmp / "out")],
    "recipe with aliases": lambda tmp: ["tune", str(write(tmp / "a.yaml", BOMB)), "--output_dir", str(tmp / "out")],
    "experiment": lambda tmp: ["ablate", str(write(tmp / "a.yaml", BOMB)), "--out", str(tmp / "out")],
    "LLaVA file": lambda tmp: ["annotate", str(write(tmp / "a.json", DEEP)), "--out", str(tmp / "out")],
    "training run": lambda tmp: [
        *("tune", "tiny-cpu", "--model_name_or_path", "base", "--dataset_name", str(tmp)),
        *("--output_dir", str(write(tmp / "out" / ".compact-tune", DEEP).parent)),
    ],
    "results of lmms-eval": lambda tmp: ["benchmarks", "table", str(write(tmp / "1_results.json", DEEP))],
    "card of a dataset": lambda tmp: ["validate", str(write_release(tmp / "out", DEEP_YAML))],
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_hostile_file_ends_a_command_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(COMMANDS[command](tmp_path)) in (1, 2)
    out, err = capsys.readouterr()
    message = err if command != "card of a dataset" else out
    assert "nested" in message or "100000 values" in message
    assert message.count("\n") == 1


def test_an_adapters_config_and_a_card_of_a_base_are_read_with_limits(tmp_path: Path) -> None:
    from compact_hf.errors import TuningError
    from compact_hf.models.adapter import read_adapter_config
    from compact_hf.training.model_card import read_base_license
    from compact_hf.training.training_record import TrainingRecord, read_training_record

    write(tmp_path / "adapter_config.json", DEEP)
    write(tmp_path / "README.md", BOMB)
    write(tmp_path / "training.json", '{"settings": ' + DEEP)
    for read in (
        lambda: read_adapter_config(tmp_path),
        lambda: read_base_license(TrainingRecord(base=str(tmp_path))),
        lambda: read_training_record(tmp_path),
    ):
        with pytest.raises(TuningError) as excinfo:
            read()
        assert "\n" not in str(excinfo.value)


@pytest.fixture
def hostile_server() -> Iterator[str]:
    """A server that answers every request with deeply nested JSON."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(DEEP)))
            self.end_headers()
            self.wfile.write(DEEP.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_hostile_reply_of_the_hub_is_one_line(hostile_server: str, tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": hostile_server, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    process = preforked.run(
        [sys.executable, "-c", COMPACT, "validate", "org/things"],
        cwd=ROOT,
        env=environment,
    )
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1
    assert "nested too deeply" in process.stderr
