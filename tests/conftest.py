"""Sets up the environment of all tests: no network, no API keys, empty caches, reproducible Hypothesis examples."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis.internal import charmap

from tests import preforked, shortcuts

# The environment is set before torch, huggingface_hub and gradio are imported, because they read it only once.
# Subprocesses inherit it.
_SECRETS = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# With a proxy, requests to the test servers on the loopback interface would be sent to it.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
for name in (*_SECRETS, *_PROXIES):
    os.environ.pop(name, None)
# A shell starts background processes with SIGINT ignored, and children inherit that. Restore the handler, because some
# tests send SIGINT to a child.
signal.signal(signal.SIGINT, signal.default_int_handler)
_hf_home = tempfile.mkdtemp(prefix="compact-tests-")
atexit.register(shutil.rmtree, _hf_home, ignore_errors=True)
os.environ |= {
    "HF_HOME": _hf_home,
    "HF_HUB_OFFLINE": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MPLBACKEND": "agg",
    # There are at least as many workers as cores, so more threads would only compete for them.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# Set by the controller, inherited by its workers.
os.environ.setdefault("COMPACT_TESTS_FORKS", _hf_home)
if "huggingface_hub" in sys.modules:
    preforked.reload_settings()  # a worker is a fork of a process that imported it with other settings

SHARED: Final = ("tests/spaces_demo",)
"""Directories whose tests share one running server."""
LONGEST_FIRST: Final = (
    "tests/spaces_demo",
    "tests/test_packaging.py",
    "tests/methods/test_faults.py",
    "tests/test_notebook.py",
    "tests/training/test_train.py",
    "tests/methods/test_kills.py",
    "tests/dataset_script/test_kills.py",
    "tests/methods/test_secrets.py",
    "tests/methods/test_hub_sources.py",
    "tests/benchmarks/test_release.py",
    "tests/dataset/test_publish.py",
    "tests/methods/test_local_teacher.py",
    "tests/images/test_streaming.py",
    "tests/evaluation/test_metric.py",
)
GOLDEN: Final = Path(__file__).parent / "golden"

settings.register_profile("same_every_time", derandomize=True, deadline=None, max_examples=30, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=500, print_blob=True)
settings.load_profile("same_every_time")
shortcuts.take()
# Keep log messages of libraries out of stderr, which tests compare, even if pytest does not capture logs.
logging.getLogger().addHandler(logging.NullHandler())
# Garbage collection during the imports would take a tenth of the tests' time; it is enabled in
# `pytest_collection_finish`.
gc.disable()

_connect = socket.socket.connect
_LOOPBACK = ("127.", "::1", "localhost")


def _connect_to_loopback(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(_LOOPBACK):
        raise OSError(f"a test tried to reach {address[0]}; tests run offline")
    _connect(self, address)


@pytest.fixture(autouse=True, scope="session")
def offline() -> Iterator[None]:
    """Refuse all connections except those to the loopback interface."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _connect_to_loopback)
        yield


@pytest.fixture
def every_plot_drawn() -> Iterator[None]:
    set_real_plots = shortcuts.take()
    set_real_plots(True)
    yield
    set_real_plots(False)


@pytest.fixture
def preforked_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `tune` start its process as a fork of a process that has loaded torch and TRL."""
    from compact_hf.training import train

    monkeypatch.setattr(train, "Popen", preforked.Popen)


def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Start the workers as forks of the server, which has imported the modules that most test files need."""
    preforked.start_server(os.getpid())
    for spec in specs:
        spec.python = shlex.join([sys.executable, preforked.__file__])
    # Create Hypothesis' cache file with its table of characters now, so that not every worker computes it.
    charmap.intervals_from_codec("utf-8")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first, so that no worker starts one of them at the end."""
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(get_unit(item.nodeid), len(ranks)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run tests that share an expensive fixture (a model, a wheel, a running Space) on the same worker."""
    from xdist.scheduler import LoadFileScheduling

    class ByUnit(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return get_unit(nodeid)

    config.option.loadscopereorder = False
    return ByUnit(config, log)


def get_unit(nodeid: str) -> str:
    """Return the file of a test, or its directory if the files in it share a fixture."""
    file = nodeid.partition("::")[0]
    return next((unit for unit in SHARED if file.startswith(unit)), file)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        action="store_true",
        help="record the files in tests/golden again instead of comparing (make golden)",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """A function that compares a text with a file in tests/golden: `golden("capabilities.txt", text)`."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--golden"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{name} changed; if this is intended, run `make golden`"

    return compare
