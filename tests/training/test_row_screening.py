"""Checks that rows that cannot be trained on are found before training, and named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value

from compact_hf.errors import TuningError
from compact_hf.models.llava.family import Llava
from compact_hf.models.llava.tiny import build_tiny
from compact_hf.training.row_screening import ScreeningResult, screen_rows
from tests.irregular import IRREGULAR, released_pipes
from tests.training.samples import draw_image

QUESTION, ANSWER = "What color is it?", "red"
IMAGE_TOKENS = 64
FEATURES = Features(
    id=Value("string"),
    images=List(Image()),
    messages=List({"role": Value("string"), "content": Value("string")}),
)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(
        build_tiny(tmp_path_factory.mktemp("tiny") / "model", [QUESTION, ANSWER], seed=0)
    )


def make_row(
    name: str, *texts: str, images: list[bytes] | None = None, roles: tuple[str, str] = ("user", "assistant")
) -> dict[str, Any]:
    """Return a conversation with alternating roles, about one image by default."""
    image_files = [draw_image("red")] if images is None else images
    return {
        "id": name,
        "images": [{"bytes": data, "path": None} for data in image_files],
        "messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)],
    }


def screen(
    rows: list[dict[str, Any]], processor: Any, *, max_length: int | None = 1024, answers_only: bool = True
) -> ScreeningResult:
    dataset = Dataset.from_list(rows, features=FEATURES)
    return screen_rows(dataset, processor, Llava(), max_length=max_length, answers_only=answers_only)


@pytest.mark.parametrize("kind", IRREGULAR)
def test_a_file_that_would_be_waited_for_is_a_broken_image(kind: str, processor: Any, tmp_path: Path) -> None:
    IRREGULAR[kind][0](tmp_path / "it.png")
    row = make_row("bad", QUESTION, ANSWER) | {"images": [{"bytes": None, "path": str(tmp_path / "it.png")}]}
    with released_pipes(tmp_path):
        [dropped] = screen([GOOD, row], processor).dropped
    assert (dropped.name, dropped.reason) == ("bad", "unreadable file")


def float_tiff() -> bytes:
    """Return what `datasets` stores for an array of floats."""
    return bytes(Image().encode_example(np.linspace(0, 1, 64 * 64, dtype="float32").reshape(64, 64))["bytes"])


NO_IMAGE = {"bytes": None, "path": None}
GOOD = make_row("good", QUESTION, ANSWER)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "cut off": (make_row("bad", QUESTION, ANSWER, images=[draw_image("red")[:-60]]), "corrupt picture"),
    "no picture file": (make_row("bad", QUESTION, ANSWER, images=[b"<html>404</html>"]), "not a picture"),
    "no bytes": (make_row("bad", QUESTION, ANSWER, images=[b""]), "empty file"),
    "float TIFF": (make_row("bad", QUESTION, ANSWER, images=[float_tiff()]), "not a picture"),
    "null": (make_row("bad", QUESTION, ANSWER) | {"images": [None]}, "no picture"),
    "null in a struct": (make_row("bad", QUESTION, ANSWER) | {"images": [NO_IMAGE]}, "no picture"),
    "missing file": (make_row("bad", QUESTION, ANSWER) | {"images": [NO_IMAGE | {"path": "a"}]}, "unreadable file"),
    "end token in a question": (make_row("bad", "What does </s> mean?", ANSWER), "special token in the text"),
    "image token in an answer": (make_row("bad", QUESTION, "an <image>"), "special token in the text"),
    "no messages": (make_row("bad"), "no conversation"),
    "no last word": (make_row("bad", QUESTION, ANSWER, QUESTION), "no conversation"),
    "the assistant first": (make_row("bad", ANSWER, QUESTION, roles=("assistant", "user")), "no conversation"),
    "a system message": (make_row("bad", QUESTION, ANSWER, roles=("system", "assistant")), "no conversation"),
    "empty answers": (make_row("bad", QUESTION, " "), "no answer"),
    "a question without end": (make_row("bad", "why " * 2000, ANSWER), "too long"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD)
def test_a_row_that_cannot_be_trained_on_is_dropped_by_name_with_the_reason(
    processor: Any, bad: dict[str, Any], reason: str
) -> None:
    result = screen([GOOD, bad, GOOD], processor)
    assert result.kept_indices == (0, 2)
    assert [(row.name, row.reason) for row in result.dropped] == [("bad", reason)]
    assert result.dropped_by_reason == {reason: 1}


PARTS = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})


def to_parts(row: dict[str, Any], *, image_parts: int) -> dict[str, Any]:
    """Return a row with typed contents, and this many image parts before the first text."""
    image = {"type": "image", "text": None}
    messages = [
        {"role": message["role"], "content": [{"type": "text", "text": message["content"]}]}
        for message in row["messages"]
    ]
    messages[0]["content"] = [image] * image_parts + messages[0]["content"]
    return row | {"messages": messages}


def test_parts_are_trained_on_like_texts(processor: Any) -> None:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    rows = [
        make_row("two", QUESTION, ANSWER, "And its shape?", "round"),
        make_row("text", QUESTION, "7", images=[]),
        make_row("empty", QUESTION, ""),
        make_row("token", "What does </s> mean?", ANSWER),
    ]
    typed_rows = [to_parts(row, image_parts=len(row["images"])) for row in rows]
    typed_rows.append(to_parts(make_row("image without a part", QUESTION, ANSWER), image_parts=0))
    dataset = Dataset.from_list(typed_rows, features=Features(FEATURES | {"messages": PARTS}))
    result = screen_rows(dataset, processor, Llava(), max_length=1024, answers_only=True)
    assert result.dropped == (
        ("empty", "no answer", ""),
        ("token", "special token in the text", ""),
        ("image without a part", "other number of image parts than images", ""),
    )
    assert result.lengths == screen(rows, processor).lengths
    collate = DataCollatorForVisionLanguageModeling(processor, max_length=1024, assistant_only_loss=True)
    batches = [collate([dataset[index]]) for index in result.kept_indices]
    assert result.lengths == tuple(int(batch["attention_mask"].sum()) for batch in batches)


def test_the_template_decides_about_a_system_message(processor: Any) -> None:
    row = make_row("system", QUESTION, ANSWER)
    row["messages"].insert(0, {"role": "system", "content": "Be brief."})
    (dropped,) = screen([GOOD, row], processor).dropped
    assert str(dropped).startswith(
        "system: refused by the template (got a message of the role system where only user and"
    )
    assert str(dropped).endswith("mend or drop this row)")


def test_lengths_and_answers_are_those_of_the_batches_of_training(processor: Any) -> None:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    rows = [
        GOOD,
        make_row("two", QUESTION, ANSWER, "And its żółw 🐢 shape?", "round"),
        make_row("text", QUESTION, "7", images=[]),
    ]
    result = screen(rows, processor)
    collate = DataCollatorForVisionLanguageModeling(processor, max_length=1024, assistant_only_loss=True)
    batches = [collate([example]) for example in Dataset.from_list(rows, features=FEATURES)]
    assert result.lengths == tuple(int(batch["attention_mask"].sum()) for batch in batches)
    assert result.answer_tokens == sum(int((batch["labels"] != -100).sum()) for batch in batches)
    assert (result.image_flags, result.image_tokens) == ((True, True, False), 2 * IMAGE_TOKENS)


def test_a_row_is_kept_as_long_as_one_token_of_an_answer_is(processor: Any) -> None:
    [length] = screen([GOOD], processor).lengths
    answer_tokens = screen([GOOD], processor).answer_tokens
    truncated = screen([GOOD], processor, max_length=length - answer_tokens + 1)
    assert (truncated.lengths, truncated.answer_tokens, truncated.num_truncated) == (
        (length - answer_tokens + 1,),
        1,
        1,
    )
    with pytest.raises(TuningError, match=r"no row .* can be trained on: \{'too long': 1\}"):
        screen([GOOD], processor, max_length=length - answer_tokens)


def test_a_picture_that_would_be_cut_into_is_too_long_though_everything_is_learnt(processor: Any) -> None:
    """TRL would fail with `Mismatch in image token count`."""
    with pytest.raises(TuningError, match="too long"):
        screen([GOOD], processor, max_length=IMAGE_TOKENS, answers_only=False)


def test_two_pictures_in_a_row_are_refused_with_its_name(processor: Any) -> None:
    pair = make_row("pair", QUESTION, ANSWER, images=[draw_image("red"), draw_image("blue")])
    with pytest.raises(TuningError, match=r"1 row has more than one image \(the first: pair\)"):
        screen([GOOD, pair], processor)


def test_a_data_set_of_other_columns_is_refused_with_what_it_has(processor: Any) -> None:
    dataset = Dataset.from_dict({"image": [1], "conversations": ["x"]})
    with pytest.raises(TuningError, match=r"no column images and no messages \(it has image, conversations\)"):
        screen_rows(dataset, processor, Llava(), max_length=None, answers_only=True)
    paths = Dataset.from_dict({"images": [["a.jpg"]], "messages": [[]]})
    with pytest.raises(TuningError, match="column `images` has the type List"):
        screen_rows(paths, processor, Llava(), max_length=None, answers_only=True)


def test_rows_without_an_id_are_named_by_their_number(processor: Any) -> None:
    dataset = Dataset.from_list([GOOD, BAD["no messages"][0]], features=FEATURES).remove_columns("id")
    result = screen_rows(dataset, processor, Llava(), max_length=None, answers_only=True)
    assert result.dropped == (("row 1", "no conversation", ""),)


def test_looking_again_takes_the_outcome_from_the_cache_unless_something_changed(
    processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compact_hf.training.row_screening import RowScreener

    calls: list[int] = []
    original = RowScreener.__call__

    def count_call(self: RowScreener, table: Any) -> dict[str, Any]:
        calls.append(1)
        return original(self, table)

    monkeypatch.setattr(RowScreener, "__call__", count_call)

    def iter_rows(*names: str) -> Iterator[dict[str, Any]]:
        yield from (make_row(name, QUESTION, ANSWER) for name in names)

    def count_screened(*names: str, max_length: int = 1024) -> int:
        calls.clear()
        Dataset.from_list(list(iter_rows(*names)), features=FEATURES).to_parquet(tmp_path / f"{len(names)}.parquet")
        dataset = Dataset.from_parquet(str(tmp_path / f"{len(names)}.parquet"), cache_dir=str(tmp_path / "cache"))
        screen_rows(dataset, processor, Llava(), max_length=max_length, answers_only=True)
        screen_rows(dataset, processor, Llava(), max_length=max_length, answers_only=True)
        return len(calls)

    assert count_screened("a", "b", "c") == 3
    assert count_screened("a", "b", "c", max_length=512) == 3
    assert count_screened("a", "b", "c", "d") == 4
