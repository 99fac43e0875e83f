"""Starts Python processes for tests as forks of a server that has already imported the large libraries.

Importing torch, trl, gradio and their dependencies takes half a minute on one core. `Popen` works like
`subprocess.Popen` for commands that start this Python, with the same pipes, environment, directory and signals, but
forks a server that has loaded the libraries. All workers of a test run share one server. Tests about the start of a
process (environment, hash seed, lazy imports, time, a real command that is killed) use `subprocess` instead.

    python tests/preforked.py -u -c SOURCE    # replaces the interpreter of xdist's workers, which are forks, too
    python tests/preforked.py SOCKET OWNER    # the server, which ends when the process OWNER ends
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.machinery
import io
import json
import os
import pkgutil
import re
import runpy
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

DIRECTORY_VARIABLE: Final = "COMPACT_TESTS_FORKS"
"""Environment variable with the directory of the server's socket, the same for all workers (set in conftest.py)."""
# A fork hangs if torch has started threads before, so importing these modules must not run any computation.
_PRELOADED: Final = (
    "accelerate.commands.launch",
    "datasets",
    "google.genai.types",
    "gradio",
    "huggingface_hub.hf_file_system",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "nbclient",
    "nbformat",
    "openai",
    "peft",
    "torch._dynamo",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "trl.trainer.sft_trainer",
)
_IMPORT_TIME_PREFIXES: Final = ("HF_", "HUGGING", "XDG_CACHE_HOME")
"""Variables that huggingface_hub and datasets read when they are imported."""
_INT64: Final = struct.Struct("!q")
_MAIN: Final = "__main__"
_START_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True)
class _Program:
    """A program to run in a fork: the arguments of the interpreter, and what a new process would inherit."""

    arguments: list[str]
    directory: str
    environment: dict[str, str]
    new_session: bool


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen` of `[sys.executable, "-c" | "-m" | script, ...]`, without the imports of a new interpreter."""

    def _execute_child(self, args: Sequence[Any], executable: Any, preexec_fn: Any, *rest: Any) -> None:
        """Ask the server for a fork, instead of `fork` and `exec`. `Popen.__init__` has created the pipes before."""
        _close_fds, _pass_fds, cwd, env, _startupinfo, _creationflags, _shell, *rest = rest
        (p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite), (*_, new_session, _group) = rest[:6], rest[6:]
        command = [os.fspath(part) for part in args]
        if command[0] != sys.executable or preexec_fn is not None or executable is not None:
            raise ValueError(f"only this Python, without other options, can be forked: {command[:3]}")
        directory = os.getcwd() if cwd is None else os.path.abspath(cwd)
        program = _Program(command[1:], directory, dict(os.environ if env is None else env), new_session)
        streams = [
            descriptor if stream == -1 else stream for descriptor, stream in enumerate((p2cread, c2pwrite, errwrite))
        ]
        request = json.dumps(vars(program)).encode()
        try:
            self._server = _connect()
            socket.send_fds(self._server, [_INT64.pack(len(request))], streams)
            self._server.sendall(request)
            self.pid = self._receive()
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
        self._child_created = True

    def _receive(self) -> int:
        data = self._server.recv(_INT64.size, socket.MSG_WAITALL)
        if len(data) < _INT64.size:
            raise RuntimeError("the server of forked processes has ended")
        return int(_INT64.unpack(data)[0])

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None and not select.select([self._server], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        with self._waitpid_lock:  # several threads may wait
            if self.returncode is None:
                self.returncode = self._receive()
        return self.returncode

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self._wait(0)
        return self.returncode

    def __del__(self, *_: Any, **__: Any) -> None:
        super().__del__()
        if self._child_created:
            self._server.close()  # the server then kills the process if it still runs


def run(command: Sequence[Any], *, timeout: float = 500, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command, and return its status and output as text. A command that hangs is killed after the timeout."""
    with Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _connect() -> socket.socket:
    """Start the server if necessary, and return a connection to it."""
    address = Path(os.environ[DIRECTORY_VARIABLE]) / "server"
    start_server(os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid())
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not address.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("the server of forked processes did not start")
        time.sleep(0.05)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(address))
    return connection


def start_server(owner: int) -> None:
    """Start the server of this test run if it is not started yet, without waiting for it. It ends with `owner`."""
    address = Path(os.environ[DIRECTORY_VARIABLE]) / "server"
    try:
        address.with_suffix(".started").touch(exist_ok=False)
    except FileExistsError:
        return
    command = [sys.executable, __file__, str(address), str(owner)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    no_input = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    os.posix_spawn(sys.executable, command, environment, file_actions=[no_input], setsid=True)


def _run_in_fork(arguments: list[str]) -> int:
    """Run a program in a fork with the streams of this process, and forward the signals that this process receives."""
    process = Popen([sys.executable, *arguments])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: process.send_signal(number))
    return process.wait()


class _Server:
    """Forks a process for each connection. Sends its id, and its exit status when it ends.

    If a connection is closed, its process is killed.
    """

    def __init__(self, address: Path, owner: int) -> None:
        self._owner = owner
        self._connections: dict[int, socket.socket] = {}
        self._exit_socket, wakeup = socket.socketpair()
        for side in (self._exit_socket, wakeup):
            side.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno())
        self._wakeup = wakeup
        self._listener = socket.socket(socket.AF_UNIX)
        # Bind under a temporary name, and rename the socket when it accepts connections: clients wait for that name.
        temporary_address = address.with_suffix(".new")
        self._listener.bind(str(temporary_address))
        self._listener.listen(64)
        temporary_address.rename(address)

    def next_program(self) -> _Program | None:
        """Serve until the owner has ended, then return None. In a forked process, return the program to run."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._exit_socket, selectors.EVENT_READ)
            while self._is_owner_alive():
                for key, _ in selector.select(1.0):
                    if key.fileobj is self._exit_socket:
                        self._report_exits(selector)
                    elif key.fileobj is self._listener:
                        if (program := self._fork(selector)) is not None:
                            return program
                    elif key.data in self._connections:
                        selector.unregister(key.fileobj)
                        os.kill(key.data, signal.SIGKILL)
        return None

    def _is_owner_alive(self) -> bool:
        return Path(f"/proc/{self._owner}").exists()

    def _report_exits(self, selector: selectors.BaseSelector) -> None:
        """Send the exit statuses of ended processes to their clients."""
        self._exit_socket.recv(4096)
        with suppress(ChildProcessError):
            while (result := os.waitpid(-1, os.WNOHANG))[0]:
                with self._connections.pop(result[0]) as connection, suppress(BrokenPipeError):
                    with suppress(KeyError):
                        selector.unregister(connection)
                    connection.sendall(_INT64.pack(os.waitstatus_to_exitcode(result[1])))

    def _fork(self, selector: selectors.BaseSelector) -> _Program | None:
        """Accept a connection and fork. Return None in the server, and the program in the forked process."""
        connection, _ = self._listener.accept()
        size, streams, *_ = socket.recv_fds(connection, _INT64.size, 3)
        request = connection.recv(_INT64.unpack(size)[0], socket.MSG_WAITALL)
        if child := os.fork():
            for stream in streams:
                os.close(stream)
            self._connections[child] = connection
            selector.register(connection, selectors.EVENT_READ, child)
            return None
        program = _Program(**json.loads(request))
        if program.new_session:
            os.setsid()
        # Send the id after `setsid`, so that a client that signals the process group reaches the new group.
        connection.sendall(_INT64.pack(os.getpid()))
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor, stream in enumerate(streams):
            os.dup2(stream, descriptor)
            os.close(stream)
        for sock in (connection, self._listener, self._exit_socket, self._wakeup, *self._connections.values()):
            sock.close()
        return program


def _load() -> None:
    """Import the libraries and the package, and apply the shortcuts, once for all forks."""
    for name in _PRELOADED:
        importlib.import_module(name)

    import compact_hf
    from tests import shortcuts

    for module in pkgutil.walk_packages(compact_hf.__path__, "compact_hf."):
        if not re.search("__main__|compact_accuracy", module.name):  # the metric does not belong to the package
            importlib.import_module(module.name)
    shortcuts.take()
    _find_namespaces()
    # accelerate collects garbage at the start and end of each training; in a fork this takes half a second and frees
    # nothing.
    vars(sys.modules["accelerate.utils.memory"])["gc"] = types.SimpleNamespace(collect=int)
    # Skip the finalizers that unregister torch's operators at the end of each process.
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False


def _set_up_process(program: _Program) -> None:
    """Set the directory, environment and import path that a new interpreter would have."""
    os.chdir(program.directory)
    old_environment = dict(os.environ)
    os.environ.clear()
    os.environ.update(program.environment)
    changed = {
        name for name in old_environment.keys() | os.environ.keys() if old_environment.get(name) != os.environ.get(name)
    }
    if any(name.startswith(_IMPORT_TIME_PREFIXES) for name in changed):
        reload_settings()
    tempfile.tempdir = None
    python_path = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*python_path, *(path for path in sys.path if path not in python_path)]
    package = importlib.machinery.PathFinder.find_spec("compact_hf")
    if package is None or package.origin != sys.modules["compact_hf"].__file__:
        for name in [name for name in sys.modules if name.partition(".")[0] == "compact_hf"]:
            del sys.modules[name]
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)


def reload_settings() -> None:
    """Reload the modules that read settings from the environment, and replace the copies in other modules."""
    for name in ("huggingface_hub.constants", "datasets.config"):
        settings = sys.modules[name]
        old = dict(vars(settings))
        importlib.reload(settings)
        changed = {key: value for key, value in vars(settings).items() if key in old and old[key] is not value}
        for namespace in _find_namespaces():
            namespace.update({key: value for key, value in changed.items() if namespace.get(key) is old[key]})
    sys.modules["huggingface_hub.hf_api"].api.endpoint = sys.modules["huggingface_hub.constants"].ENDPOINT


@cache
def _find_namespaces() -> list[dict[str, Any]]:
    """Return the namespaces that may have copies of a setting.

    Cached in the server, because searching in a fork would copy a memory page for each module.
    """
    prefixes = ("huggingface_hub", "datasets")
    return [vars(module) for name, module in sys.modules.items() if name.startswith(prefixes)]


def _execute(arguments: list[str]) -> None:
    """Run a script, module or source text, with `sys.argv`, `sys.path` and `__main__` as in a new interpreter."""
    entry, *rest = arguments
    sys.path.insert(0, os.getcwd() if entry in ("-c", "-m") else str(Path(entry).resolve().parent))
    sys.argv = {"-c": ["-c", *rest[1:]], "-m": rest}.get(entry, arguments)
    if entry == "-m":
        runpy.run_module(rest[0], run_name=_MAIN, alter_sys=True)
    elif entry == "-c":
        main = types.ModuleType(_MAIN)
        sys.modules[_MAIN] = main
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        runpy.run_path(entry, run_name=_MAIN)


def _shut_down(error: BaseException | None) -> int:
    """Do what an interpreter does at exit, except freeing its modules, which takes seconds. Return the exit status."""
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):
            stream.flush()
    return status


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory
    if sys.argv[1] == "-u":
        sys.exit(_run_in_fork(sys.argv[2:]))
    _load()
    gc.freeze()  # otherwise a garbage collection in a fork would copy every memory page
    program = _Server(Path(sys.argv[1]), int(sys.argv[2])).next_program()
    try:
        if program is not None:
            _set_up_process(program)
            _execute(program.arguments)
    finally:
        os._exit(_shut_down(sys.exc_info()[1]))
