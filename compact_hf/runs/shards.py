"""Divides a run into N shards for N machines: the images and the limits of each shard, and the directories of all.

    compact generate IMAGES --out RUN --shard 2/8

Each shard has its own run directory and journal; `compact assemble` combines them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from compact_hf.errors import JournalError, UsageError
from compact_hf.runs.journal import FILE_NAME
from compact_hf.wording import format_command

# I/N in ASCII digits; `int` alone would also accept spaces, underscores and a minus.
_SHARD_PATTERN: Final = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")
# Names as in `Shard.directory_name`: the groups are I and N.
_DIRECTORY_PATTERN: Final = re.compile(r"shard-([0-9]{1,6})-of-([0-9]{1,6})")


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One of N parts of a run; `str()` returns `I/N`.

    The images of a shard and its share of each limit depend only on I and N, so the machines need no communication.
    Concurrency is not divided: it applies to each machine.

    Attributes:
        index (`int`): number of the shard, from 1.
        count (`int`): total number of shards.

    Raises:
        UsageError: the index is not between 1 and the count.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(f"got shard {self}: give I/N with I from 1 to N, such as 2/8")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard that `I/N` names.

        Args:
            text (`str`): `I/N`, such as `2/8`.

        Raises:
            UsageError: the text is not of this form, or I is not between 1 and N.
        """
        match = _SHARD_PATTERN.fullmatch(text)
        if match is None:
            raise UsageError(f"got shard {text!r}: give I/N with I from 1 to N, such as 2/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def directory_name(self) -> str:
        """The name of the shard's run directory in a directory that holds all shards, such as `shard-2-of-8`."""
        return f"shard-{self.index}-of-{self.count}"

    def select(self, refs: Sequence[str]) -> list[str]:
        """Return the images of this shard: every N-th reference, starting at the I-th.

        A limit takes the first references and is divided in the same way, so all shards together process the images
        that an undivided run would. For a dataset on the Hub, each machine downloads the row groups that contain its
        images, so a row group may be downloaded by several machines.

        Args:
            refs (`Sequence[str]`): all references of the source, in the order of the seed.

        Raises:
            UsageError: there are fewer images than shards.
        """
        selected_refs = list(refs[self.index - 1 :: self.count])
        if not selected_refs:
            raise UsageError(f"shard {self} has no images (the source has only {len(refs)}): use fewer shards")
        return selected_refs

    def share(self, name: str, total: int | None) -> int | None:
        """Return this shard's share of an integer limit; the shares of all shards add up to the limit.

        Args:
            name (`str`): name of the limit, for the error message.
            total (`int | None`): the limit of the whole run; None (no limit) is returned unchanged.

        Raises:
            UsageError: the share of this shard would be 0.
        """
        if total is None:
            return None
        # If the limit is not a multiple of N, the first shards get one more.
        share = (total + self.count - self.index) // self.count
        if share < 1:
            raise UsageError(
                f"shard {self} gets no share of {name} {total} (it is divided among all shards): "
                f"raise it to at least {self.count}, or use fewer shards"
            )
        return share

    def portion(self, total: float | None) -> float | None:
        """Return this shard's share of a limit on a rate or a cost, which is 1/N of it.

        Args:
            total (`float | None`): the limit of the whole run; None (no limit) is returned unchanged.
        """
        return None if total is None else total / self.count


def find_runs(directory: Path) -> list[Path]:
    """Return the run directories of a directory: itself, or its subdirectories `shard-I-of-N` in the order of I.

    A directory that holds neither is returned unchanged, because reading it as a run raises a specific error.

    Args:
        directory (`Path`): a run directory, or the parent of all shards of a run.

    Raises:
        JournalError: a shard is missing, or the shards have different N.
    """
    # One run, or no directory.
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
            f"{directory} holds shards of several runs (of {' and of '.join(map(str, counts))} shards): "
            f"name those of one run, such as {format_command(directory)}/shard-*-of-{counts[0]}"
        )
    expected_shards = [Shard(index, counts[0]) for index in range(1, counts[0] + 1)]
    missing = [shard.directory_name for shard in expected_shards if shard not in shards]
    if missing:
        raise JournalError(
            f"{directory} lacks {', '.join(missing)}: copy {'it' if len(missing) == 1 else 'them'} there, "
            f"or name the shards to combine, such as {format_command(directory)}/shard-*"
        )
    return [shards[shard] for shard in expected_shards]
