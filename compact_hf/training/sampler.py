"""Which rows are trained on together: lengths and modalities in, for each process its batches of row numbers out.

LLaVA's rule (`group_by_modality_length` in llava/train/llava_trainer.py): rows with and without an image never share
a step, which rows share one is drawn at random, and the rows of a step are sorted by length, so that those that are
computed together need little padding. What makes no whole step comes last.

LLaVA puts those leftovers of both modalities into one step, where a process whose batch has no image computes an
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
    from compact_hf.training.row_screening import ScreeningResult


@dataclass(frozen=True, slots=True)
class Grouping:
    """What rows are grouped by, and how many make a step.

    Attributes:
        lengths (`Sequence[int]`): tokens of each row, those of its image included.
        image_flags (`Sequence[bool]`): whether each row has an image.
        batch_size (`int`): rows that one process computes at a time.
        processes (`int`): how many compute at the same time.
        accumulation (`int`): how many times they do for one step.
        seed (`int`): what the order is drawn from, together with the epoch.
        drop_last (`bool`, *optional*, defaults to `False`): leave out what makes no whole step.
    """

    lengths: Sequence[int]
    image_flags: Sequence[bool]
    batch_size: int
    processes: int
    accumulation: int
    seed: int
    drop_last: bool = False

    @property
    def rows_per_step(self) -> int:
        """Rows of a whole step."""
        return self.batch_size * self.processes * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """How many optimizer steps an epoch has."""
        counts = (sum(self.image_flags), len(self.image_flags) - sum(self.image_flags))
        return sum(
            count // self.rows_per_step if self.drop_last else -(-count // self.rows_per_step) for count in counts
        )

    def build_epoch(self, epoch: int) -> list[list[int]]:
        """Return the rows of each step of an epoch, the longest first."""
        rng = random.Random(f"{self.seed} {epoch}")
        steps, partial_steps = [], []
        for with_image in (True, False):
            rows = [row for row, has_image in enumerate(self.image_flags) if has_image is with_image]
            rng.shuffle(rows)
            num_full = len(rows) - len(rows) % self.rows_per_step
            steps += [rows[start : start + self.rows_per_step] for start in range(0, num_full, self.rows_per_step)]
            if rows[num_full:] and not self.drop_last:
                partial_steps.append(self._repeat_to_fill(rows[num_full:]))
        rng.shuffle(steps)
        return [sorted(rows, key=lambda row: (-self.lengths[row], row)) for rows in steps + partial_steps]

    def split_step(self, step: Sequence[int]) -> list[list[Sequence[int]]]:
        """Deal out a step's rows: for each time that all compute, for each process, neighbours in length."""
        return [split_evenly(rows, self.processes) for rows in split_evenly(step, self.accumulation)]

    @property
    def batch_shapes(self) -> list[tuple[int, int]]:
        """Of each batch that some process computes in an epoch: its rows, and the tokens that each is padded to."""
        batches = (
            batch
            for step in self.build_epoch(0)
            for process_batches in self.split_step(step)
            for batch in process_batches
        )
        return [(len(batch), max(self.lengths[row] for row in batch)) for batch in batches]

    @property
    def largest_batch(self) -> tuple[int, int]:
        """Rows and tokens of the largest batch."""
        return max(self.batch_shapes, key=lambda batch: batch[0] * batch[1])

    def _repeat_to_fill(self, rows: list[int]) -> list[int]:
        """Return leftovers, some of them again where they are not enough for every batch to have one."""
        return list(islice(cycle(rows), max(len(rows), self.processes * self.accumulation)))


def build_grouping(training: Any, screening: ScreeningResult, processes: int) -> Grouping:
    """Return the grouping that training's arguments ask for; `processes` are those that compute at the same time."""
    return Grouping(
        screening.lengths,
        screening.image_flags,
        batch_size=training.per_device_train_batch_size,
        processes=processes,
        accumulation=training.gradient_accumulation_steps,
        seed=training.seed if training.data_seed is None else training.data_seed,
        drop_last=training.dataloader_drop_last,
    )


def split_evenly(rows: Sequence[int], num_parts: int) -> list[Sequence[int]]:
    """Return neighbours together in so many parts, of the same size or one more."""
    return [rows[len(rows) * index // num_parts : len(rows) * (index + 1) // num_parts] for index in range(num_parts)]


class GroupedBatchSampler:
    """One process's batches of one epoch, as torch's `DataLoader` takes them for its `batch_sampler`.

    Args:
        grouping (`Grouping`): of all processes.
        rank (`int`): this process's number.
        get_epoch (`Callable[[], int | None]`): the number of the epoch that begins, asked for whenever an iteration
            does; None where training is over.
    """

    def __init__(self, grouping: Grouping, *, rank: int, get_epoch: Callable[[], int | None]) -> None:
        self._grouping, self._rank, self._get_epoch = grouping, rank, get_epoch

    def __len__(self) -> int:
        return self._grouping.steps_per_epoch * self._grouping.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self._get_epoch()
        if epoch is None:
            return
        for step in self._grouping.build_epoch(epoch):
            for process_batches in self._grouping.split_step(step):
                yield list(process_batches[self._rank])
