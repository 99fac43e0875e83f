"""Defines the contract of a method: a way of making data, selected by `compact generate --method NAME`.

A method is a class derived from `Method`, in a directory of its own, and registered by one line in the pyproject.toml
of its package:

    [project.entry-points."compact_hf.methods"]
    captions = "my_package.captions:Captions"

Without registration it can be given as `--method my_package.captions:Captions`, which then becomes part of the run's
identity. All members have defaults except `name`, `summary`, `start`, and `make_rows` unless `makes_rows` is False. The
rows of a method are described by its base class `RowKind`. This module imports nothing heavy, and the module of a
method's class should not either, because listing the methods imports all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol

from compact_hf.images.reasons import RowReason
from compact_hf.methods.row_kind import Filters, RowKind, Sample
from compact_hf.records import Loss, RowReject
from compact_hf.runs.options import RunOptions, option

if TYPE_CHECKING:
    from compact_hf.images.question_rows import Exchange
    from compact_hf.images.source import ImageSource
    from compact_hf.methods.assembly import AssemblyOptions, FinishedOutcome
    from compact_hf.methods.forecast import ImageEstimate
    from compact_hf.methods.status import OutcomeCounter, RunStatus
    from compact_hf.records import ImageInfo, Reason, Reject, Row
    from compact_hf.runs.journal import Journal
    from compact_hf.runs.process import Process
    from compact_hf.teachers.base import EncodedImage, Role, TeacherInfo


_ROW_REASONS: Final = frozenset(RowReason)

KSource = Literal["asked", "judged"]
"""How the k of a question is known.

`asked`: a teacher was asked for certain capabilities, and the verifier found exactly these. `judged`: the question
existed already, and a verifier judged what it needs.
"""


# Without a common base class, so that a method may use any dataclass or pydantic model.
class Outcome(Protocol):
    """The outcome of an image, as far as all methods agree: `Result.body` must be a JSON object with `rejects`."""

    @property
    def rejects(self) -> tuple[Reject, ...]: ...


@dataclass(frozen=True)
class NoOptions:
    """The options of a method that has no options of its own."""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """The options of a method whose input is a dataset of questions.

    Attributes:
        split (`str`, *optional*): the split of the dataset to use; defaults to all splits.
        image_root (`str`, *optional*): directory that the image paths in a JSON file are relative to; defaults to the
            directory of the file.
    """

    split: str | None = option(None, "split of the dataset (default: all splits)", metavar="NAME")
    image_root: str | None = option(
        None, "base directory of image paths in a JSON file (default: the file's directory)", metavar="DIR"
    )


@dataclass(frozen=True, slots=True)
class RunSetup:
    """What a method is given before a run starts.

    Attributes:
        source (`ImageSource`): the images; a `VqaSource` if the method needs questions.
        teachers (`Mapping[Role, TeacherInfo]`): the model for each of the method's roles.
        run (`RunOptions`): the options of all runs.
        options (`Any`): the method's own options: an instance of `Method.options`.
    """

    source: ImageSource
    teachers: Mapping[Role, TeacherInfo]
    run: RunOptions
    options: Any

    @property
    def is_batch(self) -> bool:
        """Whether any of the models replies in batches, each of which may take a day."""
        return any(teacher.is_batch for teacher in self.teachers.values())


@dataclass(frozen=True, slots=True)
class StartedMethod:
    """A method whose options have been checked and resolved for a run.

    Attributes:
        process (`Callable[[ImageInfo, EncodedImage], Process]`): returns the work on one image. Its requests must be a
            pure function of the options, the seed, the image and the replies about this image.
        settings (`Mapping[str, Any]`): everything that decides the requests, as JSON values; becomes part of the run's
            identity.
        estimate (`Callable[[RunStatus | None], ImageEstimate]`, *optional*): returns the average cost and yield of an
            image. Its argument is the status of the run so far, or None. Without this, a generic estimate is used.
    """

    # The generator that it returns is advanced in the event loop of the run.
    process: Callable[[ImageInfo, EncodedImage], Process]
    settings: Mapping[str, Any] = field(default_factory=dict)
    estimate: Callable[[RunStatus | None], ImageEstimate] | None = None


class Method(RowKind):
    """A way of making data. The class has no state and is never instantiated.

    Attributes:
        summary (`str`): a phrase that says what the method makes, for `compact method list`.
        options (`type`): a frozen dataclass of the method's options, in addition to `RunOptions`. Each field made by
            `option` becomes a flag of `compact generate`.
        needs (`str`): the kind of source it takes: `images`, or `questions` for a dataset of images and questions.
        roles (`tuple[Role, ...]`): the roles of the models that it sends requests to.
        makes_rows (`bool`): False for a method whose runs cannot become part of a dataset.
        k_source (`KSource | None`): how the k of the questions from `iter_questions` is known. None for a method whose
            runs keep no questions; `compact analyze` refuses those.
        public_settings (`tuple[str, ...]`): the settings in a run's identity that a dataset card may show; never paths.
        reject_reasons (`tuple[type[Reason], ...]`): the reasons for which the method drops something, one enum per
            stage.
    """

    summary: ClassVar[str]
    options: ClassVar[type] = NoOptions
    needs: ClassVar[Literal["images", "questions"]] = "images"
    roles: ClassVar[tuple[Role, ...]] = ("teacher", "verifier")
    makes_rows: ClassVar[bool] = True
    public_settings: ClassVar[tuple[str, ...]] = ()
    k_source: ClassVar[KSource | None] = None
    reject_reasons: ClassVar[tuple[type[Reason], ...]] = ()

    @classmethod
    def start(cls, setup: RunSetup) -> StartedMethod:
        """Check and resolve the options for a run.

        Args:
            setup (`RunSetup`): the source, the models and the options of the run.

        Raises:
            UsageError: the options are invalid or cannot be combined.
        """
        raise NotImplementedError

    @classmethod
    def parse_outcome(cls, body: str) -> Outcome:
        """Return the outcome of an image.

        Args:
            body (`str`): the outcome as JSON from a journal.
        """
        # Here and below, modules are imported on use, so that `compact --help` and `compact method list` start quickly.
        from compact_hf.methods.status import AnyOutcome
        from compact_hf.records import from_json

        return from_json(AnyOutcome, body)

    @classmethod
    def count_loss(cls, reject: Reject) -> Loss | None:
        """Return what is lost of the dataset by a reject; None if the method works on images.

        A method that drops single questions of the dataset overrides this.

        Args:
            reject (`Reject`): the reject.
        """
        if cls.needs == "images":
            return None
        if isinstance(reject, RowReject):
            return Loss(reject.rows, reject.questions)
        return Loss(rows=int(reject.reason in _ROW_REASONS))

    @classmethod
    def count_outcomes(cls, faults: dict[str, list[str]]) -> OutcomeCounter:
        """Return the counter that counts outcomes for `compact status`.

        Args:
            faults (`dict[str, list[str]]`): key of a reply -> the faults planted in its parts, in reverse order,
                because they are popped from the end.
        """
        from compact_hf.methods.status import OutcomeCounter

        return OutcomeCounter(cls, faults)

    @classmethod
    def iter_questions(cls, body: str) -> Iterator[Exchange]:
        """Yield the questions about an image that were kept or judged, with their capabilities, for `compact analyze`.

        Args:
            body (`str`): the outcome of the image, as JSON from a journal.
        """
        # Makes the function a generator without items: by default a run keeps no questions.
        yield from ()

    @classmethod
    def make_rows(
        cls, outcome: FinishedOutcome, image: ImageInfo, read_image: Callable[[], bytes]
    ) -> Iterator[Row | Reject]:
        """Yield the rows made of one image, and the rejects about it.

        Args:
            outcome (`FinishedOutcome`): the outcome of the image.
            image (`ImageInfo`): the image.
            read_image (`Callable[[], bytes]`): reads the image file; for `Row.read_images`.
        """
        # Not abstract: `makes_rows = False` needs no `make_rows`, and `assemble` refuses such runs before calling it.
        raise NotImplementedError

    @classmethod
    def iter_rows(cls, journals: Sequence[Journal], options: AssemblyOptions) -> Iterator[Row | Reject]:
        """Yield the rows of all runs of this method, in the order of image ids, and every reject.

        The runs of methods that inherit this function from the same class are read together.

        Args:
            journals (`Sequence[Journal]`): the journals of the runs.
            options (`AssemblyOptions`): which rows to leave out.
        """
        from compact_hf.methods.assembly import iter_rows_by_image

        # The default ignores `options`: near-duplicates and balance are defined only for questions with capabilities.
        return iter_rows_by_image(cls, journals)

    @classmethod
    def make_outcome_sample(cls, outcome: FinishedOutcome, filters: Filters, *, rejects: bool) -> Sample | None:
        """Return how a contact sheet shows an outcome, or None if the outcome does not match the filters.

        By default it shows the first row made of the image, or the texts that were dropped.

        Args:
            outcome (`FinishedOutcome`): the outcome of the image.
            filters (`Filters`): filters that this method knows.
            rejects (`bool`): whether to show what was dropped instead.
        """
        from compact_hf.methods.assembly import sample_of_outcome

        return sample_of_outcome(cls, outcome, filters, rejects=rejects)

    @classmethod
    def finish(cls, run: Path) -> None:
        """Write additional files into a run directory, beside its journal.

        It is called at the end of every session of a run, for whatever reason the session ended.

        Args:
            run (`Path`): the run directory.
        """
