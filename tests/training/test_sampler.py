"""Checks grouping: every row once, one modality per step, similar lengths together, the same order in all processes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from compact_hf.training.sampler import GroupedBatchSampler, Grouping

GROUPINGS = st.builds(
    lambda rows, batch_size, processes, accumulation, seed: Grouping(
        [length for length, _ in rows], [has for _, has in rows], batch_size, processes, accumulation, seed
    ),
    st.lists(st.tuples(st.integers(1, 2048), st.booleans()), min_size=1, max_size=150),
    st.integers(1, 5),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(0, 9),
)


def batches_by_process(grouping: Grouping, epoch: int = 0) -> list[list[list[int]]]:
    """Return the batches of every process in an epoch."""
    return [
        list(GroupedBatchSampler(grouping, rank=rank, get_epoch=lambda: epoch)) for rank in range(grouping.processes)
    ]


@given(GROUPINGS)
def test_every_row_is_there_once_an_epoch_or_once_more_among_too_few_leftovers(grouping: Grouping) -> None:
    row_counts = Counter(row for batches in batches_by_process(grouping) for batch in batches for row in batch)
    assert set(row_counts) == set(range(len(grouping.lengths)))
    batches_per_step = grouping.processes * grouping.accumulation
    for has_image in (True, False):
        leftovers = grouping.image_flags.count(has_image) % grouping.rows_per_step
        doubles = sum(count - 1 for row, count in row_counts.items() if grouping.image_flags[row] is has_image)
        assert doubles == (max(0, batches_per_step - leftovers) if leftovers else 0)


@given(GROUPINGS)
def test_a_step_has_one_modality_in_all_processes_and_a_batch_for_each(grouping: Grouping) -> None:
    process_batches = batches_by_process(grouping)
    assert {len(batches) for batches in process_batches} == {grouping.steps_per_epoch * grouping.accumulation}
    assert len(GroupedBatchSampler(grouping, rank=0, get_epoch=int)) == len(process_batches[0])
    for start in range(0, len(process_batches[0]), grouping.accumulation):
        step = [batch for batches in process_batches for batch in batches[start : start + grouping.accumulation]]
        assert len({grouping.image_flags[row] for batch in step for row in batch}) == 1
        assert min(map(len, step)) >= 1, "a process without a row would leave the others waiting"
        assert max(map(len, step)) <= grouping.batch_size
        assert max(map(len, step)) - min(map(len, step)) <= 2


@given(GROUPINGS)
def test_only_the_leftovers_which_come_last_make_a_step_that_is_not_whole(grouping: Grouping) -> None:
    full_steps = [grouping.image_flags.count(has_image) // grouping.rows_per_step for has_image in (True, False)]
    steps = grouping.build_epoch(0)
    assert [len(step) for step in steps[: sum(full_steps)]] == [grouping.rows_per_step] * sum(full_steps)
    assert all(len(step) < grouping.rows_per_step for step in steps[sum(full_steps) :]) or grouping.batch_size == 1
    assert len(steps) == grouping.steps_per_epoch
    drop_last_grouping = replace(grouping, drop_last=True)
    assert drop_last_grouping.build_epoch(0) == steps[: sum(full_steps)]
    assert drop_last_grouping.steps_per_epoch == sum(full_steps)


@given(GROUPINGS, st.randoms(use_true_random=False))
def test_no_other_way_of_dealing_out_a_whole_steps_rows_pads_less(grouping: Grouping, drawn: random.Random) -> None:
    def padded_length(step: list[int]) -> int:
        batches = [batch for process_batches in grouping.split_step(step) for batch in process_batches]
        return sum(len(batch) * max(grouping.lengths[row] for row in batch) for batch in batches)

    for step in replace(grouping, drop_last=True).build_epoch(0):
        assert padded_length(step) <= padded_length(drawn.sample(step, len(step)))


@given(GROUPINGS, st.integers(0, 3), st.data())
def test_going_on_in_an_epoch_gives_the_rest_of_it(grouping: Grouping, epoch: int, data: st.DataObject) -> None:
    [whole, *_], [again, *_] = batches_by_process(grouping, epoch), batches_by_process(replace(grouping), epoch)
    start = data.draw(st.integers(0, len(whole)))
    assert again[start:] == whole[start:]


@given(GROUPINGS)
def test_a_step_has_the_same_rows_however_many_processes_share_it(grouping: Grouping) -> None:
    one_process = replace(grouping, processes=1, accumulation=grouping.accumulation * grouping.processes)
    many_processes = replace(grouping, accumulation=1, processes=grouping.accumulation * grouping.processes)
    assert grouping.build_epoch(1) == one_process.build_epoch(1) == many_processes.build_epoch(1)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    grouping = Grouping([5] * 64, [True] * 64, batch_size=4, processes=1, accumulation=2, seed=1)
    orders = [grouping.build_epoch(0), grouping.build_epoch(1), replace(grouping, seed=2).build_epoch(0)]
    assert all(order != earlier for index, order in enumerate(orders) for earlier in orders[:index])


def test_nothing_comes_once_training_is_over() -> None:
    grouping = Grouping([5] * 8, [True] * 8, batch_size=4, processes=1, accumulation=1, seed=1)
    assert list(GroupedBatchSampler(grouping, rank=0, get_epoch=lambda: None)) == []
