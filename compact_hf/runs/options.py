"""Defines the options that all runs share, whatever their method: names, defaults and help texts.

The fields of `RunOptions` are the keywords of `generate`, `annotate`, `augment` and `dry_run`, the flags of their
commands, and the settings that are sent to a Ray worker. A method defines its additional options in a dataclass of the
same kind. This module imports nothing heavy, because the command line builds the flags at every start.
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
from compact_hf.wording import format_flag

if TYPE_CHECKING:
    from compact_hf.runs.run import RunProgress
    from compact_hf.runs.shards import Shard
    from compact_hf.teachers.base import Role
    from compact_hf.teachers.prices import Price

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

DEFAULT_CONCURRENCY: Final = 16
# Key of a field's metadata.
_FLAG: Final = "flag"


@dataclass(frozen=True, slots=True)
class Flag:
    """The command line flag of a field of an options class.

    Attributes:
        help (`str`): help text of the flag.
        metavar (`str`, *optional*): name of the value in the help.
        name (`str`, *optional*): name of the flag without dashes; defaults to the field's name with `-` for `_`.
        parse (`Callable[[str], Any]`, *optional*): converts the text to the value; defaults to the field's type.
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
    """Return a dataclass field that is also a command line flag.

    Args:
        default (`Any`): default value of the field.
        help (`str`): as for `Flag`.
        metavar (`str`, *optional*): as for `Flag`.
        name (`str`, *optional*): as for `Flag`.
        parse (`Callable[[str], Any]`, *optional*): as for `Flag`.
    """
    return field(default=default, metadata={_FLAG: Flag(help, metavar, name, parse)})


def parse_numbers(text: str) -> tuple[int, ...]:
    """Return the integers of a comma-separated text, such as `1,2,3`.

    Args:
        text (`str`): value of a flag.

    Raises:
        argparse.ArgumentTypeError: a part is not an integer.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}: give integers separated by commas, such as 1,2,3") from None


def iter_flags(options: type) -> Iterator[tuple[Field[Any], Flag]]:
    """Yield (field, flag) for each field of an options class that is a flag, in the order of `iter_fields`."""
    for item in iter_fields(options):
        if _FLAG in item.metadata:
            yield item, item.metadata[_FLAG]


def iter_fields(options: type) -> Iterator[Field[Any]]:
    """Yield the fields of an options class: its own fields first, then the inherited ones."""
    # `fields` has inherited fields first; the MRO begins with the class itself.
    remaining = {item.name: item for item in fields(options)}
    for base in options.__mro__:
        yield from (remaining.pop(name) for name in inspect.get_annotations(base) if name in remaining)


class DatasetFunction(Protocol[P, R_co]):
    """A function that takes a dataset, a run directory and keywords."""

    def __call__(self, dataset: str, out: str | Path, *args: P.args, **options: P.kwargs) -> R_co: ...


def keywords_of(options: Callable[P, object]) -> Callable[[Callable[..., R]], DatasetFunction[P, R]]:
    """Return a decorator that declares the fields of an options class as the keywords of a function.

    The function takes `(dataset, out, **options)`. Type checkers and `help()` then show the fields; calls of the
    function are not changed.

    Args:
        options (`Callable`): the options class.
    """

    def decorate(function: Callable[..., R]) -> DatasetFunction[P, R]:
        set_keywords(function, options)
        return function

    return decorate


def set_keywords(function: Callable[..., object], options: Callable[..., object], *, is_open: bool = False) -> None:
    """Declare the fields of an options class as the keywords of a function, and append their docs to its docstring.

    Args:
        function (`Callable`): the function, whose last parameter is `**options`.
        options (`Callable`): the options class.
        is_open (`bool`, *optional*, defaults to False): keep `**options` after the fields, for the options of other
            methods.
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
    """Yield the `Attributes:` entries of the docstrings of an options class and its bases."""
    for base in options.__mro__:
        # The section ends at the blank line before `Raises:`.
        _, _, section = (inspect.cleandoc(base.__doc__ or "")).partition("Attributes:\n")
        if section:
            yield section.partition("\n\n")[0]


def _ignore_progress(progress: RunProgress) -> None:
    """Do nothing."""


def _ignore_wait(line: str) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """Limits of a run: images, rates, requests and cost. `RunOptions` documents the fields."""

    limit: int | None = option(
        None, "number of images to process, drawn at random by the seed (default: all)", metavar="N"
    )
    concurrency: int = option(
        DEFAULT_CONCURRENCY, f"maximum number of requests in flight (default: {DEFAULT_CONCURRENCY})", metavar="C"
    )
    rpm: float | None = option(None, "maximum number of requests per minute", metavar="N")
    tpm: float | None = option(None, "maximum number of tokens per minute", metavar="N")
    max_requests: int | None = option(None, "stop after N billed requests, over all sessions", metavar="N")
    max_cost: float | None = option(None, "stop at this cost in US dollars, over all sessions", metavar="USD")
    price_in: float | None = option(None, "USD per million input tokens, if unknown to genai-prices", metavar="USD")
    price_out: float | None = option(None, "USD per million output tokens, if unknown to genai-prices", metavar="USD")

    def __post_init__(self) -> None:
        for name in ("limit", "concurrency", "max_requests"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"got {format_flag(name)} {value}: it must be at least 1")
        for name in ("rpm", "tpm", "max_cost"):
            # NaN fails this comparison too.
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise UsageError(f"got {format_flag(name)} {value:g}: it must be above 0 and finite")

    def for_shard(self, shard: Shard | None) -> Self:
        """Return the limits of one shard, its share of the limits of the whole run.

        Args:
            shard (`Shard | None`): the shard; None returns the limits unchanged.

        Raises:
            UsageError: a limit is smaller than the number of shards.
        """
        if shard is None:
            return self
        return replace(
            self,
            # Whole numbers are divided so that they add up again; rates and costs are divided equally.
            limit=shard.share("limit", self.limit),
            max_requests=shard.share("max_requests", self.max_requests),
            rpm=shard.portion(self.rpm),
            tpm=shard.portion(self.tpm),
            max_cost=shard.portion(self.max_cost),
        )

    def prices(self, teachers: Mapping[Role, str]) -> dict[Role, Price | None]:
        """Return the price of each role's teacher, None if it is unknown.

        Args:
            teachers (`Mapping[Role, str]`): role -> `NAME:MODEL`.

        Raises:
            UsageError: `max_cost` is set and a price is unknown.
        """
        # Imported on use, because the command line imports this module at every start.
        from compact_hf.teachers.prices import format_price, lookup_prices

        prices = lookup_prices(teachers, price_in=self.price_in, price_out=self.price_out)
        for role, price in prices.items():
            if price is None and self.max_cost is not None:
                raise UsageError(f"--max-cost needs the prices: {format_price(teachers[role], price)}")
        return prices


@dataclass(frozen=True, kw_only=True)
class RunOptions(RunLimits):
    """Options of a run: models, images, rates and budget. The limits may change when a run is resumed.

    Attributes:
        teacher (`str`, *optional*): model that writes, `NAME[:MODEL]`; defaults to `scenes` for drawn scenes and to
            `gemini` otherwise.
        teacher_url (`str`, *optional*): URL of another server that speaks the teacher's protocol.
        verifier (`str`, *optional*): model that verifies, `NAME[:MODEL]`; defaults to the teacher, without its noise.
        verifier_url (`str`, *optional*): URL of the verifier's server; defaults to the teacher's if both use the same
            protocol.
        max_edge (`int`, *optional*, defaults to 1024): maximum length in pixels of the longer side of images that are
            sent; larger images are downscaled.
        seed (`int`, *optional*, defaults to 0): random seed of all draws and of the order of the images.
        shard (`str`, *optional*): `I/N`: process only the I-th of N parts of the images. `limit`, `rpm`, `tpm`,
            `max_requests` and `max_cost` are then those of all parts together.
        noise (`float`, *optional*, defaults to 0.0): share of drafts, 0 to 1, in which the scenes teacher plants a
            fault.
        limit (`int`, *optional*): number of images to process, drawn at random by the seed; a larger limit adds images
            to those of a smaller one.
        concurrency (`int`, *optional*, defaults to 16): maximum number of requests in flight.
        rpm (`float`, *optional*): maximum number of requests per minute.
        tpm (`float`, *optional*): maximum number of tokens per minute, input and output.
        max_requests (`int`, *optional*): stop after this number of billed requests, over all sessions of the run.
        max_cost (`float`, *optional*): stop at this cost in US dollars, over all sessions of the run.
        price_in (`float`, *optional*): US dollars per million input tokens, if genai-prices does not know the price.
        price_out (`float`, *optional*): US dollars per million output tokens, if genai-prices does not know the price.
        on_progress (`Callable[[RunProgress], None]`, *optional*): called with the progress of the run after each
            change.
        on_wait (`Callable[[str], None]`, *optional*): called with a line that says what the run waits for (a teacher
            that answers in batches, a dataset that has to be loaded first, or requests in flight after Ctrl-C), which
            files it skips, or which finished images of the run this call does not select.

    Raises:
        UsageError: a value is out of its range.
    """

    teacher: str | None = option(
        None,
        f"model that writes: {', '.join(BACKENDS)} (default: scenes for drawn scenes, else gemini)",
        metavar="NAME[:MODEL]",
    )
    teacher_url: str | None = option(
        None, "URL of another server that speaks the teacher's protocol, such as vLLM", metavar="URL"
    )
    verifier: str | None = option(None, "verifier model (default: same as the teacher)", metavar="NAME[:MODEL]")
    verifier_url: str | None = option(
        None, "URL of the verifier's server (default: the teacher's, if both use the same protocol)", metavar="URL"
    )
    seed: int = option(0, "random seed (default: 0)")
    max_edge: int = option(
        MAX_EDGE, f"downscale images to at most PX pixels on the longer side (default: {MAX_EDGE})", metavar="PX"
    )
    shard: str | None = option(
        None, "process only the I-th of N parts of the images; limits apply to all parts together", metavar="I/N"
    )
    noise: float = option(
        0.0, "share of drafts, 0 to 1, in which the teacher scenes plants a fault (default: 0)", metavar="SHARE"
    )
    on_progress: Callable[[RunProgress], None] = _ignore_progress
    on_wait: Callable[[str], None] = _ignore_wait

    def __post_init__(self) -> None:
        from compact_hf.images.codec import check_max_edge

        super().__post_init__()
        check_max_edge(self.max_edge)

    def parse_shard(self) -> Shard | None:
        """Return the shard to process, None for the whole run.

        Raises:
            UsageError: `shard` is not of the form `I/N`.
        """
        from compact_hf.runs.shards import Shard

        return None if self.shard is None else Shard.parse(self.shard)
