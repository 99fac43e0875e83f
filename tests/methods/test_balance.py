"""Tests balancing: kept questions are as even as possible, never too few, and the order of images does not matter."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_hf.capabilities import CAPABILITIES
from compact_hf.methods.compact.balance import MAX_TURNS, MIN_TURNS, balance_questions, measure_evenness
from compact_hf.methods.compact.sampling import Combination

Images = dict[str, list[Combination]]
COMBINATIONS = {k: list(itertools.combinations(CAPABILITIES, k)) for k in range(1, 5)}
ACCEPT_RATES = dict(zip(CAPABILITIES, (0.95, 0.85, 0.9, 0.7, 0.45, 0.75, 0.8, 0.85, 0.5, 0.8), strict=True))


def image_questions(k: int, max_size: int) -> st.SearchStrategy[list[Combination]]:
    return st.lists(st.sampled_from(COMBINATIONS[k]), max_size=max_size, unique=True)


IMAGES = st.lists(st.integers(1, 4).flatmap(lambda k: image_questions(k, 8)), max_size=12).map(
    lambda images: {f"{number:032x}": questions for number, questions in enumerate(images)}
)


def simulate_images(count: int, *, draft_count: int, seed: int) -> Images:
    """Return images as a run leaves them: k is drawn uniformly, and hard capabilities are accepted less often."""
    rng = random.Random(seed)
    images = {}
    for number in range(count):
        drafts = rng.sample(COMBINATIONS[rng.randint(1, 3)], draft_count)
        accepted = [draft for draft in drafts if rng.random() < math.prod(map(ACCEPT_RATES.__getitem__, draft))]
        if len(accepted) >= MIN_TURNS:
            images[f"{number:032x}"] = accepted
    return images


def select_questions(
    images: Mapping[str, Sequence[Combination]], selection: Mapping[str, Iterable[int]]
) -> Iterator[Combination]:
    return (images[image_id][position] for image_id, positions in selection.items() for position in positions)


def spread(images: Images, selection: Mapping[str, Iterable[int]]) -> float:
    """Return the objective that balancing minimises: squared counts of capabilities and pairs by their squared mean."""
    value = 0.0
    for size in (1, 2):
        kinds = {
            kind
            for combination in itertools.chain(*images.values())
            for kind in itertools.combinations(combination, size)
        }
        counts = Counter(
            kind
            for combination in select_questions(images, selection)
            for kind in itertools.combinations(combination, size)
        )
        mean = counts.total() / len(kinds) if kinds else 0
        value += sum((count / mean) ** 2 for count in counts.values())
    return value


def selections(questions: Sequence[Combination]) -> list[tuple[int, ...]]:
    """Return every choice of two or three questions, or of all if there are fewer."""
    sizes = range(min(MIN_TURNS, len(questions)), min(MAX_TURNS, len(questions)) + 1)
    return [choice for size in sizes for choice in itertools.combinations(range(len(questions)), size)]


@given(IMAGES)
def test_two_or_three_are_taken_and_nothing_that_is_no_surplus_is_dropped(images: Images) -> None:
    selection = balance_questions(images)
    assert selection.keys() == images.keys()
    for image_id, positions in selection.items():
        assert positions in selections(images[image_id])


@given(IMAGES, st.randoms())
def test_the_order_of_images_leaves_no_trace(images: Images, rng: random.Random) -> None:
    shuffled = list(images.items())
    rng.shuffle(shuffled)
    assert balance_questions(dict(shuffled)) == balance_questions(images)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=9))
def test_ks_are_as_even_as_two_or_three_an_image_allow_and_then_as_many(sizes: list[tuple[int, int]]) -> None:
    images = {f"{number:032x}": COMBINATIONS[k][:size] for number, (k, size) in enumerate(sizes)}

    def nearest_counts(level: int) -> list[int]:
        """Return the possible number of questions of each k that is nearest to the level."""
        limits = [
            [
                sum(min(max_count, size) for image_k, size in sizes if image_k == k)
                for max_count in (MIN_TURNS, MAX_TURNS)
            ]
            for k in (1, 2, 3)
        ]
        return [max(min_count, min(level, max_count)) for min_count, max_count in limits]

    def score(counts: Sequence[int]) -> tuple[float, int]:
        return sum(count**2 for count in counts) / (sum(counts) or 1) ** 2, -sum(counts)

    k_counts = Counter(map(len, select_questions(images, balance_questions(images))))
    assert score([k_counts[k] for k in (1, 2, 3)]) == pytest.approx(
        min(score(nearest_counts(level)) for level in range(30))
    )


def test_a_rare_k_keeps_three_where_a_frequent_one_keeps_two() -> None:
    frequent = {f"{number:032x}": COMBINATIONS[1][:4] for number in range(30)}
    rare = {f"{number:032x}": COMBINATIONS[3][:4] for number in range(30, 50)}
    selection = balance_questions(frequent | rare)
    assert {len(selection[image_id]) for image_id in rare} == {3}
    assert {len(selection[image_id]) for image_id in frequent} == {2}


@given(IMAGES)
def test_no_exchange_within_an_image_would_even_more(images: Images) -> None:
    selection = balance_questions(images)
    for image_id, positions in selection.items():
        for old_position, new_position in itertools.product(
            positions, set(range(len(images[image_id]))) - set(positions)
        ):
            new_selection = dict(selection) | {image_id: tuple({*positions, new_position} - {old_position})}
            assert spread(images, new_selection) >= spread(images, selection) - 1e-9


def test_what_is_taken_is_near_the_best_choice_of_as_many() -> None:
    """Compares with all choices of the same number of questions per k, for five images with up to five questions."""
    gaps, random_gaps = [], []
    for seed in range(40):
        images = simulate_images(5, draft_count=5, seed=seed)
        selection = balance_questions(images)
        k_counts = Counter(map(len, select_questions(images, selection)))
        choices = (
            dict(zip(images, positions, strict=True))
            for positions in itertools.product(*map(selections, images.values()))
        )
        spreads = [
            spread(images, choice)
            for choice in choices
            if Counter(map(len, select_questions(images, choice))) == k_counts
        ]
        gaps.append(spread(images, selection) / min(spreads) - 1)
        random_gaps.append(sum(spreads) / len(spreads) / min(spreads) - 1)
    assert sum(gaps) / len(gaps) < 0.01
    assert sum(random_gaps) / len(random_gaps) > 0.1


def test_a_run_with_uneven_accept_rates_comes_out_even() -> None:
    images = simulate_images(3000, draft_count=8, seed=0)
    selection = balance_questions(images)
    rng = random.Random(0)
    random_selection = {
        image_id: rng.sample(range(len(images[image_id])), len(selection[image_id])) for image_id in images
    }
    before = measure_evenness(itertools.chain.from_iterable(images.values()))
    baseline, after = (
        measure_evenness(select_questions(images, random_selection)),
        measure_evenness(select_questions(images, selection)),
    )
    assert before.ks < 0.98
    assert after.ks == pytest.approx(1)
    assert max(before.capabilities, baseline.capabilities) < 0.993
    assert after.capabilities > 0.9999
    assert max(before.pairs, baseline.pairs) < 0.991
    assert after.pairs > 0.998
    assert after.questions > 2.5 * len(images)


def test_evenness_is_one_for_equal_counts_and_for_a_single_one() -> None:
    assert measure_evenness([]).capabilities == measure_evenness([("color",)]).capabilities == 1
    even = measure_evenness([("color",), ("shape",), ("color", "shape"), ("color", "shape")])
    assert (even.questions, even.ks, even.capabilities, even.pairs) == (4, 1, 1, 1)
    uneven = measure_evenness([("color",), ("color",), ("color",), ("shape",)])
    assert uneven.capabilities == pytest.approx(0.8112781)
