"""Tests subsets, splits, file names and configs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compact_hf.dataset.schema import (
    configs_from_subsets,
    data_path,
    get_split,
    get_subset,
    parse_data_path,
    subset_order,
)

IDS = st.binary(min_size=16, max_size=16).map(bytes.hex)


def test_the_leaf_follows_k_and_the_picture() -> None:
    assert get_subset("compact", {"k": 3}) == get_subset("augment", {"k": 3}) == "k3"
    assert get_subset("instruction", {"image_id": "ab"}) == "instruction"
    assert get_subset("instruction", {"image_id": None}) == "instruction_text"


@given(IDS, IDS)
def test_the_split_depends_on_the_images_alone(image_id: str, other_id: str) -> None:
    split = get_split("compact", image_id)
    assert split == get_split("augment", image_id)
    is_validation = {split, get_split("compact", other_id)} == {"validation"}
    assert get_split("compact", f"{image_id},{other_id}") == ("validation" if is_validation else "train")


def test_five_per_cent_of_the_pictures_are_for_validation() -> None:
    from compact_hf.records import digest

    held_out = sum(get_split("compact", digest(number)) == "validation" for number in range(20_000))
    assert 900 < held_out < 1100  # the expected number is 1000, with a standard deviation of 31


@given(IDS)
def test_instruction_rows_are_for_training_only(image_id: str) -> None:
    assert get_split("instruction", image_id) == "train"
    assert get_split("instruction", None) == "train"


@given(
    st.sampled_from(["k1", "k10", "instruction", "instruction_text"]),
    st.sampled_from(["train", "validation"]),
    st.integers(0, 99_999),
    st.integers(1, 99_999),
)
def test_a_file_s_name_says_its_place(leaf: str, split: str, index: int, count: int) -> None:
    assert parse_data_path(data_path(leaf, split, index, count)) == (leaf, split)


def test_other_paths_have_no_place() -> None:
    for path in ("README.md", "data/K1/train-00000-of-00001.parquet", "data/k1/test-00000-of-00001.parquet", "x.py"):
        assert parse_data_path(path) is None


def test_configs_are_views_of_the_leaves_that_are_there() -> None:
    assert configs_from_subsets(["instruction_text", "k10", "instruction", "k2"]) == {
        "all": ("k2", "k10", "instruction", "instruction_text"),
        "compositional": ("k2", "k10"),
        "instruction": ("instruction", "instruction_text"),
        "with_images": ("k2", "k10", "instruction"),
        "k2": ("k2",),
        "k10": ("k10",),
    }
    assert configs_from_subsets(["instruction_text"]) == {
        "all": ("instruction_text",),
        "instruction": ("instruction_text",),
    }


def test_leaves_are_ordered_by_k_as_a_number() -> None:
    assert sorted(["instruction_text", "k10", "k9", "instruction"], key=subset_order) == [
        "k9",
        "k10",
        "instruction",
        "instruction_text",
    ]
