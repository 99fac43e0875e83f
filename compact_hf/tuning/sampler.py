"""Which rows are trained on together: lengths and modalities in, for each process its batches of row numbers out.

LLaVA's rule (`group_by_modality_length` in llava/train/llava_trainer.py): rows with and without a picture never share
a step, which rows share one is drawn at random, and the rows of a step are sorted by length, so that those that are
computed together need little padding. What is left over of both when no whole step can be made of either comes last.

Beyond LLaVA's, all processes compute the same modality at the same time in these last steps too: under FSDP and ZeRO-3
a process whose batch has no picture would leave the others waiting at the vision tower. Nothing here depends on torch,
and the order follows from lengths, modalities, seed and epoch alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grouping:
    """What rows are grouped by, and how many are computed together.

    Attributes:
        lengths (`Sequence[int]`): tokens of each row, those of its picture included.
        pictured (`Sequence[bool]`): whether each row has a picture.
        at_once (`int`): rows that all processes together compute at a time: processes x batch size of each.
        accumulation (`int`): how many times that makes one step.
        seed (`int`): what the order is drawn from, together with the epoch.
        drop_last (`bool`, *optional*, defaults to `False`): leave out what makes no whole step.
    """

    lengths: Sequence[int]
    pictured: Sequence[bool]
    at_once: int
    accumulation: int
    seed: int
    drop_last: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """How many optimizer steps an epoch has."""
        return len(self.epoch(0))

    def epoch(self, number: int) -> list[list[list[int]]]:
        """Return an epoch's steps, each the lists of rows that are computed at once, one after the other.

        Every list but an epoch's last few is `at_once` long; every step but the last has `accumulation` of them.
        """
        drawn = random.Random(f"{self.seed} {number}")
        whole_steps: list[list[list[int]]] = []
        left: list[list[int]] = []
        for wanted in (True, False):
            rows = [row for row, has in enumerate(self.pictured) if has is wanted]
            drawn.shuffle(rows)
            step = self.at_once * self.accumulation
            whole = len(rows) - len(rows) % step
            whole_steps += [self._sorted(rows[start : start + step]) for start in range(0, whole, step)]
            left += self._sorted(rows[whole:])
        drawn.shuffle(whole_steps)
        if self.drop_last:
            return whole_steps
        return whole_steps + [
            left[start : start + self.accumulation] for start in range(0, len(left), self.accumulation)
        ]

    def _sorted(self, rows: list[int]) -> list[list[int]]:
        longest_first = sorted(rows, key=lambda row: (-self.lengths[row], row))
        return [longest_first[start : start + self.at_once] for start in range(0, len(rows), self.at_once)]


def share(rows: Sequence[int], *, rank: int, processes: int) -> Sequence[int]:
    """Return what one process takes of rows that are computed at once: neighbours in length, equally many or one less.

    Where there are fewer rows than processes, which happens once an epoch at most for each modality, some rows are
    taken twice: a process without a row would leave the others waiting.
    """
    if len(rows) < processes:
        return [rows[rank % len(rows)]]
    return rows[len(rows) * rank // processes : len(rows) * (rank + 1) // processes]


class Batches:
    """One process's batches of one epoch, as torch's `DataLoader` takes them for its `batch_sampler`.

    Args:
        grouping (`Grouping`): of all processes.
        rank (`int`): this process's number.
        processes (`int`): how many there are.
        epoch (`Callable[[], int | None]`): the number of the epoch that begins, asked for whenever an iteration does;
            None where training is over.
    """

    def __init__(self, grouping: Grouping, *, rank: int, processes: int, epoch: Callable[[], int | None]) -> None:
        self._grouping, self._rank, self._processes, self._epoch = grouping, rank, processes, epoch
        self._length = sum(map(len, grouping.epoch(0)))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        number = self._epoch()
        if number is None:
            return
        for step in self._grouping.epoch(number):
            for rows in step:
                yield list(share(rows, rank=self._rank, processes=self._processes))
