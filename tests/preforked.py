"""Python processes for tests that need not import anything again: forked from a server that has imported it already.

`import torch, trl` and what comes with them take ten seconds of a core and more. `Popen` here is `subprocess.Popen` for
commands that start this Python, with the same pipes, environment, directory and signals; the process is a fork of one
that waits with the libraries loaded. Tests about what a start itself does (environment, hash seed, lazy imports, time,
a real command that is killed) take `subprocess` instead.
"""

from __future__ import annotations

import atexit
import importlib
import io
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

FORKS = multiprocessing.get_context("forkserver")
# A fork after torch has started its threads hangs, so nothing of this may compute anything while it is imported.
FORKS.set_forkserver_preload(
    [
        "accelerate.commands.launch",
        "compact_hf.synthesis.compact.generate",
        "datasets",
        "google.genai.types",
        "huggingface_hub.hf_file_system",
        "peft",
        "torch._dynamo",
        "transformers.models.clip.modeling_clip",
        "transformers.models.llava.modeling_llava",
        "transformers.models.llava.processing_llava",
        "trl.trainer.sft_trainer",
    ]
)
_HUB: Final = ("HF_", "HUGGING", "XDG_CACHE_HOME")
_READERS: Final = ("huggingface_hub", "datasets")
_MAIN: Final = "__main__"


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen` of `[sys.executable, "-c" | "-m" | script, ...]`, without a new interpreter's imports."""

    _process: Any

    def _execute_child(self, args: Sequence[Any], executable: Any, preexec_fn: Any, *others: Any) -> None:
        """Fork in the place of `fork` and `exec`; called by `Popen.__init__`, which has made the pipes."""
        _close_fds, _pass_fds, cwd, env, _startupinfo, _creationflags, _shell, *others = others
        pipes, (*_, new_session, _process_group) = others[:6], others[6:]
        command = [os.fspath(part) for part in args]
        if command[0] != sys.executable or preexec_fn is not None or executable is not None:
            raise ValueError(f"only this Python can be forked, as it is: {command[:3]}")
        _, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = (None, *pipes)
        ours = [own if theirs == -1 else theirs for own, theirs in enumerate((p2cread, c2pwrite, errwrite))]
        streams = [Connection(os.dup(stream)) for stream in ours]
        environment = {**(os.environ if env is None else env)}
        place = os.fspath(cwd) if cwd is not None else os.getcwd()
        self._process = FORKS.Process(target=_run, args=(command[1:], place, environment, streams, new_session))
        try:
            self._process.start()
        finally:
            for stream in streams:
                stream.close()
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
        self.pid = self._process.pid
        self._child_created = True
        atexit.register(self._process.kill)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            self.returncode = self._process.exitcode
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        self._process.join(timeout)
        if self._internal_poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode


def run(command: Sequence[Any], *, timeout: float = 180, **others: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with what it prints as text; one that hangs does not outlive its test."""
    with Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **others) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _run(
    arguments: list[str], cwd: str, environment: Mapping[str, str], streams: list[Connection], new_session: bool
) -> None:
    """Do what a new interpreter does between its start and its end, in the fork."""
    if new_session:
        os.setsid()
    for descriptor, stream in enumerate(streams):
        os.dup2(stream.fileno(), descriptor)
        stream.close()
    os.chdir(cwd)
    _change_environment(environment)
    if environment.get("PYTHONUNBUFFERED"):
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
    try:
        _program(arguments)()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()


def _change_environment(environment: Mapping[str, str]) -> None:
    """Set the environment, and let libraries that have read theirs once read this one."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    sys.path[:0] = [
        path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path
    ]
    changed = {name for name in before.keys() | environment.keys() if before.get(name) != environment.get(name)}
    if any(name.startswith(_HUB) for name in changed):
        _read_settings_again()


def _read_settings_again() -> None:
    """Reload the modules that hold settings from the environment, and replace the copies that others made of them."""
    for name in ("huggingface_hub.constants", "datasets.config"):
        settings = sys.modules[name]
        old = dict(vars(settings))
        importlib.reload(settings)
        replaced = {key: vars(settings)[key] for key, value in old.items() if vars(settings).get(key) is not value}
        for module in [
            module for name, module in sys.modules.items() if name.startswith(("huggingface_hub", "datasets"))
        ]:
            for key, value in replaced.items():
                if vars(module).get(key) is old[key]:
                    setattr(module, key, value)
    hub = sys.modules["huggingface_hub.hf_api"]
    hub.api.endpoint = sys.modules["huggingface_hub.constants"].ENDPOINT


def _program(arguments: list[str]) -> Callable[[], object]:
    """Return what the interpreter is asked to run, with `sys.argv` and `__main__` as it would have them."""
    how, *rest = arguments
    if how == "-c":
        source, *rest = rest
        main = types.ModuleType(_MAIN)
        sys.modules[_MAIN] = main
        sys.argv = ["-c", *rest]
        return lambda: exec(compile(source, "<string>", "exec"), vars(main))
    sys.argv = rest if how == "-m" else arguments
    if how == "-m":
        return lambda: runpy.run_module(rest[0], run_name=_MAIN, alter_sys=True)
    return lambda: runpy.run_path(how, run_name=_MAIN)
