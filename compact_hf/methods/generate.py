"""Runs a method over a source of images and writes the results into a run directory: `compact generate`.

    compact generate IMAGES --out RUN
    compact generate SOURCE --out RUN --method NAME

The same call resumes a run that was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from compact_hf.errors import StoppedEarly, TeacherError, UsageError, did_you_mean
from compact_hf.images.source import ImageSource
from compact_hf.methods.base import Method, RunSetup, StartedMethod
from compact_hf.methods.compact.options import CompactOptions
from compact_hf.methods.registry import DEFAULT_METHOD, get_method
from compact_hf.records import ImageInfo
from compact_hf.runs.image_index import reread_verified
from compact_hf.runs.journal import FILE_NAME
from compact_hf.runs.options import RunOptions, iter_fields, set_keywords
from compact_hf.runs.process import Process
from compact_hf.runs.run import Run, RunProgress
from compact_hf.runs.sources import open_dataset_source, open_source, open_teachers
from compact_hf.teachers.base import EncodedImage, TeacherInfo

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class MethodCall:
    """A method, and all options it is called with.

    Attributes:
        name (`str`): the name as given: a registered name or `package.module:Class`; part of the run's identity.
        method (`type[Method]`): the method of that name.
        run (`RunOptions`): the options of all runs.
        options (`Any`): the method's own options: an instance of `method.options`.
    """

    name: str
    method: type[Method]
    run: RunOptions
    options: Any

    @classmethod
    def parse(cls, name: str, keywords: Mapping[str, Any]) -> MethodCall:
        """Return the call of a method with keyword arguments.

        Args:
            name (`str`): a registered name or `package.module:Class`.
            keywords (`Mapping[str, Any]`): values for fields of `RunOptions` and of the method's options.

        Raises:
            UsageError: there is no such method, or a value is out of range.
            TypeError: a keyword is neither a field of `RunOptions` nor of the method's options.
        """
        method = get_method(name)
        run_names, own_names = ([item.name for item in iter_fields(cls)] for cls in (RunOptions, method.options))
        # TypeError, as for any function that is called with a keyword it does not have.
        for keyword in keywords:
            if keyword not in (*run_names, *own_names):
                suggestion = did_you_mean(keyword, [*run_names, *own_names])
                raise TypeError(f"got an unexpected keyword argument {keyword!r} for the method {name}{suggestion}")
        own = {key: value for key, value in keywords.items() if key in own_names}
        return cls(
            name,
            method,
            RunOptions(**{key: value for key, value in keywords.items() if key in run_names}),
            method.options(**own),
        )

    def open_source(self, source: str) -> ImageSource:
        """Open a source of the kind that the method needs.

        Args:
            source (`str`): a directory, `scenes:N`, a dataset on the Hub or a JSON file, as for `generate`.

        Raises:
            UsageError, SourceError: see `runs/sources.py`.
        """
        if self.method.needs == "images":
            return open_source(source, on_wait=self.run.on_wait)
        # A method that needs questions may have no options of `DatasetOptions`, so the defaults of `getattr` apply.
        return open_dataset_source(
            source,
            split=getattr(self.options, "split", None),
            image_root=getattr(self.options, "image_root", None),
            on_wait=self.run.on_wait,
        )

    def settings(self, started: StartedMethod) -> dict[str, Any]:
        """Return the settings that the method and the image size contribute to a run's identity.

        Args:
            started (`StartedMethod`): the method with its options resolved.
        """
        return {"max_edge": self.run.max_edge, **started.settings}

    def execute(self, source: str, out: Path) -> RunProgress:
        """Run the method.

        Args:
            source (`str`): as for `generate`.
            out (`Path`): the run directory.

        Raises:
            UsageError, SourceError, TeacherError, JournalError, StoppedEarly: as for `generate`.
        """
        shard = self.run.parse_shard()
        images = self.open_source(source)
        try:
            teachers = open_teachers(images, self.run, roles=self.method.roles, state_dir=out)
        except UsageError:
            # Such as a missing key. A source without images comes first: with a key, there would be nothing to ask.
            next(images.refs(), None)
            raise
        infos = {role: TeacherInfo.of(teacher) for role, teacher in teachers.items()}
        started = self.method.start(RunSetup(images, infos, self.run, self.options))
        run = Run(
            images,
            teachers,
            partial(_process_image, self, started, images, self.run.max_edge),
            self.name,
            self.settings(started),
            self.run.seed,
            shard,
            self.run,
            self.run.on_progress,
            self.run.on_wait,
        )
        try:
            progress = run.run(out)
        except (StoppedEarly, TeacherError, KeyboardInterrupt):
            # Stopped early: what is finished is written out too, and the error is raised afterwards.
            if (out / FILE_NAME).exists():  # otherwise it failed before the run was created
                self.method.finish(out)
            raise
        self.method.finish(out)
        # A single shard may have unusual images only, which must not stop the others.
        if shard is None:
            progress.check_kept(out)
        return progress


def _process_image(
    call: MethodCall, started: StartedMethod, source: ImageSource, max_edge: int, image: ImageInfo
) -> Process:
    """Return the method's work on one image, with a check that the method can read its own outcome."""
    encoded_image = EncodedImage(partial(reread_verified, source, image), ref=image.ref, max_edge=max_edge)
    result = yield from started.process(image, encoded_image)
    try:
        call.method.parse_outcome(result.body)
    except ValueError as error:  # checked before journaling, so that it fails at the first image, not at assembly
        raise UsageError(
            f"the method {call.name} cannot read its own outcome ({' '.join(str(error).split())[:200]}): "
            "fix its parse_outcome, or what its process returns"
        ) from error
    return result


@dataclass(frozen=True, kw_only=True)
class CompactKeywords(CompactOptions, RunOptions):
    """The options of `generate` if no method is named."""


class MethodFunction(Protocol[P, R_co]):
    """A function of a source, a directory and the options of COMPACT, or of another method if `method` is given."""

    @overload
    # Without `method` type checkers know all keywords (COMPACT's); with it they accept any.
    def __call__(self, source: str, out: str | Path, *args: P.args, **options: P.kwargs) -> R_co: ...

    @overload
    def __call__(self, source: str, out: str | Path, *, method: str, **options: Any) -> R_co: ...

    def __call__(self, source: str, out: str | Path, *args: Any, **options: Any) -> R_co: ...


def method_keywords(options: Callable[P, object]) -> Callable[[Callable[..., R]], MethodFunction[P, R]]:
    """Return a decorator that gives a function the fields of an options class as its keyword arguments.

    Args:
        options (`Callable[P, object]`): the options class. The decorated function must have the signature
            `(source, out, *, method, **options)`.
    """

    def decorate(function: Callable[..., R]) -> MethodFunction[P, R]:
        set_keywords(function, options, is_open=True)
        return function

    return decorate


@method_keywords(CompactKeywords)
def generate(source: str, out: str | Path, *, method: str = DEFAULT_METHOD, **options: Any) -> RunProgress:
    """Ask a teacher to write data about images, have it verified, and record everything in the run directory `out`.

    This also works in a notebook. Ctrl-C or SIGTERM lets requests in flight finish and stops; the same call resumes
    the run.

    Args:
        source (`str`): a directory, `scenes:N`, or a dataset on the Hub; for a method that needs questions also a .json
            or .jsonl file, as for `annotate`.
        out (`str | Path`): the run directory: new, empty, or that of the same run.
        method (`str`, *optional*, defaults to `compact`): how data is made: a name from `compact method list`, or
            `package.module:Class`.
        options: the fields of `RunOptions`, and of the method's own options (for COMPACT: `CompactOptions`).

    Returns:
        The progress of the run when it ended.

    Raises:
        UsageError: an argument is invalid, or `out` holds another run.
        SourceError: there are no images to work on.
        TeacherError: the teacher refuses the requests, cannot be reached, or never sends a usable reply.
        NothingKeptError: all images are finished, and no question was accepted.
        JournalError: the run directory cannot be used.
        StoppedEarly: Ctrl-C, the budget, or images that could not be finished; the same call resumes the run.
    """
    return MethodCall.parse(method, options).execute(source, Path(out))
