"""What balance takes of the surplus: as even as can be, never too few, the same in any order."""

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
ACCEPTED = dict(zip(CAPABILITIES, (0.95, 0.85, 0.9, 0.7, 0.45, 0.75, 0.8, 0.85, 0.5, 0.8), strict=True))


def questions_of_an_image(k: int, most: int) -> st.SearchStrategy[list[Combination]]:
    return st.lists(st.sampled_from(COMBINATIONS[k]), max_size=most, unique=True)


IMAGES = st.lists(st.integers(1, 4).flatmap(lambda k: questions_of_an_image(k, 8)), max_size=12).map(
    lambda images: {f"{number:032x}": questions for number, questions in enumerate(images)}
)


def simulated(count: int, *, asked: int, seed: int) -> Images:
    """Images as a run leaves them: k is drawn evenly, what needs hard capabilities is accepted less often."""
    rng = random.Random(seed)
    images = {}
    for number in range(count):
        drafts = rng.sample(COMBINATIONS[rng.randint(1, 3)], asked)
        accepted = [draft for draft in drafts if rng.random() < math.prod(map(ACCEPTED.__getitem__, draft))]
        if len(accepted) >= MIN_TURNS:
            images[f"{number:032x}"] = accepted
    return images


def taken(images: Mapping[str, Sequence[Combination]], chosen: Mapping[str, Iterable[int]]) -> Iterator[Combination]:
    return (images[image_id][at] for image_id, positions in chosen.items() for at in positions)


def spread(images: Images, chosen: Mapping[str, Iterable[int]]) -> float:
    """What balance makes small, written down straight: squared counts of atoms and of pairs by their mean's square."""
    value = 0.0
    for size in (1, 2):
        kinds = {kind for needed in itertools.chain(*images.values()) for kind in itertools.combinations(needed, size)}
        counts = Counter(kind for needed in taken(images, chosen) for kind in itertools.combinations(needed, size))
        mean = counts.total() / len(kinds) if kinds else 0
        value += sum((count / mean) ** 2 for count in counts.values())
    return value


def selections(questions: Sequence[Combination]) -> list[tuple[int, ...]]:
    """Return every choice of two or three, or all where there are no more."""
    sizes = range(min(MIN_TURNS, len(questions)), min(MAX_TURNS, len(questions)) + 1)
    return [choice for size in sizes for choice in itertools.combinations(range(len(questions)), size)]


@given(IMAGES)
def test_two_or_three_are_taken_and_nothing_that_is_no_surplus_is_dropped(images: Images) -> None:
    chosen = balance_questions(images)
    assert chosen.keys() == images.keys()
    for image_id, positions in chosen.items():
        assert positions in selections(images[image_id])


@given(IMAGES, st.randoms())
def test_the_order_of_images_leaves_no_trace(images: Images, rng: random.Random) -> None:
    shuffled = list(images.items())
    rng.shuffle(shuffled)
    assert balance_questions(dict(shuffled)) == balance_questions(images)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=9))
def test_ks_are_as_even_as_two_or_three_an_image_allow_and_then_as_many(sizes: list[tuple[int, int]]) -> None:
    images = {f"{number:032x}": COMBINATIONS[k][:size] for number, (k, size) in enumerate(sizes)}

    def at(level: int) -> list[int]:
        """Return the number of questions of each k that is nearest to the level."""
        limits = [
            [sum(min(most, size) for of, size in sizes if of == k) for most in (MIN_TURNS, MAX_TURNS)]
            for k in (1, 2, 3)
        ]
        return [max(least, min(level, most)) for least, most in limits]

    def worth(counts: Sequence[int]) -> tuple[float, int]:
        return sum(count**2 for count in counts) / (sum(counts) or 1) ** 2, -sum(counts)

    got = Counter(map(len, taken(images, balance_questions(images))))
    assert worth([got[k] for k in (1, 2, 3)]) == pytest.approx(min(worth(at(level)) for level in range(30)))


def test_a_rare_k_keeps_three_where_a_frequent_one_keeps_two() -> None:
    frequent = {f"{number:032x}": COMBINATIONS[1][:4] for number in range(30)}
    rare = {f"{number:032x}": COMBINATIONS[3][:4] for number in range(30, 50)}
    chosen = balance_questions(frequent | rare)
    assert {len(chosen[image_id]) for image_id in rare} == {3}
    assert {len(chosen[image_id]) for image_id in frequent} == {2}


@given(IMAGES)
def test_no_exchange_within_an_image_would_even_more(images: Images) -> None:
    chosen = balance_questions(images)
    for image_id, positions in chosen.items():
        for out, into in itertools.product(positions, set(range(len(images[image_id]))) - set(positions)):
            exchanged = chosen | {image_id: tuple({*positions, into} - {out})}
            assert spread(images, exchanged) >= spread(images, chosen) - 1e-9


def test_what_is_taken_is_near_the_best_choice_of_as_many() -> None:
    """Against all choices with the same number of questions of each k, of five images with up to five questions."""
    worse, worse_at_random = [], []
    for seed in range(40):
        images = simulated(5, asked=5, seed=seed)
        chosen = balance_questions(images)
        ks = Counter(map(len, taken(images, chosen)))
        choices = (
            dict(zip(images, positions, strict=True))
            for positions in itertools.product(*map(selections, images.values()))
        )
        of_as_many = [spread(images, each) for each in choices if Counter(map(len, taken(images, each))) == ks]
        worse.append(spread(images, chosen) / min(of_as_many) - 1)
        worse_at_random.append(sum(of_as_many) / len(of_as_many) / min(of_as_many) - 1)
    assert sum(worse) / len(worse) < 0.01
    assert sum(worse_at_random) / len(worse_at_random) > 0.1


def test_a_run_with_uneven_accept_rates_comes_out_even() -> None:
    images = simulated(3000, asked=8, seed=0)
    chosen = balance_questions(images)
    rng = random.Random(0)
    at_random = {image_id: rng.sample(range(len(images[image_id])), len(chosen[image_id])) for image_id in images}
    before = measure_evenness(itertools.chain.from_iterable(images.values()))
    by_chance, after = measure_evenness(taken(images, at_random)), measure_evenness(taken(images, chosen))
    assert before.ks < 0.98
    assert after.ks == pytest.approx(1)
    assert max(before.capabilities, by_chance.capabilities) < 0.993
    assert after.capabilities > 0.9999
    assert max(before.pairs, by_chance.pairs) < 0.991
    assert after.pairs > 0.998
    assert after.questions > 2.5 * len(images)


def test_evenness_is_one_for_equal_counts_and_for_a_single_one() -> None:
    assert measure_evenness([]).capabilities == measure_evenness([("color",)]).capabilities == 1
    even = measure_evenness([("color",), ("shape",), ("color", "shape"), ("color", "shape")])
    assert (even.questions, even.ks, even.capabilities, even.pairs) == (4, 1, 1, 1)
    uneven = measure_evenness([("color",), ("color",), ("color",), ("shape",)])
    assert uneven.capabilities == pytest.approx(0.8112781)
