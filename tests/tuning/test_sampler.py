"""The laws of grouping: every row once, one modality at a time, neighbours in length together, the same everywhere."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from compact_hf.tuning.sampler import Batches, Grouping, share

GROUPINGS = st.builds(
    lambda rows, processes, batch, accumulation, seed: (
        Grouping(
            [length for length, _ in rows],
            [has for _, has in rows],
            at_once=processes * batch,
            accumulation=accumulation,
            seed=seed,
        ),
        processes,
    ),
    st.lists(st.tuples(st.integers(1, 2048), st.booleans()), min_size=1, max_size=150),
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 9),
)


def of_process(grouping: Grouping, rank: int, processes: int, epoch: int = 0) -> list[list[int]]:
    return list(Batches(grouping, rank=rank, processes=processes, epoch=lambda: epoch))


@given(GROUPINGS)
def test_every_row_is_there_once_an_epoch_but_for_fewer_doubles_than_processes_in_each_modality(
    case: tuple[Grouping, int],
) -> None:
    grouping, processes = case
    assert sorted(row for step in grouping.epoch(0) for rows in step for row in rows) == list(
        range(len(grouping.lengths))
    )
    taken = Counter(
        row for rank in range(processes) for batch in of_process(grouping, rank, processes) for row in batch
    )
    assert set(taken) == set(range(len(grouping.lengths)))
    for kind in (True, False):
        doubles = sum(count - 1 for row, count in taken.items() if grouping.pictured[row] is kind)
        assert doubles < processes


@given(GROUPINGS)
def test_all_processes_compute_the_same_modality_at_the_same_time(case: tuple[Grouping, int]) -> None:
    grouping, processes = case
    shares = [of_process(grouping, rank, processes) for rank in range(processes)]
    assert {len(batches) for batches in shares} == {len(Batches(grouping, rank=0, processes=processes, epoch=int))}
    for batches in zip(*shares, strict=True):
        assert all(batches), "a process without a row would leave the others waiting"
        assert len({grouping.pictured[row] for batch in batches for row in batch}) == 1
        assert max(map(len, batches)) - min(map(len, batches)) <= 1


@given(GROUPINGS)
def test_a_step_has_one_modality_and_is_whole_but_where_the_rest_of_both_comes_last(
    case: tuple[Grouping, int],
) -> None:
    grouping, _ = case
    step_size = grouping.at_once * grouping.accumulation
    whole = sum(grouping.pictured) // step_size + (len(grouping.pictured) - sum(grouping.pictured)) // step_size
    steps = grouping.epoch(0)
    for step in steps[:whole]:
        assert [len(rows) for rows in step] == [grouping.at_once] * grouping.accumulation
        assert len({grouping.pictured[row] for rows in step for row in rows}) == 1
    assert len(steps[whole:]) <= 2
    assert all(len(step) == grouping.accumulation for step in steps[:-1])
    assert len(steps) == grouping.steps_per_epoch
    assert replace(grouping, drop_last=True).epoch(0) == steps[:whole]


@given(GROUPINGS, st.randoms(use_true_random=False))
def test_no_other_way_of_dealing_out_a_steps_rows_pads_less(case: tuple[Grouping, int], drawn: random.Random) -> None:
    grouping, processes = case

    def padded(rows: list[int]) -> int:
        at_once = [rows[start : start + grouping.at_once] for start in range(0, len(rows), grouping.at_once)]
        batches = [share(part, rank=rank, processes=processes) for part in at_once for rank in range(processes)]
        return sum(len(batch) * max(grouping.lengths[row] for row in batch) for batch in batches)

    for step in grouping.epoch(0):
        if all(len(rows) == grouping.at_once for rows in step):
            rows = [row for part in step for row in part]
            other = drawn.sample(rows, len(rows))
            if len({grouping.pictured[row] for row in rows}) == 1:
                assert padded(rows) <= padded(other)


@given(GROUPINGS, st.integers(0, 3), st.data())
def test_going_on_in_an_epoch_gives_the_rest_of_it(case: tuple[Grouping, int], epoch: int, data: st.DataObject) -> None:
    grouping, processes = case
    whole = of_process(grouping, 0, processes, epoch)
    again = of_process(replace(grouping), 0, processes, epoch)
    done = data.draw(st.integers(0, len(whole)))
    assert again[done:] == whole[done:]


@given(GROUPINGS)
def test_a_step_has_the_same_rows_however_many_processes_share_it(case: tuple[Grouping, int]) -> None:
    grouping, _ = case
    together = replace(grouping, at_once=grouping.at_once * grouping.accumulation, accumulation=1)
    step_size = together.at_once
    whole = sum(grouping.pictured) // step_size + (len(grouping.pictured) - sum(grouping.pictured)) // step_size
    for one, other in zip(grouping.epoch(1)[:whole], together.epoch(1)[:whole], strict=True):
        assert [row for rows in one for row in rows] == other[0]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    grouping = Grouping([5] * 64, [True] * 64, at_once=4, accumulation=2, seed=1)
    orders = [grouping.epoch(0), grouping.epoch(1), replace(grouping, seed=2).epoch(0)]
    assert all(one != other for index, one in enumerate(orders) for other in orders[:index])


def test_nothing_comes_once_training_is_over() -> None:
    grouping = Grouping([5] * 8, [True] * 8, at_once=4, accumulation=1, seed=1)
    assert list(Batches(grouping, rank=0, processes=1, epoch=lambda: None)) == []
