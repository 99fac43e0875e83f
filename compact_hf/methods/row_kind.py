"""What rows of one source are: their columns, where they lie in a dataset, what they must fulfil, what its card says.

A dataset knows common columns only. Everything else about a row is asked of the `RowKind` that its column `source`
names: a method (base.py), or that of instruction rows, which no method made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from compact_hf.records import Message

if TYPE_CHECKING:
    from compact_hf.reports.contact_sheet import Section, SheetItem
    from compact_hf.reports.figure import Plot

Record = Mapping[str, Any]
"""A row as Parquet holds it: column -> value."""
RowDefect = tuple[str, str]
"""The name of a check, a short fixed phrase under which defects are counted, and what was got."""

MAX_SIMILARITY: Final = 0.9
"""Above this a question repeats another. From five to ten words, one more is the same question, one exchanged is not.

At 0.85 nouns begin to be exchanged ("on which side of the boy is the television", "... the cow"). With LLaVA's answers,
0.9 drops 5.8% of the 12,578 questions of GQA's balanced test-dev, 1.2% of TextVQA's 5,000 for validation and 18% of
5,217 about 2,000 drawn scenes; if answers were not compared, it would drop 13% of TextVQA's and 36% of the scenes'.
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column that rows of one kind have beside the common ones.

    Attributes:
        feature (`Any`): its type, as `datasets` spells it: `Value("int64")`, `List({"question": Value("string")})`.
        description (`str`): what it holds, for the card.
    """

    feature: Any
    description: str


class RowStatistics:
    """Counts what a card says about rows of one kind, or of several kinds that are described together.

    This one counts nothing, for kinds about which there is nothing more to say.

    Attributes:
        title (`str`): what a dataset of such rows is called in its card; empty leaves that to the other rows.
        tags (`tuple[str, ...]`): for the card's header.
    """

    title: ClassVar[str] = ""
    tags: ClassVar[tuple[str, ...]] = ()

    def add(self, record: Record) -> None:
        """Count one row without defects."""

    def merge(self, other: Self) -> None:
        """Add what another one has counted."""

    def has_content(self) -> bool:
        """Whether there is anything to say; without it the parts of the card are left out."""
        return True

    @classmethod
    def card_template(cls) -> str:
        """Return a Jinja template whose blocks become parts of the card, empty where there is nothing to say.

        The blocks are `intro`, `made`, `asks`, `questions`, `biases`, `limits`, `citation`. They are rendered with
        `statistics`, this object, and `stats`, the `DatasetStats`. All but `asks`, where figures are, must follow from
        the rows alone: `validate` renders them again.
        """
        return ""

    def figures(self) -> dict[str, Plot]:
        """Return name -> figure for the card, drawn from what was counted; letters, digits and hyphens in names."""
        return {}

    def figure_names(self) -> tuple[str, ...]:
        """Return the names that `figures` has, without drawing any."""
        return ()

    def figure_digest(self) -> str:
        """Return a digest of all that the figures show, by which one of other data is known."""
        return ""


Filters = Mapping[str, Any]
"""What is asked of the images that a contact sheet shows, such as `{"k": 3}`: names and values of a method's own."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that a contact sheet may show, before it is read.

    Attributes:
        section (`Section`): where it belongs.
        teacher, verifier (`str`): who wrote and who checked it; empty where nobody did.
        make_item (`Callable[[bytes], SheetItem]`): gives what is shown, with the image's file.
    """

    section: Section
    teacher: str
    verifier: str
    make_item: Callable[[bytes], SheetItem] = field(repr=False)


class RowKind:
    """Rows of one source. A class without state; the defaults are those of a kind without columns of its own.

    Attributes:
        name (`str`): the value of the column `source`.
        config (`str`): the config that holds all subsets of this kind; kinds may share one; by default its name.
        text_subsets (`frozenset[str]`): those of its subsets whose rows have no images.
        has_validation (`bool`): whether 5% of its images are for validation; False keeps all for training.
        statistics (`type[RowStatistics]`): what counts its rows for the card, together with those of other
            kinds that share it.
    """

    name: ClassVar[str]
    config: ClassVar[str] = ""
    text_subsets: ClassVar[frozenset[str]] = frozenset()
    has_validation: ClassVar[bool] = True
    statistics: ClassVar[type[RowStatistics]] = RowStatistics

    @classmethod
    def columns(cls) -> dict[str, Column]:
        """Return its own columns beside the common ones, by name."""
        return {}

    @classmethod
    def get_subset(cls, record: Record) -> str:
        """Return the subset in which a row lies; by default there is one, of the kind's name."""
        return cls.name

    @classmethod
    def has_subset(cls, subset: str) -> bool:
        """Whether rows of this kind may lie in the subset of that name: letters in lower case, digits, underscores."""
        return subset == cls.name

    @classmethod
    def describe_filters(cls, filters: Filters) -> str | None:
        """Return in words what these filters ask for, None where this kind does not know one of them.

        Raises:
            UsageError: a value is out of range.
        """
        return None if filters else ""

    @classmethod
    def may_match(cls, subset: str, filters: Filters) -> bool:
        """Whether rows of a subset may be what filters that it knows ask for, without a look at any."""
        return True

    @classmethod
    def make_sample(cls, record: Record, caption: str, filters: Filters) -> Sample | None:
        """Return how a contact sheet shows a row, None where it is not what the filters ask for.

        Args:
            record (`Record`): the row, without its images.
            caption (`str`): where it comes from.
            filters (`Filters`): those that this kind knows.
        """
        from compact_hf.reports.contact_sheet import MessagesItem, Section

        messages = tuple(Message(message["role"], message["content"]) for message in record["messages"])
        section = Section(0, record["source"])
        make_item = partial(MessagesItem, section=section, messages=messages, caption=caption)
        return Sample(section, record["teacher"] or "", record["verifier"] or "", make_item)

    @classmethod
    def check(cls, record: Record) -> Iterator[RowDefect]:
        """Yield the defects of a row beyond what holds for all rows, whose common columns were checked before."""
        yield from ()
