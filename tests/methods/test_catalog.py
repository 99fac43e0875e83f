"""Tests that catalogs of questions behave like mappings and give the same choices as dictionaries of tuples."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from compact_hf.capabilities import CAPABILITIES
from compact_hf.errors import ReleaseError
from compact_hf.methods.compact.balance import balance_questions
from compact_hf.methods.compact.catalog import Choice, Positions, QuestionCatalog, make_catalog
from compact_hf.methods.compact.sampling import Combination
from compact_hf.methods.compact.selection import LLAVA_K_SHARES, Selection, select_questions
from compact_hf.records import digest
from tests.methods import plain_choices

Images = dict[str, tuple[Combination, ...]]
COMBINATIONS = {k: list(itertools.combinations(CAPABILITIES, k)) for k in range(1, 5)}


@st.composite
def image_catalogs(draw: st.DrawFn) -> Images:
    """Draw up to 150 images of k = 1 to 4 with zero to seven questions each, in any order."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    combinations_by_k = {k: rng.sample(values, rng.randint(1, len(values))) for k, values in COMBINATIONS.items()}
    return {
        digest("image", number): tuple(
            rng.choice(combinations_by_k[k]) for k in [rng.randint(1, 4)] for _ in range(rng.randint(0, 7))
        )
        for number in range(draw(st.integers(0, 150)))
    }


@given(image_catalogs())
def test_a_catalog_is_the_mapping_that_it_was_made_of(images: Images) -> None:
    catalog = make_catalog(images)
    assert catalog == images
    assert list(catalog) == sorted(images)
    assert digest("another") not in catalog


def test_images_that_come_out_of_order_are_sorted_and_of_one_that_comes_twice_the_last_stays() -> None:
    catalog = QuestionCatalog()
    for number, combination in [(3, ("color",)), (1, ("shape",)), (3, ("counting",))]:
        catalog.append(f"{number:032x}", [combination])
    assert list(catalog.sort().items()) == [(f"{1:032x}", (("shape",),)), (f"{3:032x}", (("counting",),))]


def test_a_choice_tells_an_image_without_questions_from_one_that_is_not_taken() -> None:
    catalog = make_catalog({f"{number:032x}": (("color",), ("shape",)) for number in range(3)})
    choice = Choice(catalog)
    choice.take(0, [])
    choice.take(2, [5])
    assert choice == {f"{0:032x}": (), f"{2:032x}": (1,)}


@given(image_catalogs())
def test_balance_takes_what_it_took(images: Images) -> None:
    assert balance_questions(images) == plain_choices.balance_questions(images)


SELECTIONS = st.builds(
    lambda terms, size, seed: Selection(**terms, **size, seed=seed),
    st.sampled_from(
        [{}, {"ks": (1, 3)}, {"without": ("color", "counting")}, {"k_shares": LLAVA_K_SHARES}, {"k_shares": {2: 1.0}}]
    ),
    st.sampled_from([{}, {"questions": 7}, {"questions": 40}, {"conversations": 3}, {"conversations": 20}]),
    st.integers(0, 3),
)


@given(image_catalogs(), SELECTIONS)
def test_a_selection_takes_what_it_took(images: Images, selection: Selection) -> None:
    images = {image_id: questions for image_id, questions in images.items() if questions}
    results: list[dict[str, Positions] | str] = []
    for select in (select_questions, plain_choices.select_questions):
        try:
            results.append(dict(select(images, selection)))
        except ReleaseError as error:
            results.append(str(error))
    assert results[0] == results[1]
