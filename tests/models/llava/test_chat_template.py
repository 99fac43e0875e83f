"""What a student reads and what it is trained to write, through TRL's own collator and trainer.

What LLaVA makes of the same rows stands in llava_rules.py.
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
from tests.models.llava.llava_rules import PICTURE, SYSTEM, Llama, Turns, conversation, edges, supervised

SENTENCEPIECE = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
PICTURE_TOKENS = 4
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
GIVEN_UP: dict[str, Turns] = {
    "a whole role in a question": [("Read: ASSISTANT: hi", "ASSISTANT: hi"), ("Sure?", "yes")],
    "an empty last answer": [("What is it?", "red"), ("And this?", "")],
    "an empty question": [("What is it?", "red"), ("", "blue")],
}
PICTURE_ALONE: Turns = [("", "red")]


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not legacy"])
def legacy(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def llava(legacy: bool) -> Llama:
    return Llama(SENTENCEPIECE, legacy=legacy)


@pytest.fixture(scope="module")
def llama(legacy: bool) -> Any:
    """A processor with a real SentencePiece model, and the numbers of `<image>` and `<pad>` in LLaVA-1.5."""
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

    folder = build_tiny(tmp_path_factory.mktemp("tiny") / "model", ["What color is it?", "red"], seed=0)
    return AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("picture", [False, True], ids=["no picture", "picture"])
@pytest.mark.parametrize("turns", ROWS.values(), ids=ROWS)
def test_reads_and_learns_what_llava_does(llama: Any, llava: Llama, turns: Turns, picture: bool) -> None:
    text = conversation(turns, picture=picture)
    batch = collated(llama, [example(turns, picture=picture)])
    assert read_back(llama, batch) == llava.chunkwise(text)
    assert edges(learnt(llama, batch)) == edges(supervised(llava, text))


def test_a_picture_may_come_without_a_question(llama: Any, llava: Llama) -> None:
    test_reads_and_learns_what_llava_does(llama, llava, PICTURE_ALONE, True)


@pytest.mark.parametrize("picture", [False, True], ids=["no picture", "picture"])
@pytest.mark.parametrize("turns", GIVEN_UP.values(), ids=GIVEN_UP)
def test_learns_the_answers_of_rows_that_llava_gives_up(llama: Any, llava: Llama, turns: Turns, picture: bool) -> None:
    text = conversation(turns, picture=picture)
    batch = collated(llama, [example(turns, picture=picture)])
    assert read_back(llama, batch) == llava.chunkwise(text)
    assert not any(supervised(llava, text))
    labels = batch["labels"][0]
    answers = "".join(f" {answer}</s>" for _, answer in turns if answer)
    assert llama.tokenizer.decode(labels[labels != -100]).strip() == answers.strip()


@pytest.mark.parametrize("picture", [False, True], ids=["no picture", "picture"])
@pytest.mark.parametrize("turns", [ROWS["three turns"], ROWS["several lines"], ROWS["emoji"]])
def test_renders_llavas_text_with_the_spaces_that_sentencepiece_adds(llama: Any, turns: Turns, picture: bool) -> None:
    from trl.data_utils import prepare_multimodal_messages

    row = example(turns, picture=picture)
    rendered = llama.apply_chat_template(prepare_multimodal_messages(row["messages"], images=row["images"]))
    expected = conversation(turns, picture=picture).replace("<image>", "<image> ")
    assert rendered == f"<s> {expected}"


def test_the_trainers_batches_are_llavas_too(llama: Any, llava: Llama, tmp_path: Path) -> None:
    """Through everything that `trl sft` does with a data set, before and in its data loader."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature
    from transformers import AutoModelForImageTextToText
    from trl import SFTConfig, SFTTrainer

    features = Features(
        images=List(ImageFeature()), messages=List({"role": Value("string"), "content": Value("string")})
    )
    asked = [(turns, picture) for turns in ROWS.values() for picture in (True, False)]
    rows = Dataset.from_list([example(turns, picture=picture) for turns, picture in asked], features=features)
    settings = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        report_to="none",
        assistant_only_loss=True,
        max_length=2048,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=len(asked),
    )
    model = AutoModelForImageTextToText.from_pretrained(build_tiny(tmp_path / "tiny", ["red"], seed=0))
    trainer = SFTTrainer(model, settings, train_dataset=rows, processing_class=llama)
    (batch,) = trainer.get_train_dataloader()
    for number, (turns, picture) in enumerate(asked):
        text = conversation(turns, picture=picture)
        ids = read_back(llama, batch, number)
        assert ids == llava.chunkwise(text)
        assert edges(learnt(llama, batch, number)[: len(ids)]) == edges(supervised(llava, text))


@pytest.mark.parametrize("token", ["<s>", "</s>", "<unk>", "<pad>", "<image>"])
@pytest.mark.parametrize("turns", [[("What is {} here?", "red")], [("What?", "red"), ("And?", "{} or blue")]])
def test_text_that_would_become_a_special_token_is_refused(llama: Any, turns: Turns, token: str) -> None:
    from jinja2 import TemplateError

    row = example([(q.format(token), a.format(token)) for q, a in turns], picture=True)
    with pytest.raises(TemplateError, match=f"got the text {token} in a message") as caught:
        collated(llama, [row])
    assert "\n" not in str(caught.value)


def test_without_our_template_plain_trl_takes_an_end_token_in_an_answer_for_an_end(llama: Any) -> None:
    """What the refusal is for: this is silent."""
    plain = (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{% generation %}"
        "{{ message['content'][0]['text'] }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    )
    batch = collated(llama, [example([("?", "red </s> blue")], picture=False)], chat_template=plain)
    assert (batch["labels"][0] == llama.tokenizer.eos_token_id).sum() == 2


def test_the_prompt_of_inference_may_hold_anything(llama: Any) -> None:
    asked = [{"role": "user", "content": "What does </s> mean?"}]
    assert "</s>" in llama.apply_chat_template(asked, add_generation_prompt=True)


@pytest.mark.parametrize(
    "roles", [["system", "user"], ["assistant"], ["user", "user"], ["user", "assistant", "assistant"]]
)
def test_other_roles_than_taking_turns_are_refused(llama: Any, roles: list[str]) -> None:
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="only user and assistant may take turns"):
        llama.apply_chat_template([{"role": role, "content": "So?"} for role in roles])


def test_too_long_a_row_is_cut_at_its_end_and_never_in_its_picture(llama: Any) -> None:
    row = example([("What is it?", "red " * 100), ("And this?", "blue")], picture=True)
    whole = collated(llama, [row])
    length = whole["input_ids"].shape[1]
    # TRL keeps what is learnt before the cut, and is silent about what lies behind it.
    cut = collated(llama, [row], max_length=length - 20)
    assert cut["labels"].tolist() == whole["labels"][:, :-20].tolist()
    answers = (whole["labels"][0] != -100).nonzero()
    assert (collated(llama, [row], max_length=int(answers[0]))["labels"] == -100).all()
    # The picture stands near the beginning: a limit that reaches into it is an error, not a picture in part.
    picture = (whole["input_ids"][0] == llama.image_token_id).nonzero()
    assert len(picture) == PICTURE_TOKENS
    for limit in range(int(picture[0]), int(picture[-1]) + 1):
        with pytest.raises(ValueError, match="Mismatch in `image` token count"):
            collated(llama, [row], max_length=limit)
    assert collated(llama, [row], max_length=int(picture[-1]) + 1)["input_ids"].shape[1] == int(picture[-1]) + 1


CASES = [(turns, picture) for turns in (ONE_TURN, TWO_TURNS, ROWS["emoji"]) for picture in (False, True)]


@pytest.mark.parametrize(("turns", "picture"), CASES)
def test_a_byte_level_tokenizer_learns_answers_and_end_tokens_only(tiny: Any, turns: Turns, picture: bool) -> None:
    batch = collated(tiny, [example(turns, picture=picture)])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    asked = conversation(turns, picture=picture).removeprefix(SYSTEM)
    expected = f"<s> {SYSTEM}{asked}".replace("<image>", f"{'<image>' * 64} ")
    assert tiny.tokenizer.decode(ids) == expected
    assert tiny.tokenizer.decode(labels[labels != -100]) == "".join(f" {answer}</s>" for _, answer in turns)
    assert (ids[labels != -100] == labels[labels != -100]).all()


def test_rows_with_and_without_a_picture_share_a_batch(tiny: Any) -> None:
    examples = [example(TWO_TURNS, picture=True), example(ONE_TURN, picture=False)]
    batch = collated(tiny, examples)
    alone = [collated(tiny, [one]) for one in examples]
    assert len(batch["pixel_values"]) == 1
    for index, one in enumerate(alone):
        length = one["input_ids"].shape[1]
        assert batch["input_ids"][index, :length].tolist() == one["input_ids"][0].tolist()
        assert batch["labels"][index, :length].tolist() == one["labels"][0].tolist()
        assert (batch["labels"][index, length:] == -100).all()


@pytest.mark.parametrize("turns", [ONE_TURN, ROWS["emoji"][:1]])
def test_the_prompt_of_inference_is_what_training_put_before_the_answer(tiny: Any, llama: Any, turns: Turns) -> None:
    for processor in (tiny, llama):
        batch = collated(processor, [example(turns, picture=False)])
        asked = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "text", "text": turns[0][0]}]}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"add_special_tokens": False},
        )
        prompt = asked["input_ids"][0]
        assert batch["input_ids"][0, : len(prompt)].tolist() == prompt
        assert (batch["labels"][0, : len(prompt)] == -100).all()
        assert (batch["labels"][0, len(prompt) :] != -100).all()


def example(turns: Turns, *, picture: bool) -> dict[str, Any]:
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return {"images": [Image.new("RGB", (50, 30), "red")] * picture, "messages": messages}


def collated(
    processor: Any, examples: list[dict[str, Any]], *, max_length: int = 2048, chat_template: str | None = None
) -> Any:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    collator = DataCollatorForVisionLanguageModeling(
        processor, max_length=max_length, assistant_only_loss=True, chat_template=chat_template
    )
    return collator(examples)


def kept(processor: Any, batch: Any, row: int) -> list[int]:
    """The places of a row's tokens, of a picture's only the first, without padding."""
    places = []
    for token, run in groupby(
        range(len(batch["input_ids"][row])), key=lambda place: int(batch["input_ids"][row][place])
    ):
        if token != processor.tokenizer.pad_token_id:
            run = list(run)
            places += run[:1] if token == processor.image_token_id else run
    return places


def read_back(processor: Any, batch: Any, row: int = 0) -> list[int]:
    """A row's tokens as LLaVA writes them, with one number for a picture."""
    tokens = (int(batch["input_ids"][row][place]) for place in kept(processor, batch, row))
    return [PICTURE if token == processor.image_token_id else token for token in tokens]


def learnt(processor: Any, batch: Any, row: int = 0) -> list[bool]:
    """Which of a row's tokens the loss covers; each of them stands for itself."""
    labels, ids = batch["labels"][row], batch["input_ids"][row]
    assert (ids[labels != -100] == labels[labels != -100]).all()
    return [int(labels[place]) != -100 for place in kept(processor, batch, row)]
