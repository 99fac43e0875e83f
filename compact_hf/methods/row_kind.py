"""Describes a kind of rows: its columns, its subsets, its validity checks and its part of the dataset card.

A dataset itself knows only the common columns. Everything else is defined by the `RowKind` that the column `source` of
a row names: a method (base.py), or the kind of instruction rows, which are not made by a method.
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
"""A row as it is stored in Parquet: column -> value."""
RowDefect = tuple[str, str]
"""The name of a failed check (a short fixed phrase under which defects are counted), and the offending value."""

MAX_SIMILARITY: Final = 0.9
"""Two questions above this similarity are near-duplicates.

For questions of five to ten words, one added word stays above the limit and one exchanged word falls below it. At 0.85,
exchanged nouns would count as duplicates ("on which side of the boy is the television", "... the cow"). With LLaVA's
answers, 0.9 drops 5.8% of the 12,578 questions of GQA's balanced test-dev, 1.2% of TextVQA's 5,000 validation questions
and 18% of 5,217 questions about 2,000 drawn scenes. If answers were not compared, it would drop 13% of TextVQA's and
36% of the scenes' questions.
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column that rows of one kind have in addition to the common ones.

    Attributes:
        feature (`Any`): its type as in `datasets`, such as `Value("int64")` or `List({"question": Value("string")})`.
        description (`str`): what it contains, for the dataset card.
    """

    feature: Any
    description: str


class RowStatistics:
    """Counts what the dataset card says about rows of one kind, or of several kinds that are described together.

    This base class counts nothing; it is for kinds that need no further description.

    Attributes:
        title (`str`): the title of a dataset of such rows on its card; if empty, other rows in the dataset decide.
        tags (`tuple[str, ...]`): tags for the header of the card.
    """

    title: ClassVar[str] = ""
    tags: ClassVar[tuple[str, ...]] = ()

    # Only `add` sees the rows; everything below is computed from the counts that it leaves.
    def add(self, record: Record) -> None:
        """Count one row without defects.

        Args:
            record (`Record`): the row, without its images.
        """

    def merge(self, other: Self) -> None:
        """Add the counts of another instance.

        Args:
            other (`Self`): statistics of other rows.
        """

    def has_content(self) -> bool:
        """Whether there is anything to say; otherwise these parts of the card are left out."""
        return True

    @classmethod
    def card_template(cls) -> str:
        """Return a Jinja template whose blocks become parts of the card; empty if there is nothing to say.

        The blocks are `intro`, `made`, `asks`, `questions`, `biases`, `limits` and `citation`. They are rendered with
        the variables `statistics` (this object) and `stats` (the `DatasetStats`). All blocks except `asks`, which shows
        the figures, must depend only on the rows, because `validate` renders them again and compares.
        """
        return ""

    # Drawn on request, because matplotlib is slow to import; `validate` needs only the names and the digest.
    def figures(self) -> dict[str, Plot]:
        """Return the card's figures by name, drawn from the counts. Names contain only letters, digits and hyphens."""
        return {}

    def figure_names(self) -> tuple[str, ...]:
        """Return the names of the figures without drawing them."""
        return ()

    def figure_digest(self) -> str:
        """Return a digest of the data that the figures show, by which outdated figures are recognised."""
        return ""


Filters = Mapping[str, Any]
"""Conditions for the images on a contact sheet, such as `{"k": 3}`: names and values that a method defines."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that a contact sheet may show; the image file has not been read yet.

    Attributes:
        section (`Section`): the section of the sheet that it belongs to.
        teacher, verifier (`str`): the models that wrote and verified it; empty if there was none.
        make_item (`Callable[[bytes], SheetItem]`): returns the item to show, given the bytes of the image file.
    """

    section: Section
    teacher: str
    verifier: str
    # A function of the bytes: many samples are collected, and the image file is read only for those that are shown.
    make_item: Callable[[bytes], SheetItem] = field(repr=False)


class RowKind:
    """The rows of one source. The class has no state; its defaults are for a kind without columns of its own.

    Attributes:
        name (`str`): the value of the column `source`.
        config (`str`): the config that contains all subsets of this kind; several kinds may share one. Defaults to
            `name`.
        text_subsets (`frozenset[str]`): the subsets whose rows have no images.
        has_validation (`bool`): whether 5% of the images are reserved for validation; False puts all rows into
            training.
        statistics (`type[RowStatistics]`): the class that counts these rows for the card, together with the rows of
            other kinds that use the same class.
    """

    name: ClassVar[str]
    config: ClassVar[str] = ""
    text_subsets: ClassVar[frozenset[str]] = frozenset()
    has_validation: ClassVar[bool] = True
    statistics: ClassVar[type[RowStatistics]] = RowStatistics

    @classmethod
    def columns(cls) -> dict[str, Column]:
        """Return the columns in addition to the common ones, by name."""
        return {}

    @classmethod
    def get_subset(cls, record: Record) -> str:
        """Return the subset that a row belongs to. By default there is one, with the name of the kind.

        Args:
            record (`Record`): the row.
        """
        return cls.name

    @classmethod
    def has_subset(cls, subset: str) -> bool:
        """Whether rows of this kind may be in a subset.

        Args:
            subset (`str`): the name of the subset: lower-case letters, digits and underscores.
        """
        return subset == cls.name

    @classmethod
    def describe_filters(cls, filters: Filters) -> str | None:
        """Return in words what the filters ask for, or None if this kind does not know one of them.

        Args:
            filters (`Filters`): names and values of the filters.

        Raises:
            UsageError: a value is out of range.
        """
        # This kind defines no filters: no filters describe nothing, and any filter is unknown.
        return None if filters else ""

    @classmethod
    def may_match(cls, subset: str, filters: Filters) -> bool:
        """Whether rows of a subset can match the filters, decided from the name of the subset alone.

        Args:
            subset (`str`): the name of the subset.
            filters (`Filters`): filters that this kind knows.
        """
        return True

    @classmethod
    def make_sample(cls, record: Record, caption: str, filters: Filters) -> Sample | None:
        """Return how a contact sheet shows a row, or None if the row does not match the filters.

        Args:
            record (`Record`): the row, without its images.
            caption (`str`): text that says where the row comes from.
            filters (`Filters`): filters that this kind knows.
        """
        from compact_hf.reports.contact_sheet import MessagesItem, Section

        messages = tuple(Message(message["role"], message["content"]) for message in record["messages"])
        section = Section(0, record["source"])
        make_item = partial(MessagesItem, section=section, messages=messages, caption=caption)
        return Sample(section, record["teacher"] or "", record["verifier"] or "", make_item)

    @classmethod
    def check(cls, record: Record) -> Iterator[RowDefect]:
        """Yield the defects of a row, in addition to those of the common columns, which were checked before.

        Args:
            record (`Record`): the row, without its images.
        """
        yield from ()
