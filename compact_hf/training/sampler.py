"""Groups rows into optimizer steps by modality and length, and splits each step into the batches of every process.

The rule is LLaVA's (`group_by_modality_length` in llava/train/llava_trainer.py): a step has either only rows with an
image or only rows without one, its rows are chosen at random, and they are sorted by length, so that rows of the same
batch need little padding. Incomplete steps come last.

One detail differs from LLaVA, which puts the leftover rows of both modalities into one step and lets a process without
an image compute a dummy image. Here each modality has an incomplete step of its own, with smaller batches: under FSDP
and ZeRO-3 either all processes have to run the vision tower, or none. If there are fewer leftover rows than batches in
a step, some rows are used more than once.

The order is a function of lengths, modalities, seed and epoch. This module does not import torch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compact_hf.training.row_screening import ScreeningResult


@dataclass(frozen=True, slots=True)
class Grouping:
    """Assignment of rows to optimizer steps.

    Attributes:
        lengths (`Sequence[int]`): length of each row in tokens, image tokens included.
        image_flags (`Sequence[bool]`): whether each row has an image.
        batch_size (`int`): rows per batch of one process.
        processes (`int`): number of processes.
        accumulation (`int`): batches per process and step (gradient accumulation).
        seed (`int`): random seed; the order also depends on the epoch.
        drop_last (`bool`, *optional*, defaults to `False`): leave out incomplete steps.
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
        """Number of rows in a complete step."""
        return self.batch_size * self.processes * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps per epoch."""
        # (rows with an image, rows without one)
        counts = (sum(self.image_flags), len(self.image_flags) - sum(self.image_flags))
        # -(-a // b) rounds up: each modality may end with one incomplete step.
        return sum(
            count // self.rows_per_step if self.drop_last else -(-count // self.rows_per_step) for count in counts
        )

    def build_epoch(self, epoch: int) -> list[list[int]]:
        """Return the row numbers of each step of an epoch, sorted within a step from the longest row to the shortest.

        Args:
            epoch (`int`): number of the epoch, from 0.
        """
        # The same in all processes, so that they agree on the order without communication.
        rng = random.Random(f"{self.seed} {epoch}")
        # Complete steps are shuffled; the incomplete ones, at most one per modality, stay at the end.
        steps, partial_steps = [], []
        for with_image in (True, False):
            rows = [row for row, has_image in enumerate(self.image_flags) if has_image is with_image]
            rng.shuffle(rows)
            num_full = len(rows) - len(rows) % self.rows_per_step
            steps += [rows[start : start + self.rows_per_step] for start in range(0, num_full, self.rows_per_step)]
            if rows[num_full:] and not self.drop_last:
                partial_steps.append(self._repeat_to_fill(rows[num_full:]))
        rng.shuffle(steps)
        # Sorted, because consecutive rows form a batch, which is padded to its longest row.
        return [sorted(rows, key=lambda row: (-self.lengths[row], row)) for rows in steps + partial_steps]

    def split_step(self, step: Sequence[int]) -> list[list[Sequence[int]]]:
        """Split the rows of a step into batches of rows of similar length, indexed by (accumulation, process).

        Args:
            step (`Sequence[int]`): row numbers of a step, sorted by length.
        """
        return [split_evenly(rows, self.processes) for rows in split_evenly(step, self.accumulation)]

    @property
    def batch_shapes(self) -> list[tuple[int, int]]:
        """(rows, tokens per row after padding) of each batch of all processes in an epoch."""
        batches = (
            batch
            for step in self.build_epoch(0)
            for process_batches in self.split_step(step)
            for batch in process_batches
        )
        return [(len(batch), max(self.lengths[row] for row in batch)) for batch in batches]

    @property
    def largest_batch(self) -> tuple[int, int]:
        """(rows, tokens per row after padding) of the batch with the most tokens."""
        return max(self.batch_shapes, key=lambda batch: batch[0] * batch[1])

    def _repeat_to_fill(self, rows: list[int]) -> list[int]:
        """Return the leftover rows, repeated if there is not at least one row per batch of the step."""
        return list(islice(cycle(rows), max(len(rows), self.processes * self.accumulation)))


def build_grouping(training: Any, screening: ScreeningResult, processes: int) -> Grouping:
    """Return the grouping for the arguments of training.

    Args:
        training (`SFTConfig`): batch size, accumulation, seed and `dataloader_drop_last`.
        screening (`ScreeningResult`): lengths and modalities of the rows.
        processes (`int`): number of processes.
    """
    return Grouping(
        screening.lengths,
        screening.image_flags,
        batch_size=training.per_device_train_batch_size,
        processes=processes,
        accumulation=training.gradient_accumulation_steps,
        seed=training.seed if training.data_seed is None else training.data_seed,
        drop_last=training.dataloader_drop_last,
    )


def count_steps(training: Any, grouping: Grouping) -> int:
    """Return the number of optimizer steps of a run.

    Args:
        training (`SFTConfig`): `max_steps` and `num_train_epochs`.
        grouping (`Grouping`): the grouping of its rows.
    """
    # `max_steps` replaces the number of epochs, as in transformers' Trainer; -1 is its default.
    if training.max_steps > 0:
        return int(training.max_steps)
    return math.ceil(grouping.steps_per_epoch * float(training.num_train_epochs))


def split_evenly(rows: Sequence[int], num_parts: int) -> list[Sequence[int]]:
    """Split rows into consecutive parts whose sizes differ by at most one.

    Args:
        rows (`Sequence[int]`): row numbers.
        num_parts (`int`): number of parts.
    """
    return [rows[len(rows) * index // num_parts : len(rows) * (index + 1) // num_parts] for index in range(num_parts)]


class GroupedBatchSampler:
    """Yields one process's batches of an epoch; a `batch_sampler` for torch's `DataLoader`.

    Args:
        grouping (`Grouping`): the grouping, the same in all processes.
        rank (`int`): number of this process, from 0.
        get_epoch (`Callable[[], int | None]`): called at the start of each iteration; returns the number of the
            epoch, or None if training is over.
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
