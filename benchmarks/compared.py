"""Defines the benchmarks of benchmarks/compare.py, their inputs, and how a process of either tree is run and measured.

The modules of the two trees may have different names. A measured process therefore only uses the command in
`[project.scripts]` of the tree's own pyproject.toml, the public functions of `compact_hf`, and files.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
KEY: Final = "test-key"  # the key that the local Gemini server accepts
TIMEOUT_S: Final = 600.0
PHOTO_COUNT, LATENCY_S, IN_FLIGHT = 400, 0.3, 64
SCENE_COUNT, EVALUATED_SCENES, TUNING_SCENES = 200, 60, 100
ROW_COUNT: Final = 2000
NOISE_EDGE: Final = 48  # pixels; small images, so that most of the time is spent on writing, not on decoding

# The first call imports and compiles what the timed call uses, so that only the evaluation itself is timed.
EVALUATE_CODE: Final = """
import json, sys, time
from compact_hf import evaluate
student, scenes, out = sys.argv[1:]
evaluate([student], "scenes:2", out + "/warm-up")
wall, cpu = time.perf_counter(), time.process_time()
evaluate([student], scenes, out + "/results")
print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))
"""


class BenchmarkError(Exception):
    """Raised if a process of one of the trees fails; the message is one line that names the tree."""


class Seconds(NamedTuple):
    """The duration of a process in seconds.

    Attributes:
        wall (`float`): wall time from its start to its end.
        cpu (`float`): CPU time of the process and all its descendants.
    """

    wall: float
    cpu: float


@dataclass(frozen=True)
class Tree:
    """One of the two source trees that are compared.

    Attributes:
        name (`str`): name for messages.
        root (`Path`): directory that contains pyproject.toml and compact_hf.
    """

    name: str
    root: Path

    def start_code(self) -> str:
        """Return the Python code that runs this tree's `compact` command."""
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        module, _, function = project["scripts"]["compact"].partition(":")
        return f"import sys; from {module} import {function}; sys.argv[0] = 'compact'; sys.exit({function}())"


@dataclass(frozen=True)
class Command:
    """The command that a benchmark runs.

    Attributes:
        arguments (`tuple[str, ...]`): arguments of the command line.
        code (`str`, *optional*, defaults to ""): Python code to run instead of the `compact` command; it prints its own
            seconds as JSON.
        repetitions (`int`, *optional*, defaults to 1): number of runs per measurement. The minimum is used, because
            other work on the machine only adds time.
    """

    arguments: tuple[str, ...]
    code: str = ""
    repetitions: int = 1


class ProcessRunner:
    """Runs processes of either tree in the same environment.

    Args:
        scratch (`Path`): directory for outputs and caches. Bytecode is written there too, so that neither tree starts
            with compiled files.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._count = 0

    def compile(self, tree: Tree) -> None:
        """Compile the package of a tree and check that processes import it from there; raises `BenchmarkError`."""
        package = tree.root / "compact_hf"
        code = (
            "import compileall, sys, pathlib, compact_hf\n"
            "compileall.compile_dir(sys.argv[1], quiet=2)\n"
            "imported = pathlib.Path(compact_hf.__file__).parent\n"
            "sys.exit(None if imported.samefile(sys.argv[1]) else f'compact_hf is imported from {imported}')"
        )
        self.run(tree, code, str(package))

    def measure(self, tree: Tree, make_command: Callable[[Path], Command]) -> Seconds:
        """Run a command and return the minimum of its repetitions.

        Args:
            tree (`Tree`): the tree to run.
            make_command (`Callable[[Path], Command]`): returns the command for a new output directory; called once per
                repetition.
        """
        timings = []
        repetitions = 1
        while len(timings) < repetitions:
            out = self._new_directory()
            command = make_command(out)
            repetitions = command.repetitions
            seconds = self.run(tree, command.code or tree.start_code(), *command.arguments, cwd=out)
            if command.code:
                seconds = Seconds(**json.loads((out / "stdout").read_text().splitlines()[-1]))
            timings.append(seconds)
            shutil.rmtree(out)
        return Seconds(*map(min, zip(*timings, strict=True)))

    def run(self, tree: Tree, code: str, *arguments: str, cwd: Path | None = None) -> Seconds:
        """Run Python code in a process that imports the tree and return its duration; raises `BenchmarkError`."""
        cwd = cwd or self._new_directory()
        cpu_before, start = _children_cpu_seconds(), time.perf_counter()
        with (cwd / "stdout").open("w") as stdout, (cwd / "stderr").open("w") as stderr:
            process = None
            try:
                with _defer_signals():  # otherwise a signal could arrive after the start but before the assignment
                    process = subprocess.Popen(
                        [sys.executable, "-c", code, *arguments],
                        cwd=cwd,
                        env=self._environment(tree, cwd),
                        stdin=subprocess.DEVNULL,
                        stdout=stdout,
                        stderr=stderr,
                        start_new_session=True,  # so that all of its descendants can be killed
                    )
                status = process.wait(TIMEOUT_S)
            except BaseException as error:
                if process is not None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise BenchmarkError(
                        f"{tree.name} took more than {TIMEOUT_S:.0f} s: {_format_arguments(arguments)}"
                    ) from error
                raise
        if status:
            lines = (cwd / "stderr").read_text(errors="replace").strip().splitlines() or ["no message"]
            raise BenchmarkError(
                f"{tree.name} exited with status {status}: {_format_arguments(arguments)}: {lines[-1][:300]}"
            )
        return Seconds(time.perf_counter() - start, _children_cpu_seconds() - cpu_before)

    def _new_directory(self) -> Path:
        self._count += 1
        out = self._scratch / f"process-{self._count}"
        out.mkdir()
        return out

    def _environment(self, tree: Tree, cwd: Path) -> dict[str, str]:
        """Return the environment of a measured process."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return environment | {
            "PYTHONPATH": str(tree.root),
            "PYTHONPYCACHEPREFIX": str(self._scratch / "bytecode"),
            "GEMINI_API_KEY": KEY,
            "NO_PROXY": "127.0.0.1,localhost",
            "HF_HOME": str(
                cwd / "home"
            ),  # new for each process: a shared cache of `datasets` would make the second one faster
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }


@contextmanager
def _defer_signals() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the end of the block."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for received_number in received:
            signal.raise_signal(received_number)


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _format_arguments(arguments: tuple[str, ...]) -> str:
    return " ".join(arguments[:2])


class Inputs:
    """The inputs of the benchmarks, which both trees read; each is made when it is first used.

    Runs and datasets are made by the older tree, because a newer version can read the files of an older one but not
    the other way round.

    Args:
        scratch (`Path`): directory for the inputs.
        processes (`ProcessRunner`): runs the older tree.
        rev_tree (`Tree`): the older tree.
        exit_stack (`ExitStack`): stops the servers at the end.
    """

    def __init__(self, scratch: Path, processes: ProcessRunner, rev_tree: Tree, exit_stack: ExitStack) -> None:
        self._scratch = scratch
        self._processes = processes
        self._rev_tree = rev_tree
        self._exit_stack = exit_stack

    def _run_compact(self, *arguments: str) -> None:
        self._processes.run(self._rev_tree, self._rev_tree.start_code(), *arguments)

    def _start_server(self, latency_s: float, accept_rate: float) -> str:
        from served import GeminiProcess

        return self._exit_stack.enter_context(GeminiProcess(latency_s=latency_s, accept_rate=accept_rate)).url

    @cached_property
    def photos(self) -> str:
        """The directory of the photographs for generation."""
        from served import write_photos

        return str(write_photos(self._scratch / "photos", PHOTO_COUNT))

    @cached_property
    def server(self) -> str:
        """The URL of the Gemini server, which both trees use."""
        return self._start_server(LATENCY_S, 0.8)

    @cached_property
    def run(self) -> str:
        """The directory of a run with `ROW_COUNT` conversations."""
        from release_data import make_image

        images, run = self._scratch / "noise", self._scratch / "run"
        images.mkdir()
        for number in range(ROW_COUNT):
            (images / f"{number:05}.jpg").write_bytes(make_image(number, edge=NOISE_EDGE))
        options = ("--teacher", "gemini", "--teacher-url", self._start_server(0.0, 1.0), "--preset", "efficient")
        self._run_compact("generate", str(images), "--out", str(run), *options, "--concurrency", str(IN_FLIGHT))
        return str(run)

    @cached_property
    def dataset(self) -> str:
        """The directory of a small dataset of scenes for tuning."""
        run, dataset = str(self._scratch / "scenes-run"), str(self._scratch / "scenes")
        self._run_compact("generate", f"scenes:{TUNING_SCENES}", "--out", run)
        self._run_compact("assemble", run, "--out", dataset, "--version", "1.0.0", "--keep-similar")
        return dataset

    @cached_property
    def student(self) -> Path:
        """The directory of the tiny student: `aligned` is the base model, `tuned` the adapter."""
        student = self._scratch / "student"
        code = "import sys; from compact_hf import copy_student; copy_student(sys.argv[1])"
        self._processes.run(self._rev_tree, code, str(student))
        return student


def generation(inputs: Inputs, out: Path) -> Command:
    """Generate from photographs with the Gemini server."""
    options = ("--teacher", "gemini", "--teacher-url", inputs.server, "--preset", "efficient")
    output_options = ("--out", str(out / "run"), "--concurrency", str(IN_FLIGHT))
    return Command(("generate", inputs.photos, *output_options, *options))


def scenes(_inputs: Inputs, out: Path) -> Command:
    """Generate from scenes with the teacher `scenes`, offline."""
    return Command(("generate", f"scenes:{SCENE_COUNT}", "--out", str(out / "run")))


def assembly(inputs: Inputs, out: Path) -> Command:
    """Assemble a dataset from a copy of the run, because assembly caches its results next to the journal."""
    run = shutil.copytree(inputs.run, out / "run")
    return Command(("assemble", str(run), "--out", str(out / "dataset"), "--version", "1.0.0", "--keep-similar"))


def evaluation(inputs: Inputs, out: Path) -> Command:
    """Evaluate the tiny student on reserved scenes with `compact_hf.evaluate`, after a warm-up in the same process."""
    return Command((str(inputs.student / "tuned"), f"scenes:{EVALUATED_SCENES}", str(out)), code=EVALUATE_CODE)


def show_help(_inputs: Inputs, _out: Path) -> Command:
    """Print the help text."""
    return Command(("--help",), repetitions=5)


def tune_start(inputs: Inputs, out: Path) -> Command:
    """Tune the tiny base model for one step."""
    data_options = ("--model_name_or_path", str(inputs.student / "aligned"), "--dataset_name", inputs.dataset)
    return Command(("tune", "tiny-cpu", *data_options, "--output_dir", str(out / "tuned"), "--max_steps", "1"))


BENCHMARKS: Final[dict[str, Callable[[Inputs, Path], Command]]] = {
    "help": show_help,
    "generation": generation,
    "scenes": scenes,
    "writing": assembly,
    "judging": evaluation,
    "tune": tune_start,
}


def git(*arguments: str) -> str:
    """Return the output of a git command; raises `subprocess.CalledProcessError`."""
    command = ["git", "-C", ROOT, *arguments]
    # In a new session, so that Ctrl-C does not stop git while it removes the worktree.
    result = subprocess.run(command, check=True, capture_output=True, text=True, start_new_session=True)
    return result.stdout.strip()


@contextmanager
def checkout_worktree(commit: str, directory: Path) -> Iterator[Path]:
    """Check a commit out into a temporary worktree, which is removed at the end of the block in any case."""
    try:
        git("worktree", "add", "--quiet", "--detach", str(directory), commit)
        yield directory
    finally:
        with _defer_signals():  # a second Ctrl-C must not interrupt the removal
            git("worktree", "remove", "--force", "--force", str(directory))
