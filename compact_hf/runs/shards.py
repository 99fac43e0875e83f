"""Shards: one run cut into N parts for N machines, each with a journal of its own; `assemble` puts them together.

In: `I/N`, and what the whole run works on and may spend. Out: what part I works on and may spend.

compact generate PICTURES --out RUN --shard 2/8
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from compact_hf.errors import JournalError, UsageError
from compact_hf.runs.journal import FILE_NAME

_SHARD_PATTERN: Final = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")
_DIRECTORY_PATTERN: Final = re.compile(r"shard-([0-9]{1,6})-of-([0-9]{1,6})")


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One part of a run; `str()` gives `I/N`.

    Which images and how much of each limit a part gets depends on nothing but I and N, so that no machine has to
    know of another. Concurrency is not divided: it is each machine's own.

    Args:
        index (`int`): which part, from 1.
        count (`int`): parts in all.

    Raises:
        UsageError: there is no such part.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(f"got shard {self}; give I/N with I from 1 to N, such as 2/8")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the part that `I/N` names.

        Raises:
            UsageError: it names none.
        """
        match = _SHARD_PATTERN.fullmatch(text)
        if match is None:
            raise UsageError(f"got shard {text!r}; give I/N with I from 1 to N, such as 2/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def directory_name(self) -> str:
        """The name of this part's run folder where all of them lie in one place, such as `shard-2-of-8`."""
        return f"shard-{self.index}-of-{self.count}"

    def select(self, refs: Sequence[str]) -> list[str]:
        """Return this part's images: every N-th of the run's, from the I-th.

        Args:
            refs (`Sequence[str]`): all references in the order of the seed, in which a limit takes the first ones: as
                the limit is shared out the same way, the parts together work on what the whole run would. Of a dataset
                on the Hub each machine fetches the row groups in which its images lie, one copy a machine.

        Raises:
            UsageError: there are fewer images than parts.
        """
        selected_refs = list(refs[self.index - 1 :: self.count])
        if not selected_refs:
            raise UsageError(
                f"shard {self} is left without a picture, as there are only {len(refs)}; cut into fewer shards"
            )
        return selected_refs

    def share(self, name: str, total: int | None) -> int | None:
        """Return this part's share of a whole number; the shares add up to it. None, no limit, stays None.

        Args:
            name (`str`): what is shared out, for the error.

        Raises:
            UsageError: this part would be left with nothing.
        """
        if total is None:
            return None
        share = (total + self.count - self.index) // self.count
        if share < 1:
            raise UsageError(
                f"shard {self} is left with nothing of {name} {total}, which the shards share; "
                f"give at least {self.count}, or cut into fewer shards"
            )
        return share

    def portion(self, total: float | None) -> float | None:
        """Return this part's share of a rate or a price: an N-th. None, no limit, stays None."""
        return None if total is None else total / self.count


def find_runs(directory: Path) -> list[Path]:
    """Return the runs in a folder: itself, or the parts of one run that lie in it as `shard-I-of-N`, in order.

    A folder that holds neither is returned as it is; reading it as a run says what is wrong.

    Raises:
        JournalError: a part is missing, or parts of two runs lie there.
    """
    if (directory / FILE_NAME).is_file() or not directory.is_dir():
        return [directory]
    run_directories = [path for path in directory.iterdir() if (path / FILE_NAME).is_file()]
    shards = {
        Shard(int(match[1]), int(match[2])): path
        for path in run_directories
        if (match := _DIRECTORY_PATTERN.fullmatch(path.name))
    }
    if not shards:
        return [directory]
    counts = sorted({shard.count for shard in shards})
    if len(counts) > 1:
        raise JournalError(
            f"{directory} holds shards of {' and of '.join(map(str, counts))}; "
            f"name those of one run, such as {directory}/shard-*-of-{counts[0]}"
        )
    expected_shards = [Shard(index, counts[0]) for index in range(1, counts[0] + 1)]
    missing = [shard.directory_name for shard in expected_shards if shard not in shards]
    if missing:
        raise JournalError(
            f"{directory} lacks {', '.join(missing)}; put {'it' if len(missing) == 1 else 'them'} there, "
            f"or name what is to be put together: {directory}/shard-*"
        )
    return [shards[shard] for shard in expected_shards]
