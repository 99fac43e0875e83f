"""Tests assembling runs and an instruction file into a release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.card import read_header
from compact_hf.dataset.schema import get_split
from compact_hf.dataset.validate import validate
from compact_hf.errors import UsageError
from compact_hf.methods.assembly import AssemblyOptions, iter_rows
from compact_hf.methods.compact.balance import Balance
from compact_hf.methods.compact.statistics import QuestionStatistics
from compact_hf.methods.generate import generate
from compact_hf.records import Row
from compact_hf.testing.gemini import GeminiServer
from compact_hf.testing.scripted_model import KEY
from tests.methods.data_sets import make_images

from .samples import contents, make_image, make_item


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run over drawn scenes."""
    run = tmp_path_factory.mktemp("runs") / "run"
    generate("scenes:120", run)  # enough images for the 5% of the validation split
    return run


@pytest.fixture
def instruction(run: Path, tmp_path: Path) -> Path:
    """Write an instruction file: two rows about images of the run, one of them for validation, and one without."""
    run_rows = [row for row in iter_rows([run], AssemblyOptions()) if isinstance(row, Row)]
    items = [make_item(0)]
    for split in ("train", "validation"):
        source_row = next(row for row in run_rows if get_split("compact", row.image_id) == split)
        assert source_row.read_images
        (tmp_path / f"{split}.png").write_bytes(source_row.read_images[0]())
        items.append(make_item(1, image=f"{split}.png"))
    file = tmp_path / "llava.json"
    file.write_text(json.dumps(items))
    return file


def test_the_same_runs_give_the_same_release(run: Path, instruction: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assemble([run], tmp_path / name, version="1.0.0", instruction=instruction, instruction_rows=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_held_out_picture_is_not_trained_on(run: Path, instruction: Path, tmp_path: Path) -> None:
    stats = assemble(run, tmp_path / "out", version="1.0.0", instruction=instruction, instruction_rows=3)
    assert stats.rejects["instruction", "picture is in the validation split"] == 1
    assert (stats.rows("instruction"), stats.rows("instruction_text")) == (1, 1)
    assert validate(tmp_path / "out").counts == {}


def test_repeated_wording_and_surplus_are_dropped_as_asked_for_and_counted_in_the_card(
    run: Path, tmp_path: Path
) -> None:
    balances: list[Balance] = []
    whole = assemble(run, tmp_path / "whole", version="1.0.0", max_similarity=1)
    new = assemble(run, tmp_path / "new", version="1.0.0")
    even = assemble(run, tmp_path / "even", version="1.0.0", balance=True, on_balance=balances.append)
    assert not any(stage == "assembly" for stage, _ in whole.rejects)
    assert (
        whole.get_statistics(QuestionStatistics).questions_by_k.total()
        > new.get_statistics(QuestionStatistics).questions_by_k.total()
        > even.get_statistics(QuestionStatistics).questions_by_k.total()
    )
    assert new.rejects["assembly", "near-duplicate question"] == even.rejects["assembly", "near-duplicate question"] > 0
    assert (
        even.rejects["assembly", "surplus for balance"]
        == new.get_statistics(QuestionStatistics).questions_by_k.total()
        - even.get_statistics(QuestionStatistics).questions_by_k.total()
    )
    assert (balances[0].before.questions, balances[0].after.questions) == (
        new.get_statistics(QuestionStatistics).questions_by_k.total(),
        even.get_statistics(QuestionStatistics).questions_by_k.total(),
    )
    assert balances[0].before.ks < balances[0].after.ks
    assert "surplus for balance" in (tmp_path / "even" / "README.md").read_text()
    assert validate(tmp_path / "even").counts == {}


def test_a_wrong_instruction_file_is_refused_before_the_runs_are_read(tmp_path: Path) -> None:
    file = tmp_path / "llava.json"
    file.write_text("id,image")
    with pytest.raises(UsageError, match="give a JSON list, or JSON lines"):
        assemble([tmp_path / "no run"], tmp_path / "out", version="1.0.0", instruction=file)


def test_no_run_and_stray_options_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run was given"):
        assemble([], tmp_path / "out", version="1.0.0")
    with pytest.raises(UsageError, match="needs an instruction file: add --instruction"):
        assemble([run], tmp_path / "out", version="1.0.0", instruction_rows=3)


def test_a_license_that_nobody_said_is_the_users_to_give_for_the_runs_pictures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    for name in ("photos", "pool"):
        (tmp_path / name).mkdir()
    for number, data in enumerate(make_images(3)):
        (tmp_path / "photos" / f"{number}.png").write_bytes(data)
    (tmp_path / "pool" / "theirs.jpg").write_bytes(make_image(1))
    (tmp_path / "llava.json").write_text(json.dumps([make_item(1, image="theirs.jpg")]))
    with GeminiServer() as gemini:
        generate(str(tmp_path / "photos"), tmp_path / "run", teacher_url=gemini.url)
    stats = assemble(
        tmp_path / "run",
        tmp_path / "out",
        version="1.0.0",
        instruction=tmp_path / "llava.json",
        image_root=tmp_path / "pool",
        instruction_rows=1,
        image_license="cc-by-4.0",
    )
    assert stats.images == {("photos", "cc-by-4.0"): stats.rows("k1", "k2", "k3"), ("pool", "unknown"): 1}
    assert stats.rows("k1", "k2", "k3") > 0
    assert read_header(tmp_path / "out")["license"] == "other"
    with pytest.raises(UsageError, match="give a short name such as cc-by"):
        assemble(tmp_path / "run", tmp_path / "other", version="1.0.0", image_license="/mine\n")


def test_the_card_carries_the_license_that_the_maker_says(run: Path, tmp_path: Path) -> None:
    assemble(run, tmp_path / "out", version="1.0.0", license="cc-by-sa-4.0")
    assert read_header(tmp_path / "out")["license"] == "cc-by-sa-4.0"
    assert validate(tmp_path / "out").counts == {}
    with pytest.raises(UsageError, match="'mine' is not a license identifier of the Hub: choose one of https:"):
        assemble(run, tmp_path / "other", version="1.0.0", license="mine")
