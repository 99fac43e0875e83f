"""What a student reads and what it is trained to write, through TRL's own collator."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from compact_hf.tuning.chat_template import chat_template
from compact_hf.tuning.tiny import build_tiny

SYSTEM = (
    "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. "
)
PICTURE = "<image>" * 64
ONE_TURN = [("What color is it?", "red")]
TWO_TURNS = [("What color is it?", "red"), ("And its shape?", "round disc")]
UNKNOWN = [("Qu'est-ce que c'est ?", "żółw 🐢")]


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoProcessor

    folder = build_tiny(tmp_path_factory.mktemp("tiny") / "model", ["What color is it?", "red"], seed=0)
    return AutoProcessor.from_pretrained(folder)


def example(turns: list[tuple[str, str]], *, pictures: int) -> dict[str, Any]:
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return {"images": [Image.new("RGB", (50, 30), "red")] * pictures, "messages": messages}


def expected(turns: list[tuple[str, str]], *, pictures: int) -> str:
    """LLaVA's vicuna v1 conversation, written out."""
    said = "".join(
        f"USER: {'' if index else PICTURE_OF[pictures]}{q} ASSISTANT: {a}</s>" for index, (q, a) in enumerate(turns)
    )
    return SYSTEM + said


PICTURE_OF = {0: "", 1: f"{PICTURE}\n"}
CASES = [(turns, pictures) for turns in (ONE_TURN, TWO_TURNS, UNKNOWN) for pictures in (0, 1)]


@pytest.mark.parametrize(("turns", "pictures"), CASES)
def test_reads_the_vicuna_conversation_and_learns_answers_and_end_tokens_only(
    processor: Any, turns: list[tuple[str, str]], pictures: int
) -> None:
    batch = collated(processor, [example(turns, pictures=pictures)])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    assert processor.tokenizer.decode(ids) == expected(turns, pictures=pictures)
    assert processor.tokenizer.decode(labels[labels != -100]) == "".join(f" {answer}</s>" for _, answer in turns)
    assert (ids[labels != -100] == labels[labels != -100]).all()


def test_rows_with_and_without_a_picture_share_a_batch(processor: Any) -> None:
    examples = [example(TWO_TURNS, pictures=1), example(ONE_TURN, pictures=0)]
    batch = collated(processor, examples)
    alone = [collated(processor, [one]) for one in examples]
    assert len(batch["pixel_values"]) == 1
    for index, one in enumerate(alone):
        length = one["input_ids"].shape[1]
        assert batch["input_ids"][index, :length].tolist() == one["input_ids"][0].tolist()
        assert batch["labels"][index, :length].tolist() == one["labels"][0].tolist()
        assert (batch["labels"][index, length:] == -100).all()


@pytest.mark.parametrize("turns", [ONE_TURN, UNKNOWN])
def test_the_prompt_of_inference_is_what_training_put_before_the_answer(
    processor: Any, turns: list[tuple[str, str]]
) -> None:
    batch = collated(processor, [example(turns, pictures=0)])
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


@pytest.mark.parametrize("legacy", [True, False])
def test_the_loss_is_aligned_with_a_sentencepiece_style_tokenizer_too(legacy: bool) -> None:
    """Llama's joins space and word in one token, and differs after special tokens by the setting `legacy`."""
    tokenizer = llama_style_tokenizer(legacy=legacy)
    rendered = tokenizer.apply_chat_template(
        example(TWO_TURNS, pictures=0)["messages"],
        chat_template=chat_template(),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    learnt = [token for token, mark in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if mark]
    assert tokenizer.convert_ids_to_tokens(learnt) == ["▁red", "</s>", "▁round", "▁disc", "</s>"]


def test_a_system_message_is_refused_rather_than_dropped() -> None:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    with pytest.raises(TemplateError, match="only user and assistant"):
        render_jinja_template([[{"role": "system", "content": "Be brief."}]], chat_template=chat_template())


def collated(processor: Any, examples: list[dict[str, Any]]) -> Any:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    return DataCollatorForVisionLanguageModeling(processor, max_length=1024, assistant_only_loss=True)(examples)


def llama_style_tokenizer(*, legacy: bool) -> Any:
    """A tokenizer built as transformers builds Llama's from its SentencePiece model, of a few words."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    words = expected(TWO_TURNS, pictures=0).replace("<s>", "").replace("</s>", " ")
    bpe.train_from_iterator([words], trainers.BpeTrainer(special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
    if legacy:
        bpe.pre_tokenizer = None
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bpe.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
