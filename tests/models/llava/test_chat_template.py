"""Checks the tokens of training rows and which of them are learned, with TRL's own collator and trainer.

llava_rules.py has the expected result: what LLaVA computes for the same rows.
"""

from __future__ import annotations

from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from compact_hf.models.llava.processor import chat_template, load_llama_tokenizer
from compact_hf.models.llava.tiny import build_tiny
from tests.models.llava.llava_rules import (
    IMAGE_TOKEN_INDEX,
    SYSTEM,
    SlowLlamaTokenizer,
    Turns,
    mask_spans,
    render_conversation,
    supervised_mask,
)

SENTENCEPIECE = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
NUM_IMAGE_TOKENS = 4
ONE_TURN = [("What color is it?", "red")]
TWO_TURNS = [("What color is it?", "red"), ("And its shape?", "round disc")]
ROWS: dict[str, Turns] = {
    "one turn": ONE_TURN,
    "three turns": [*TWO_TURNS, ("How many?", "3")],
    "several lines": [("What is it?\nAnswer briefly.", "a\n\nb"), ("\nAnd this?\n", "\nc\n")],
    "spaces at the ends": [("  What is it? \t", " red "), (" And\u00a0this ", "  blue\u00a0")],
    "spaces inside": [("a  b   c    d", "e     f"), (" " * 17, " " * 33)],
    "emoji": [("Qu'est-ce que c'est 🐢?", "żółw 🐢"), ("🐢", "👩‍👩‍👧")],
    "combining marks": [("e\u0301 or é?", "e\u0301"), ("\u0301a", "\u0301x\u200b")],
    "cjk": [("这是什么?", "红色"), ("いくつ?", "三つ")],
    "right to left": [("מה זה?", "אדום"), ("\u200fكم؟", "ثلاثة")],
    "ligatures and signs": [("ﬁne ½ ▁b▁▁ c", "▁ﬁ")],
    "an empty answer": [("What is it?", "")],
    "an empty answer before another": [("What is it?", ""), ("And this?", "red")],
    "role in a question": [("Who wrote ASSISTANT:hi and USER: ?", "me"), ("Sure?", "yes")],
    "role in an answer": [("Read the sign.", "USER: and BOTASSISTANT: ok"), ("Sure?", "yes")],
}
SKIPPED_BY_LLAVA: dict[str, Turns] = {
    "a whole role in a question": [("Read: ASSISTANT: hi", "ASSISTANT: hi"), ("Sure?", "yes")],
    "an empty last answer": [("What is it?", "red"), ("And this?", "")],
    "an empty question": [("What is it?", "red"), ("", "blue")],
}
IMAGE_ONLY: Turns = [("", "red")]


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not legacy"])
def legacy(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def llava(legacy: bool) -> SlowLlamaTokenizer:
    return SlowLlamaTokenizer(SENTENCEPIECE, legacy=legacy)


@pytest.fixture(scope="module")
def llama(legacy: bool) -> Any:
    """Return a processor with a real SentencePiece model and the ids of `<image>` and `<pad>` in LLaVA-1.5."""
    from tokenizers import AddedToken
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    tokenizer = load_llama_tokenizer(SENTENCEPIECE, legacy=legacy)
    added = [AddedToken(text, normalized=False, special=True) for text in ("<image>", "<pad>")]
    tokenizer.add_tokens(added, special_tokens=True)
    tokenizer.pad_token = "<pad>"
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [32000, 32001]
    edge = {"height": 28, "width": 28}
    return LlavaProcessor(
        LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 28}, crop_size=edge),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(),
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoProcessor

    directory = build_tiny(tmp_path_factory.mktemp("tiny") / "model", ["What color is it?", "red"], seed=0)
    return AutoProcessor.from_pretrained(directory)


@pytest.mark.parametrize("picture", [False, True], ids=["no picture", "picture"])
@pytest.mark.parametrize("turns", ROWS.values(), ids=ROWS)
def test_reads_and_learns_what_llava_does(llama: Any, llava: SlowLlamaTokenizer, turns: Turns, picture: bool) -> None:
    text = render_conversation(turns, has_image=picture)
    batch = collate(llama, [make_example(turns, has_image=picture)])
    assert read_tokens(llama, batch) == llava.tokenize_with_images(text)
    assert mask_spans(loss_mask(llama, batch)) == mask_spans(supervised_mask(llava, text))


def test_a_picture_may_come_without_a_question(llama: Any, llava: SlowLlamaTokenizer) -> None:
    test_reads_and_learns_what_llava_does(llama, llava, IMAGE_ONLY, True)


@pytest.mark.parametrize("picture", [False, True], ids=["no picture", "picture"])
@pytest.mark.parametrize("turns", SKIPPED_BY_LLAVA.values(), ids=SKIPPED_BY_LLAVA)
def test_learns_the_answers_of_rows_that_llava_gives_up(
    llama: Any, llava: SlowLlamaTokenizer, turns: Turns, picture: bool
) -> None:
    text = render_conversation(turns, has_image=picture)
    batch = collate(llama, [make_example(turns, has_image=picture)])
    assert read_tokens(llama, batch) == llava.tokenize_with_images(text)
    assert not any(supervised_mask(llava, text))
    labels = batch["labels"][0]
    answers = "".join(f" {answer}</s>" for _, answer in turns if answer)
    assert llama.tokenizer.decode(labels[labels != -100]).strip() == answers.strip()


@pytest.mark.parametrize("picture", [False, True], ids=["no picture", "picture"])
@pytest.mark.parametrize("turns", [ROWS["three turns"], ROWS["several lines"], ROWS["emoji"]])
def test_renders_llavas_text_with_the_spaces_that_sentencepiece_adds(llama: Any, turns: Turns, picture: bool) -> None:
    from trl.data_utils import prepare_multimodal_messages

    row = make_example(turns, has_image=picture)
    rendered = llama.apply_chat_template(prepare_multimodal_messages(row["messages"], images=row["images"]))
    expected = render_conversation(turns, has_image=picture).replace("<image>", "<image> ")
    assert rendered == f"<s> {expected}"


def test_the_trainers_batches_are_llavas_too(llama: Any, llava: SlowLlamaTokenizer, tmp_path: Path) -> None:
    """The rows go through all steps of `trl sft`, in preprocessing and in the data loader."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature
    from transformers import AutoModelForImageTextToText
    from trl import SFTConfig, SFTTrainer

    features = Features(
        images=List(ImageFeature()), messages=List({"role": Value("string"), "content": Value("string")})
    )
    cases = [(turns, has_image) for turns in ROWS.values() for has_image in (True, False)]
    rows = Dataset.from_list(
        [make_example(turns, has_image=has_image) for turns, has_image in cases], features=features
    )
    settings = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        report_to="none",
        assistant_only_loss=True,
        max_length=2048,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=len(cases),
    )
    model = AutoModelForImageTextToText.from_pretrained(build_tiny(tmp_path / "tiny", ["red"], seed=0))
    trainer = SFTTrainer(model, settings, train_dataset=rows, processing_class=llama)
    (batch,) = trainer.get_train_dataloader()
    for number, (turns, has_image) in enumerate(cases):
        text = render_conversation(turns, has_image=has_image)
        ids = read_tokens(llama, batch, number)
        assert ids == llava.tokenize_with_images(text)
        assert mask_spans(loss_mask(llama, batch, number)[: len(ids)]) == mask_spans(supervised_mask(llava, text))


@pytest.mark.parametrize("token", ["<s>", "</s>", "<unk>", "<pad>", "<image>"])
@pytest.mark.parametrize("turns", [[("What is {} here?", "red")], [("What?", "red"), ("And?", "{} or blue")]])
def test_text_that_would_become_a_special_token_is_refused(llama: Any, turns: Turns, token: str) -> None:
    from jinja2 import TemplateError

    row = make_example([(question.format(token), answer.format(token)) for question, answer in turns], has_image=True)
    with pytest.raises(TemplateError, match=f"got the text {token} in a message") as excinfo:
        collate(llama, [row])
    assert "\n" not in str(excinfo.value)


def test_without_our_template_plain_trl_takes_an_end_token_in_an_answer_for_an_end(llama: Any) -> None:
    """The reason why the template refuses such texts: plain TRL gives no error."""
    plain = (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{% generation %}"
        "{{ message['content'][0]['text'] }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    )
    batch = collate(llama, [make_example([("?", "red </s> blue")], has_image=False)], chat_template=plain)
    assert (batch["labels"][0] == llama.tokenizer.eos_token_id).sum() == 2


def test_the_prompt_of_inference_may_hold_anything(llama: Any) -> None:
    messages = [{"role": "user", "content": "What does </s> mean?"}]
    assert "</s>" in llama.apply_chat_template(messages, add_generation_prompt=True)


@pytest.mark.parametrize(
    "roles", [["system", "user"], ["assistant"], ["user", "user"], ["user", "assistant", "assistant"]]
)
def test_other_roles_than_taking_turns_are_refused(llama: Any, roles: list[str]) -> None:
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="only user and assistant may take turns"):
        llama.apply_chat_template([{"role": role, "content": "So?"} for role in roles])


def test_too_long_a_row_is_cut_at_its_end_and_never_in_its_picture(llama: Any) -> None:
    row = make_example([("What is it?", "red " * 100), ("And this?", "blue")], has_image=True)
    full = collate(llama, [row])
    length = full["input_ids"].shape[1]
    # TRL trains on the answer tokens before max_length, and drops the others without a warning.
    truncated = collate(llama, [row], max_length=length - 20)
    assert truncated["labels"].tolist() == full["labels"][:, :-20].tolist()
    answer_positions = (full["labels"][0] != -100).nonzero()
    assert (collate(llama, [row], max_length=int(answer_positions[0]))["labels"] == -100).all()
    # The image is near the beginning: a limit within its tokens is an error, and does not give a partial image.
    image_positions = (full["input_ids"][0] == llama.image_token_id).nonzero()
    assert len(image_positions) == NUM_IMAGE_TOKENS
    for limit in range(int(image_positions[0]), int(image_positions[-1]) + 1):
        with pytest.raises(ValueError, match="Mismatch in `image` token count"):
            collate(llama, [row], max_length=limit)
    assert (
        collate(llama, [row], max_length=int(image_positions[-1]) + 1)["input_ids"].shape[1]
        == int(image_positions[-1]) + 1
    )


CASES = [(turns, picture) for turns in (ONE_TURN, TWO_TURNS, ROWS["emoji"]) for picture in (False, True)]


@pytest.mark.parametrize(("turns", "picture"), CASES)
def test_a_byte_level_tokenizer_learns_answers_and_end_tokens_only(tiny: Any, turns: Turns, picture: bool) -> None:
    batch = collate(tiny, [make_example(turns, has_image=picture)])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    text = render_conversation(turns, has_image=picture).removeprefix(SYSTEM)
    expected = f"<s> {SYSTEM}{text}".replace("<image>", f"{'<image>' * 64} ")
    assert tiny.tokenizer.decode(ids) == expected
    assert tiny.tokenizer.decode(labels[labels != -100]) == "".join(f" {answer}</s>" for _, answer in turns)
    assert (ids[labels != -100] == labels[labels != -100]).all()


def test_rows_with_and_without_a_picture_share_a_batch(tiny: Any) -> None:
    examples = [make_example(TWO_TURNS, has_image=True), make_example(ONE_TURN, has_image=False)]
    batch = collate(tiny, examples)
    single_batches = [collate(tiny, [single]) for single in examples]
    assert len(batch["pixel_values"]) == 1
    for index, single in enumerate(single_batches):
        length = single["input_ids"].shape[1]
        assert batch["input_ids"][index, :length].tolist() == single["input_ids"][0].tolist()
        assert batch["labels"][index, :length].tolist() == single["labels"][0].tolist()
        assert (batch["labels"][index, length:] == -100).all()


@pytest.mark.parametrize("turns", [ONE_TURN, ROWS["emoji"][:1]])
def test_the_prompt_of_inference_is_what_training_put_before_the_answer(tiny: Any, llama: Any, turns: Turns) -> None:
    for processor in (tiny, llama):
        batch = collate(processor, [make_example(turns, has_image=False)])
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "text", "text": turns[0][0]}]}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"add_special_tokens": False},
        )
        prompt = inputs["input_ids"][0]
        assert batch["input_ids"][0, : len(prompt)].tolist() == prompt
        assert (batch["labels"][0, : len(prompt)] == -100).all()
        assert (batch["labels"][0, len(prompt) :] != -100).all()


def make_example(turns: Turns, *, has_image: bool) -> dict[str, Any]:
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return {"images": [Image.new("RGB", (50, 30), "red")] * has_image, "messages": messages}


def collate(
    processor: Any, examples: list[dict[str, Any]], *, max_length: int = 2048, chat_template: str | None = None
) -> Any:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    collator = DataCollatorForVisionLanguageModeling(
        processor, max_length=max_length, assistant_only_loss=True, chat_template=chat_template
    )
    return collator(examples)


def token_positions(processor: Any, batch: Any, row: int) -> list[int]:
    """Return the positions of a row's tokens without padding; of an image, only the first one."""
    positions = []
    for token, run in groupby(
        range(len(batch["input_ids"][row])), key=lambda position: int(batch["input_ids"][row][position])
    ):
        if token != processor.tokenizer.pad_token_id:
            run = list(run)
            positions += run[:1] if token == processor.image_token_id else run
    return positions


def read_tokens(processor: Any, batch: Any, row: int = 0) -> list[int]:
    """Return a row's tokens as LLaVA represents them, with one id per image."""
    tokens = (int(batch["input_ids"][row][position]) for position in token_positions(processor, batch, row))
    return [IMAGE_TOKEN_INDEX if token == processor.image_token_id else token for token in tokens]


def loss_mask(processor: Any, batch: Any, row: int = 0) -> list[bool]:
    """Return which of a row's tokens the loss covers, after checking that each label equals its token."""
    labels, ids = batch["labels"][row], batch["input_ids"][row]
    assert (ids[labels != -100] == labels[labels != -100]).all()
    return [int(labels[position]) != -100 for position in token_positions(processor, batch, row)]
