"""Sampling is pure, exact, and ends."""

from __future__ import annotations

from collections import Counter
from math import comb

from hypothesis import given
from hypothesis import strategies as st

from compact_hf.capabilities import CAPABILITIES, canonical
from compact_hf.synthesis.compact.sampling import draw_combinations, draw_k

seeds = st.integers(0, 2**31)
image_ids = st.text("0123456789abcdef", min_size=32, max_size=32)
ks = st.integers(1, 10)


def drawn(seed: int, image_id: str, k: int, rounds: int) -> list[tuple[str, ...]]:
    return list(draw_combinations(seed, image_id, k, [], rounds))


@given(seeds, image_ids, ks)
def test_each_combination_has_exactly_k_distinct_capabilities_in_canonical_order(
    seed: int, image_id: str, k: int
) -> None:
    for combination in drawn(seed, image_id, k, 10):
        assert len(combination) == k
        assert combination == canonical(combination)


@given(seeds, image_ids, ks)
def test_no_combination_is_asked_twice_and_the_draws_end(seed: int, image_id: str, k: int) -> None:
    asked = drawn(seed, image_id, k, 300)
    assert len(asked) == len(set(asked)) == comb(10, k)


@given(seeds, image_ids, ks)
def test_capabilities_not_asked_for_yet_come_first(seed: int, image_id: str, k: int) -> None:
    uses: Counter[str] = Counter()
    for combination in drawn(seed, image_id, k, 10):
        fresh = [name for name in CAPABILITIES if not uses[name]]
        assert sum(name in fresh for name in combination) == min(k, len(fresh))
        uses.update(combination)


@given(seeds, image_ids, ks)
def test_what_is_asked_is_a_function_of_seed_image_and_past(seed: int, image_id: str, k: int) -> None:
    assert drawn(seed, image_id, k, 5) == drawn(seed, image_id, k, 5)
    assert drawn(seed, image_id, k, 5) == drawn(seed, image_id, k, 8)[:5]


@given(seeds, image_ids, ks, st.integers(0, 6))
def test_rounds_of_several_combinations_ask_for_the_same_ones_as_rounds_of_one(
    seed: int, image_id: str, k: int, first: int
) -> None:
    whole = drawn(seed, image_id, k, 8)
    assert [*whole[:first], *draw_combinations(seed, image_id, k, whole[:first], 8 - first)] == whole


def test_k_is_uniform() -> None:
    counts = Counter(draw_k(0, f"{index:032x}", (1, 2, 3)) for index in range(6000))
    assert set(counts) == {1, 2, 3}
    # Three standard deviations of a binomial around 2,000.
    assert all(abs(count - 2000) < 110 for count in counts.values())


def test_every_atom_is_covered_about_equally() -> None:
    counts = Counter(
        name for index in range(1000) for combination in drawn(0, f"{index:032x}", 2, 3) for name in combination
    )
    assert set(counts) == set(CAPABILITIES)
    assert max(counts.values()) < 1.15 * min(counts.values())


def test_another_seed_asks_otherwise() -> None:
    one, other = ([drawn(seed, f"{index:032x}", 3, 3) for index in range(20)] for seed in (1, 2))
    assert one != other
