"""Tests that the header and the text of the card agree with the data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from huggingface_hub import constants
from PIL import Image

from compact_hf.capabilities import CAPABILITIES
from compact_hf.dataset.card import _format_size, is_dataset_directory, read_header, render_card
from compact_hf.dataset.provenance import ModelUsage, Provenance
from compact_hf.dataset.schema import features
from compact_hf.dataset.stats import DatasetStats
from compact_hf.dataset.validate import validate
from compact_hf.dataset.writer import write_dataset
from compact_hf.methods.compact.statistics import QuestionStatistics
from compact_hf.parsing import parse_card_header
from compact_hf.records import Message, Reject, Row, Turn, is_validation_image
from compact_hf.teachers.base import Role
from tests.doubles.hub.card_rules import find_problems

from .samples import make_row, make_rows

TEXT_ROW = Row(id="a" * 32, messages=(Message("user", "Hi"), Message("assistant", "Hello")), source="instruction")


def write_release(path: Path, *rows: Row | Reject) -> tuple[DatasetStats, dict[str, Any], str]:
    stats = write_dataset(rows, path, sources=("compact",), version="1.2.3")
    return stats, read_header(path), (path / "README.md").read_text()


def test_the_header_is_what_the_hub_reads(tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    _, header, _ = write_release(tmp_path / "out", *make_rows(60), TEXT_ROW)
    data = DatasetCard.load(tmp_path / "out" / "README.md").data
    assert data.to_dict() == header
    assert header["task_categories"] == ["visual-question-answering", "image-text-to-text"]
    assert header["annotations_creators"] == ["machine-generated"]
    assert header["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in header["configs"] if config.get("default")] == ["all"]


def test_the_header_counts_every_config(tmp_path: Path) -> None:
    from datasets import Features

    stats, header, _ = write_release(tmp_path / "out", *make_rows(60), TEXT_ROW)
    assert [info["config_name"] for info in header["dataset_info"]] == list(stats.configs)
    for info in header["dataset_info"]:
        subsets = stats.configs[info["config_name"]]
        assert {split["name"]: split["num_examples"] for split in info["splits"]} == {
            split: count for split in ("train", "validation") if (count := stats.rows(*subsets, split=split))
        }
        assert Features._from_yaml_list(info["features"]) == features(("compact",))
        sizes = [path.stat().st_size for subset in subsets for path in (tmp_path / "out" / "data" / subset).iterdir()]
        assert info["download_size"] == sum(sizes)


@pytest.mark.parametrize(
    ("licenses", "told", "name"),
    [
        (["CC0-1.0", "CC0-1.0"], "cc0-1.0", None),
        (["CDLA-Permissive-2.0"], "cdla-permissive-2.0", None),
        (["CC0-1.0", "CC-BY-4.0"], "other", "licenses-of-the-images"),
        (["Ask my aunt (2nd)"], "other", "ask-my-aunt-2nd"),
        (["版权所有"], "other", "custom-license"),
        (["unknown"], "unknown", None),
        ([], "unknown", None),
    ],
)
def test_the_license_is_that_of_the_pictures(licenses: list[str], told: str, name: str | None, tmp_path: Path) -> None:
    licensed_rows = [replace(make_row(number), image_license=license) for number, license in enumerate(licenses)]
    _, header, card = write_release(tmp_path / "out", *licensed_rows, TEXT_ROW)
    assert find_problems(card, "dataset") == []
    assert header["license"] == told
    assert header.get("license_name") == name


@pytest.mark.parametrize(
    ("rows", "category"),
    [
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (9_999_999, "1M<n<10M"),
        (10**7, "10M<n<100M"),
        (10**12 - 1, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)
def test_the_size_is_one_of_the_hubs_categories(
    rows: int, category: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats, _, _ = write_release(tmp_path / "out", TEXT_ROW)
    monkeypatch.setattr(DatasetStats, "rows", lambda *subsets, split="": rows)
    card = render_card(stats, {})
    assert parse_card_header(card)["size_categories"] == [category]
    assert find_problems(card, "dataset") == []


def test_a_card_names_the_hub_that_it_is_made_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example.org")
    _, _, card = write_release(tmp_path / "out", *make_rows(3))
    assert "huggingface.co" not in card
    assert r"\url{https://hub.example.org/datasets/org/name}" in card
    assert "set the environment variable `HF_ENDPOINT` to this address" in card


def test_the_text_says_what_was_measured(tmp_path: Path) -> None:
    _, _, text = write_release(tmp_path / "out", *make_rows(60), TEXT_ROW, Reject("instruction", "empty file", "7"))
    for line in (
        "# COMPACT 1.2.3",
        "61 rows, 120 compositional questions.",
        "| questions | k = 1 | k = 2 | k = 3 | all | share |",
        "| all | 40 | 40 | 40 | 120 | 100.0% |",
        "| shape | 0 | 40 | 40 | 80 | 66.7% |",
        "| counting | 0 | 0 | 40 | 40 | 33.3% |",
        "| instruction | empty file | 1 |",
        "| CC0-1.0 | scenes | 60 |",
        "| `teacher` | scenes |",
        "| `preset_version` | paper-1 |",
        "- Date and cost: not recorded.",
        "color is needed most often (100.0% of the questions), object recognition, action recognition, text "
        "recognition, spatial recognition, spatial relationship, object interaction and scene understanding least "
        "(0.0%). Of the 45 pairs of "
        "capabilities, 42 occur in no question.",
        '"question" 100.0%',
        "| k = 1 | 40 | 2 | 0.0% | answer 1 | 50.0% | 100.0% |",
        "| all | 120 | 2 | 0.0% | answer 1 | 50.0% | 100.0% |",
        "the same model, so a mistake that it makes in both roles is not found",
        "`k3`",
        "This is version 1.2.3. [CHANGELOG.md](CHANGELOG.md)",
        "| minor | the same code loads other rows",
    ):
        assert line in text
    assert "{{" not in text.split("## Citation")[0]
    assert "\n\n\n" not in text


@pytest.mark.parametrize(
    ("is_kept", "expected", "unexpected"),
    [
        (lambda row: True, "About 5% of the images", "no split"),
        (
            lambda row: not is_validation_image(row.image_id),
            "No image was selected for validation, so there is no split `validation`.",
            "`k1`, `k2`",
        ),
        (
            lambda row: row.k != 2 or not is_validation_image(row.image_id),
            " `k2` has no split `validation`.",
            "`train`",
        ),
        (
            lambda row: row.k == 1 or not is_validation_image(row.image_id),
            " `k2` and `k3` have no split `validation`.",
            "`train`",
        ),
        (lambda row: is_validation_image(row.image_id), 'stream = load_dataset(release, split="validation"', '"train"'),
    ],
)
def test_the_card_promises_only_splits_that_have_rows(
    is_kept: Callable[[Any], bool], expected: str, unexpected: str, tmp_path: Path
) -> None:
    release_rows = filter(is_kept, make_rows(120))
    write_dataset(release_rows, tmp_path / "out", sources=("compact",), version="1.0.0")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    example = text.split("## Load it")[1].split("## A row")[0]
    assert expected in example
    assert unexpected not in example
    for config in read_header(tmp_path / "out")["configs"]:
        loaded = load_dataset(str(tmp_path / "out"), config["config_name"])
        assert sorted(loaded) == sorted(split["split"] for split in config["data_files"])
        assert all(len(rows) for rows in loaded.values())


def test_capabilities_that_are_needed_equally_often_are_not_ranked(tmp_path: Path) -> None:
    def need(number: int, name: str) -> Any:
        row = make_row(number, k=1)
        return replace(
            row,
            capabilities=(name,),
            turns=tuple(replace(turn, capabilities=(name,), verified_capabilities=(name,)) for turn in row.turns),
        )

    _, _, text = write_release(tmp_path / "all", *(need(number, name) for number, name in enumerate(CAPABILITIES)))
    assert "- Capabilities: all are needed equally often (10.0% of the questions).\n" in text
    assert validate(tmp_path / "all").is_valid
    names = ("color", "color", "shape", "shape", *list(CAPABILITIES)[2:])
    _, _, text = write_release(tmp_path / "two", *(need(number, name) for number, name in enumerate(names)))
    assert (
        "- Capabilities: color and shape are needed most often (16.7% of the questions), object recognition, " in text
    )
    assert "interaction and scene understanding least (8.3%).\n" in text


@pytest.mark.parametrize(
    ("most", "least", "is_valid"),
    [
        ("color is", "counting", True),  # version 0.1.0 named one of several
        ("shape is", "object recognition and counting", True),
        ("counting is", "object recognition", False),
        ("object recognition is", "color", False),
    ],
)
def test_a_card_may_name_some_of_the_capabilities_that_are_tied(
    most: str, least: str, is_valid: bool, tmp_path: Path
) -> None:
    _, _, text = write_release(tmp_path / "out", *(make_row(number, k=2) for number in range(9)))
    sentence = f"- Capabilities: {most} needed most often (100.0% of the questions), {least} least (0.0%)."
    edited, count = re.subn(r"- Capabilities: color and shape are .* least \(0\.0%\)\.", sentence, text)
    assert count == 1
    (tmp_path / "out" / "README.md").write_text(edited)
    assert validate(tmp_path / "out").is_valid == is_valid


def test_names_that_others_gave_end_no_cell_and_are_no_markup(tmp_path: Path) -> None:
    _, _, text = write_release(tmp_path / "out", replace(make_row(1), image_source="a|b", image_license="<b>mine"))
    assert r"| &lt;b>mine | a\|b | 1 |" in text


def test_answers_and_questions_are_measured_as_they_are(tmp_path: Path) -> None:
    exchanges = [("Is it red?", "Yes."), ("Is it über?", "no"), ("Wie viele?", "The two"), ("Is it two?", "2")]
    turns = tuple(Turn(question, answer, ("color",), ("color",), 90) for question, answer in exchanges)
    stats, _, text = write_release(tmp_path / "out", replace(make_row(1), turns=turns))
    answer_stats = stats.get_statistics(QuestionStatistics).answer_stats()
    assert (
        answer_stats.questions,
        answer_stats.different,
        answer_stats.yes_no,
        answer_stats.most,
        answer_stats.most_share,
    ) == (4, 3, 0.5, "2", 0.5)
    assert stats.get_statistics(QuestionStatistics).openings == (("is", 0.75), ("wie", 0.25))
    assert "- Language: 75.0% of the questions" in text


@pytest.mark.usefixtures("every_plot_drawn")
def test_distributions_are_pictures_beside_the_card(tmp_path: Path) -> None:
    _, _, text = write_release(tmp_path / "out", *make_rows(60), TEXT_ROW)
    figures = re.findall(r'<img src="(.*?)" width="480" alt="(.+?)">', text)
    assert [path for path, _ in figures] == [
        f"assets/{name}.png" for name in ("k-distribution", "coverage", "cooccurrence")
    ]
    assert "40 of k = 1 (33%), 40 of k = 2 (33%), 40 of k = 3 (33%)" in figures[0][1]
    for path, alt in figures:
        with Image.open(tmp_path / "out" / path) as image:
            assert (image.format, image.width, image.info["Description"]) == ("PNG", 900, alt)


def test_only_pictures_that_show_something_are_there(tmp_path: Path) -> None:
    write_release(tmp_path / "single", *(make_row(number) for number in range(9)))
    assert sorted(path.name for path in (tmp_path / "single" / "assets").iterdir()) == [
        "coverage.png", "k-distribution.png",
    ]  # fmt: skip
    write_release(tmp_path / "text", TEXT_ROW)
    assert not (tmp_path / "text" / "assets").exists()


def make_usage(role: Role, name: str, cost: float | None, price_source: str, *, estimated: int = 0) -> ModelUsage:
    return ModelUsage(role, name, ("model-001",), 1200, 3_000_000, 40_000, cost, price_source, estimated)


PROVENANCE = Provenance(
    (
        make_usage("teacher", "gemini:gemini-3.8-flash", 2.4, "genai-prices 1"),
        make_usage("verifier", "local:m", 0, "runs here"),
    ),
    "2026-11-20",
    "2026-11-22",
    50,
    40,
    {"method": ("augment", "compact"), "preset": ("paper@1",), "seed": ("0", "1")},
)


def test_the_card_says_who_was_asked_when_and_for_how_much(tmp_path: Path) -> None:
    rows = [*make_rows(8), replace(make_row(8), source="augment")]
    write_dataset(rows, tmp_path / "out", sources=("augment", "compact"), version="1.0.0", provenance=PROVENANCE)
    text = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "| teacher | gemini:gemini-3.8-flash | model-001 | 1,200 | 3,000,000 | 40,000 | 2.40 |",
        "| verifier | local:m | model-001 | 1,200 | 3,000,000 | 40,000 | 0.00 |",
        "- Date: replies were received from 2026-11-20 to 2026-11-22 (UTC).",
        "- Cost: 2.40 USD, at the list prices on those dates (genai-prices 1, runs here).",
        "- Images: 50 were processed; 40 of them have accepted questions.",
        "- Settings: method augment and compact; preset paper@1; seed 0 and 1.",
        "Rows with the `source` `augment`",
        "- Text by Gemini: the terms of Google's Gemini API on the dates above apply",
        "- Text by a model that ran on the machine of the dataset's author",
        "  year         = {2026},",
    ):
        assert line in text
    assert "OpenAI's protocol" not in text
    assert validate(tmp_path / "out").is_valid


@pytest.mark.parametrize(
    ("costs", "told"),
    [
        (((0.0, "runs here"), (0.0, "runs here")), "- Cost: 0 USD for API calls, because all models ran locally."),
        (((None, ""), (0.0, "runs here")), "- Cost: not known, because there is no list price for openai:mine."),
        (((0.001, "genai-prices 1"), (0.0, "genai-prices 1")), "- Cost: 0.001 USD, at the list prices on those dates"),
    ],
)
def test_a_price_is_told_as_far_as_it_is_known(
    costs: tuple[tuple[float | None, str], tuple[float | None, str]], told: str, tmp_path: Path
) -> None:
    model_usage = (make_usage("teacher", "openai:mine", *costs[0]), make_usage("verifier", "openai:mine", *costs[1]))
    write_dataset(
        make_rows(3),
        tmp_path / "out",
        sources=("compact",),
        version="1.0.0",
        provenance=replace(PROVENANCE, model_usage=model_usage, last_day=PROVENANCE.first_day),
    )
    text = (tmp_path / "out" / "README.md").read_text()
    assert told in text
    assert "- Date: replies were received on 2026-11-20 (UTC)." in text


def test_estimated_tokens_are_called_estimates(tmp_path: Path) -> None:
    teacher = make_usage("teacher", "gemini:gemini-3.8-flash", 2.4, "genai-prices 1", estimated=1100)
    provenance = replace(PROVENANCE, model_usage=(teacher, PROVENANCE.model_usage[1]))
    write_dataset(make_rows(8), tmp_path / "out", sources=("compact",), version="1.0.0", provenance=provenance)
    text = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "| gemini:gemini-3.8-flash | model-001 | 1,200 | about 3,000,000 | about 40,000 | about 2.40 |",
        "| verifier | local:m | model-001 | 1,200 | 3,000,000 | 40,000 | 0.00 |",
        "- Cost: about 2.40 USD, at the list prices",
        "\n- Tokens: the service did not state those of 1,100 requests, which are estimated.\n- Images:",
    ):
        assert line in text
    assert validate(tmp_path / "out").is_valid


def test_strict_rows_are_told_apart(tmp_path: Path) -> None:
    # The first row is of version 1 of the rules for answers.
    strict = [
        replace(row, preset_version=f"paper@1+strict{'@2' if number else ''}")
        for number, row in enumerate(make_rows(3))
    ]
    assert "It also confirmed every answer" in write_release(tmp_path / "strict", *strict)[2]
    assert (
        "Answers were checked only if `preset_version` contains `+strict`"
        in write_release(tmp_path / "mixed", make_row(9), *strict)[2]
    )


def test_the_text_says_nothing_of_what_is_not_there(tmp_path: Path) -> None:
    _, header, text = write_release(tmp_path / "out", TEXT_ROW)
    for phrase in ("How it was made", "Images", "Data that was rejected", "k3", "compositional questions"):
        assert phrase not in text
    assert [config["config_name"] for config in header["configs"]] == ["all", "instruction"]


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    _, _, text = write_release(tmp_path / "out", *make_rows(60))
    example = text.split("```python\n")[1].split("```")[0].replace('"org/name"', repr(str(tmp_path / "out")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    scope: dict[str, Any] = {}
    exec(example, scope)
    assert scope["k3"]["train"].unique("k") == [3]


@pytest.mark.parametrize(
    "card", [None, "# A data set", "---\ntags: [compact_hf\n---\n", "---\n- a\n---\n", "---\ntags:\n- x\n---\n"]
)
def test_only_our_own_card_makes_a_release(card: str | None, tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert not is_dataset_directory(tmp_path)


def test_what_we_wrote_is_a_release(tmp_path: Path) -> None:
    write_release(tmp_path / "out", TEXT_ROW)
    assert is_dataset_directory(tmp_path / "out")
    (tmp_path / "out" / "note.txt").touch()
    assert not is_dataset_directory(tmp_path / "out")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (999_400, "999 KB"), (999_700, "1 MB"), (1_234_567, "1.23 MB")]
)
def test_sizes_have_three_digits_and_their_unit(size: int, text: str) -> None:
    assert _format_size(size) == text
