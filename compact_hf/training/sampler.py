"""Which rows are trained on together: lengths and modalities in, for each process its batches of row numbers out.

LLaVA's rule (`group_by_modality_length` in llava/train/llava_trainer.py): rows with and without a picture never share
a step, which rows share one is drawn at random, and the rows of a step are sorted by length, so that those that are
computed together need little padding. What makes no whole step comes last.

LLaVA puts those leftovers of both modalities into one step, where a process whose batch has no picture computes an
empty one. Here each modality's leftovers are a step of their own, in smaller batches: under FSDP and ZeRO-3 all
processes have to enter the vision tower together, or none. Where there are fewer leftovers than batches in a step, some
are taken more than once. The order follows from lengths, modalities, seed and epoch alone; nothing here needs torch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compact_hf.training.row_screening import Screened


@dataclass(frozen=True, slots=True)
class Grouping:
    """What rows are grouped by, and how many make a step.

    Attributes:
        lengths (`Sequence[int]`): tokens of each row, those of its picture included.
        pictured (`Sequence[bool]`): whether each row has a picture.
        batch_size (`int`): rows that one process computes at a time.
        processes (`int`): how many compute at the same time.
        accumulation (`int`): how many times they do for one step.
        seed (`int`): what the order is drawn from, together with the epoch.
        drop_last (`bool`, *optional*, defaults to `False`): leave out what makes no whole step.
    """

    lengths: Sequence[int]
    pictured: Sequence[bool]
    batch_size: int
    processes: int
    accumulation: int
    seed: int
    drop_last: bool = False

    @property
    def step_size(self) -> int:
        """Rows of a whole step."""
        return self.batch_size * self.processes * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """How many optimizer steps an epoch has."""
        counts = (sum(self.pictured), len(self.pictured) - sum(self.pictured))
        return sum(count // self.step_size if self.drop_last else -(-count // self.step_size) for count in counts)

    def epoch(self, number: int) -> list[list[int]]:
        """Return the rows of each step of an epoch, the longest first."""
        drawn = random.Random(f"{self.seed} {number}")
        steps, rest = [], []
        for wanted in (True, False):
            rows = [row for row, has in enumerate(self.pictured) if has is wanted]
            drawn.shuffle(rows)
            whole = len(rows) - len(rows) % self.step_size
            steps += [rows[start : start + self.step_size] for start in range(0, whole, self.step_size)]
            if rows[whole:] and not self.drop_last:
                rest.append(self._filled(rows[whole:]))
        drawn.shuffle(steps)
        return [sorted(rows, key=lambda row: (-self.lengths[row], row)) for rows in steps + rest]

    def batches(self, step: Sequence[int]) -> list[list[Sequence[int]]]:
        """Deal out a step's rows: for each time that all compute, for each process, neighbours in length."""
        return [cut(rows, self.processes) for rows in cut(step, self.accumulation)]

    @property
    def computed(self) -> list[tuple[int, int]]:
        """Of each batch that some process computes in an epoch: its rows, and the tokens that each is padded to."""
        batches = (batch for step in self.epoch(0) for shares in self.batches(step) for batch in shares)
        return [(len(batch), max(self.lengths[row] for row in batch)) for batch in batches]

    @property
    def largest(self) -> tuple[int, int]:
        """Rows and tokens of the largest batch."""
        return max(self.computed, key=lambda batch: batch[0] * batch[1])

    def _filled(self, rows: list[int]) -> list[int]:
        """Return leftovers, some of them again where they are not enough for every batch to have one."""
        return list(islice(cycle(rows), max(len(rows), self.processes * self.accumulation)))


def grouping_of(training: Any, screened: Screened, processes: int) -> Grouping:
    """Return the grouping that training's arguments ask for; `processes` are those that compute at the same time."""
    return Grouping(
        screened.lengths,
        screened.pictured,
        batch_size=training.per_device_train_batch_size,
        processes=processes,
        accumulation=training.gradient_accumulation_steps,
        seed=training.seed if training.data_seed is None else training.data_seed,
        drop_last=training.dataloader_drop_last,
    )


def cut(rows: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Return neighbours together in so many parts, of the same size or one more."""
    return [rows[len(rows) * part // parts : len(rows) * (part + 1) // parts] for part in range(parts)]


class Batches:
    """One process's batches of one epoch, as torch's `DataLoader` takes them for its `batch_sampler`.

    Args:
        grouping (`Grouping`): of all processes.
        rank (`int`): this process's number.
        epoch (`Callable[[], int | None]`): the number of the epoch that begins, asked for whenever an iteration does;
            None where training is over.
    """

    def __init__(self, grouping: Grouping, *, rank: int, epoch: Callable[[], int | None]) -> None:
        self._grouping, self._rank, self._epoch = grouping, rank, epoch

    def __len__(self) -> int:
        return self._grouping.steps_per_epoch * self._grouping.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        number = self._epoch()
        if number is None:
            return
        for step in self._grouping.epoch(number):
            for shares in self._grouping.batches(step):
                yield list(shares[self._rank])
