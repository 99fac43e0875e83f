"""What a run can be told, whatever its method: the one place for its parameters, their defaults and their help.

The keywords of `generate`, `annotate`, `augment` and `dry_run`, the flags of their commands, and what a Ray worker is
sent are the fields of `RunOptions`. A method has a dataclass of the same kind for what it can be told besides. Nothing
heavy is imported here: flags are built at every start of the command line.
"""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, Self, TypeVar

from compact_hf.errors import UsageError
from compact_hf.images.source import MAX_EDGE
from compact_hf.teachers.registry import BACKENDS

if TYPE_CHECKING:
    from compact_hf.runs.run import RunProgress
    from compact_hf.runs.shards import Shard
    from compact_hf.teachers.base import Role
    from compact_hf.teachers.prices import Price

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

DEFAULT_CONCURRENCY: Final = 16
_FLAG: Final = "flag"


@dataclass(frozen=True, slots=True)
class Flag:
    """How a field of an options class is given on the command line.

    Attributes:
        help (`str`): what it does, for `--help`.
        metavar (`str | None`): what its value is called there.
        name (`str`): without dashes, where it is not the field's name with `-` for `_`.
        parse (`Callable[[str], Any]`, *optional*): makes the value of its text; by default the field's type does.
    """

    help: str
    metavar: str | None = None
    name: str = ""
    parse: Callable[[str], Any] | None = None


def option(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    name: str = "",
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """Return a dataclass field that is a flag of the command line too; see `Flag`."""
    return field(default=default, metadata={_FLAG: Flag(help, metavar, name, parse)})


def parse_numbers(text: str) -> tuple[int, ...]:
    """Return the whole numbers of a flag, such as `1,2,3`.

    Raises:
        argparse.ArgumentTypeError: they are something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; give numbers with commas between, such as 1,2,3") from None


def iter_flags(options: type) -> Iterator[tuple[Field[Any], Flag]]:
    """Yield the fields of an options class that are flags, in the order of `iter_fields`."""
    for item in iter_fields(options):
        if _FLAG in item.metadata:
            yield item, item.metadata[_FLAG]


def iter_fields(options: type) -> Iterator[Field[Any]]:
    """Yield the fields of an options class: its own first, then those that it inherits."""
    remaining = {item.name: item for item in fields(options)}
    for base in options.__mro__:
        yield from (remaining.pop(name) for name in inspect.get_annotations(base) if name in remaining)


class DatasetFunction(Protocol[P, R_co]):
    """A function of a dataset, a run directory and keywords."""

    def __call__(self, dataset: str, out: str | Path, *args: P.args, **options: P.kwargs) -> R_co: ...


def keywords_of(options: Callable[P, object]) -> Callable[[Callable[..., R]], DatasetFunction[P, R]]:
    """Let a function of (dataset, out, **options) have the fields of an options class as its keywords.

    Type checkers and `help()` see them; the function is called as it is.
    """

    def decorate(function: Callable[..., R]) -> DatasetFunction[P, R]:
        set_keywords(function, options)
        return function

    return decorate


def set_keywords(function: Callable[..., object], options: Callable[..., object], *, is_open: bool = False) -> None:
    """Set the fields of an options class as a function's keywords, and describe them in its docstring as it does.

    Args:
        is_open (`bool`, *optional*, defaults to False): keep `**options` behind them, for those of other methods.
    """
    signature = inspect.signature(function)
    *parameters, rest = signature.parameters.values()
    for item in iter_fields(options):  # type: ignore[arg-type]  # a dataclass, whose fields its constructor takes
        parameters.append(
            inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=item.type)
        )
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]  # of any function, see inspect
        parameters=[*parameters, rest] if is_open else parameters
    )
    described = "\n".join(_describe_fields(options))  # type: ignore[arg-type]
    function.__doc__ = f"{inspect.getdoc(function)}\n\nOptions:\n{described}"


def _describe_fields(options: type) -> Iterator[str]:
    """Yield the entries of the docstrings that describe the fields of an options class."""
    for base in options.__mro__:
        _, _, section = (inspect.cleandoc(base.__doc__ or "")).partition("Attributes:\n")
        if section:
            yield section.partition("\n\n")[0]


def _ignore_progress(progress: RunProgress) -> None:
    """Do nothing."""


def _ignore_wait(line: str) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """How much is asked, how fast, and for how much money; see `RunOptions`, which has the same fields."""

    limit: int | None = option(None, "work on N pictures only, drawn by the seed", metavar="N")
    concurrency: int = option(DEFAULT_CONCURRENCY, f"requests in flight (default: {DEFAULT_CONCURRENCY})", metavar="C")
    rpm: float | None = option(None, "at most N requests a minute", metavar="N")
    tpm: float | None = option(None, "at most N tokens a minute", metavar="N")
    max_requests: int | None = option(None, "stop after N answered requests in all", metavar="N")
    max_cost: float | None = option(None, "stop after so many US dollars in all", metavar="USD")
    price_in: float | None = option(None, "per million tokens, where it is not known", metavar="USD")
    price_out: float | None = option(None, "as --price-in", metavar="USD")

    def __post_init__(self) -> None:
        for name in ("limit", "concurrency", "max_requests"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"got {name} {value}; it must be at least 1")
        for name in ("rpm", "tpm", "max_cost"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise UsageError(f"got {name} {value:g}; it must be above 0 and finite")

    def for_shard(self, shard: Shard | None) -> Self:
        """Return one shard's part of what the whole run may work on and spend."""
        if shard is None:
            return self
        return replace(
            self,
            limit=shard.share("limit", self.limit),
            max_requests=shard.share("max_requests", self.max_requests),
            rpm=shard.portion(self.rpm),
            tpm=shard.portion(self.tpm),
            max_cost=shard.portion(self.max_cost),
        )

    def prices(self, teachers: Mapping[Role, str]) -> dict[Role, Price | None]:
        """Return what each role's teacher charges, by its name.

        Raises:
            UsageError: `max_cost` is set, and nobody knows what one of them charges.
        """
        from compact_hf.teachers.prices import format_price, lookup_prices

        prices = lookup_prices(teachers, price_in=self.price_in, price_out=self.price_out)
        for role, price in prices.items():
            if price is None and self.max_cost is not None:
                raise UsageError(f"a limit on the cost needs prices: {format_price(teachers[role], price)}")
        return prices


@dataclass(frozen=True, kw_only=True)
class RunOptions(RunLimits):
    """Who is asked, about what, how fast and for how much money. Limits are free to change when a run is resumed.

    Attributes:
        teacher (`str`, *optional*): who writes, `NAME[:MODEL]`; defaults to `scenes` for drawn scenes and to `gemini`
            otherwise.
        teacher_url (`str`, *optional*): another server of the teacher's protocol.
        verifier (`str`, *optional*): who verifies, `NAME[:MODEL]`; defaults to the teacher, without its noise.
        verifier_url (`str`, *optional*): another server; defaults to the teacher's where both speak one protocol.
        max_edge (`int`, *optional*, defaults to 1024): pixels on the longer edge of the image that is sent.
        seed (`int`, *optional*, defaults to 0): decides every draw, and which images come first.
        shard (`str`, *optional*): `I/N`: work on the I-th of N parts of the images only; `limit`, `rpm`, `tpm`,
            `max_requests` and `max_cost` are those of all parts together.
        noise (`float`, *optional*, defaults to 0.0): share, 0 to 1, of faulty drafts that the scenes teacher plants.
        limit (`int`, *optional*): images to work on, drawn at random by the seed; a larger limit adds to them.
        concurrency (`int`, *optional*, defaults to 16): requests in flight.
        rpm (`float`, *optional*): requests a minute, at most.
        tpm (`float`, *optional*): tokens a minute, at most.
        max_requests (`int`, *optional*): stop after this number of answered requests, over all sessions of the run.
        max_cost (`float`, *optional*): stop after this many US dollars, over all sessions.
        price_in (`float`, *optional*): US dollars per million input tokens, where genai-prices does not know them.
        price_out (`float`, *optional*): US dollars per million output tokens.
        on_progress (`Callable[[RunProgress], None]`, *optional*): called as work proceeds.
        on_wait (`Callable[[str], None]`, *optional*): called with a line that says what is waited for: a teacher that
            answers in batches, or a dataset that has to be loaded first.

    Raises:
        UsageError: a value is out of its range.
    """

    teacher: str | None = option(None, f"{', '.join(BACKENDS)} (default: by the source)", metavar="NAME[:MODEL]")
    teacher_url: str | None = option(None, "another server of the teacher's protocol, such as vLLM", metavar="URL")
    verifier: str | None = option(None, "who judges (default: the teacher)", metavar="NAME[:MODEL]")
    verifier_url: str | None = option(None, "as --teacher-url", metavar="URL")
    seed: int = option(0, "decides every draw (default: 0)")
    max_edge: int = option(MAX_EDGE, f"of the pictures that are sent (default: {MAX_EDGE})", metavar="PX")
    shard: str | None = option(None, "the I-th of N parts only; numbers are those of all parts", metavar="I/N")
    noise: float = option(0.0, "faults that the teacher scenes plants, 0 to 1", metavar="SHARE")
    on_progress: Callable[[RunProgress], None] = _ignore_progress
    on_wait: Callable[[str], None] = _ignore_wait

    def __post_init__(self) -> None:
        from compact_hf.images.codec import check_max_edge

        super().__post_init__()
        check_max_edge(self.max_edge)

    def parse_shard(self) -> Shard | None:
        """Return the part of the run to work on, None for all of it.

        Raises:
            UsageError: `shard` names none.
        """
        from compact_hf.runs.shards import Shard

        return None if self.shard is None else Shard.parse(self.shard)
