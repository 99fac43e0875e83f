"""The contract of a method: a way of making data, as `compact generate --method NAME` finds it.

A method is one directory and one line: a class derived from `Method`, registered in its package's pyproject.toml,

    [project.entry-points."compact_hf.methods"]
    captions = "my_package.captions:Captions"

or named by `--method my_package.captions:Captions`, which is then a part of the run's identity. All members have
defaults but `name`, `summary`, `start`, and `make_rows` unless `makes_rows` is False; what its rows are is `RowKind`'s
part. Nothing heavy is imported here, and nothing heavy should be where a method's class is: whatever lists methods
reads their options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from compact_hf.methods.row_kind import Filters, RowKind, Sample
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


KSource = Literal["asked", "judged"]
"""How k is known. `asked`: a teacher was to ask for these capabilities, and a verifier found the very same ones.
`judged`: questions were there, and a verifier said what they need."""


class Outcome(Protocol):
    """What became of an image, as far as all methods go: `Result.body` must be JSON of an object with `rejects`."""

    @property
    def rejects(self) -> tuple[Reject, ...]: ...


@dataclass(frozen=True)
class NoOptions:
    """The options of a method that has none of its own."""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """The options of a method that takes a dataset of questions.

    Attributes:
        split (`str`, *optional*): one split of the dataset; all of them by default.
        image_root (`str`, *optional*): where a JSON file's image paths start; defaults to the file's directory.
    """

    split: str | None = option(None, "one split of it (default: all)", metavar="NAME")
    image_root: str | None = option(None, "where a JSON file's paths start (default: beside it)", metavar="DIR")


@dataclass(frozen=True, slots=True)
class RunSetup:
    """What a method knows of a run before it starts.

    Attributes:
        source (`ImageSource`): the images; a `VqaSource` where the method needs questions.
        teachers (`Mapping[Role, TeacherInfo]`): who is asked in each of the method's roles.
        run (`RunOptions`): the options of all runs.
        options (`Any`): this method's options: an instance of `Method.options`.
    """

    source: ImageSource
    teachers: Mapping[Role, TeacherInfo]
    run: RunOptions
    options: Any

    @property
    def is_batch(self) -> bool:
        """Whether replies come in batches, each of which may take a day."""
        return any(teacher.is_batch for teacher in self.teachers.values())


@dataclass(frozen=True, slots=True)
class StartedMethod:
    """A method with its options settled.

    Attributes:
        process (`Callable[[ImageInfo, EncodedImage], Process]`): returns the work on one image. What it asks must be a
            pure function of the options, the seed, the image and this image's own replies.
        settings (`Mapping[str, Any]`): all that decides the requests, as JSON values: a part of the run's identity.
        estimate (`Callable[[RunStatus | None], ImageEstimate]`, *optional*): returns what an image takes and gives on
            average, by the run so far where there is one; without it the generic estimate is used.
    """

    process: Callable[[ImageInfo, EncodedImage], Process]
    settings: Mapping[str, Any] = field(default_factory=dict)
    estimate: Callable[[RunStatus | None], ImageEstimate] | None = None


class Method(RowKind):
    """A way of making data. A class without state, never instantiated.

    Attributes:
        summary (`str`): what it makes, in a phrase, for `compact method list`.
        options (`type`): a frozen dataclass of its options besides `RunOptions`; each field that `option` made
            is a flag of `compact generate`.
        needs (`str`): what kind of source it takes: `images`, or `questions` for a dataset of images and questions.
        roles (`tuple[Role, ...]`): who is asked.
        makes_rows (`bool`): False for a method whose runs are no part of a dataset.
        k_source (`KSource | None`): how the k of the questions is known that `iter_questions` yields; None for a method
            whose runs keep no questions, which `compact analyze` refuses.
        public_settings (`tuple[str, ...]`): those of its settings in a run's identity that a card may name; not paths.
        reject_reasons (`tuple[type[Reason], ...]`): the reasons for which it drops something, one enum a stage.
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
        """Settle the options for a run.

        Raises:
            UsageError: they cannot be carried out.
        """
        raise NotImplementedError

    @classmethod
    def parse_outcome(cls, body: str) -> Outcome:
        """Return what became of an image, from the JSON in a journal."""
        from compact_hf.methods.status import AnyOutcome
        from compact_hf.records import from_json

        return from_json(AnyOutcome, body)

    @classmethod
    def count_outcomes(cls, faults: dict[str, list[str]]) -> OutcomeCounter:
        """Return what counts outcomes for `compact status`.

        Args:
            faults (`dict[str, list[str]]`): key of a reply -> the fault planted in each of its parts, in reverse order.
        """
        from compact_hf.methods.status import OutcomeCounter

        return OutcomeCounter(cls, faults)

    @classmethod
    def iter_questions(cls, body: str) -> Iterator[Exchange]:
        """Yield the questions that were kept or judged about an image, with their capabilities, for `compact analyze`.

        Args:
            body (`str`): what became of the image, as JSON from a journal.
        """
        yield from ()

    @classmethod
    def make_rows(
        cls, outcome: FinishedOutcome, image: ImageInfo, read_image: Callable[[], bytes]
    ) -> Iterator[Row | Reject]:
        """Yield the rows that came of one image, and what was dropped about it.

        Args:
            outcome (`FinishedOutcome`): what became of it.
            image (`ImageInfo`): the image.
            read_image (`Callable[[], bytes]`): reads its file; for `Row.read_images`.
        """
        raise NotImplementedError

    @classmethod
    def iter_rows(cls, journals: Sequence[Journal], options: AssemblyOptions) -> Iterator[Row | Reject]:
        """Yield the rows of all runs of this method, in the order of image ids, and every reject.

        A method that inherits this from another one has its runs read together with that one's.
        """
        from compact_hf.methods.assembly import iter_rows_by_image

        return iter_rows_by_image(cls, journals)

    @classmethod
    def make_outcome_sample(cls, outcome: FinishedOutcome, filters: Filters, *, rejects: bool) -> Sample | None:
        """Return how a contact sheet shows what was kept of an image, None if it does not match the filters.

        By default the first row that comes of it, or the texts that were dropped.

        Args:
            outcome (`FinishedOutcome`): what became of it.
            filters (`Filters`): those that this method knows.
            rejects (`bool`): show what was dropped instead.
        """
        from compact_hf.methods.assembly import sample_of_outcome

        return sample_of_outcome(cls, outcome, filters, rejects=rejects)

    @classmethod
    def finish(cls, run: Path) -> None:
        """Write what belongs into a run's directory beside its journal, when a session of it ends for any reason."""
