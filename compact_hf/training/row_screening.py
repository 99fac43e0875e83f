"""Rows that cannot be trained on, found before the first step: a data set in, what is kept and what is dropped out.

A broken picture ends plain `trl sft` in the middle of an epoch; a row whose answers lie behind `max_length` is trained
on in silence without effect; text that spells a special token changes what is learnt. Here every row is looked at once,
in parallel, by the decoder, the template and the tokenizer that training uses. `datasets` keeps the outcome in its
cache under a fingerprint of data, tokenizer, template and limit, so that going on after a kill does not repeat it.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from compact_hf.errors import TuningError
from compact_hf.records import digest

Reason = Literal[
    "broken picture", "no conversation", "no answer", "special token in the text", "refused by the template", "too long"
]
# What the decoders raise on bad files; a warning only where warnings are errors.
_BAD_FILE: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, Warning)
_VERSION: Final = 1
"""Counted up whenever what is looked for changes, so that no older outcome is taken from the cache."""
_ALONE: Final = 500
"""Rows for which starting another process does not pay."""


@dataclass(frozen=True, slots=True)
class Screened:
    """What a data set's rows are like.

    Attributes:
        kept (`tuple[int, ...]`): numbers of the rows that can be trained on.
        lengths (`tuple[int, ...]`): of each kept row, tokens after the cut at `max_length`, the picture's included.
        pictured (`tuple[bool, ...]`): whether each kept row has a picture.
        answer_tokens (`int`): of all kept rows together, what the loss covers.
        picture_tokens (`int`): how many of a length a picture makes.
        cut (`int`): kept rows that end at `max_length`.
        dropped (`tuple[tuple[str, Reason], ...]`): the other rows: `id`, or `row N` where there is none, and why.
    """

    kept: tuple[int, ...]
    lengths: tuple[int, ...]
    pictured: tuple[bool, ...]
    answer_tokens: int
    picture_tokens: int
    cut: int
    dropped: tuple[tuple[str, Reason], ...]

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were dropped for each reason, the most frequent first."""
        return dict(Counter(reason for _, reason in self.dropped).most_common())


def screen(rows: Any, processor: Any, *, max_length: int | None, answers_only: bool) -> Screened:
    """Look at every row of a data set.

    Args:
        rows (`datasets.Dataset`): with `images` and `messages`, and `id` where rows have names.
        processor (`LlavaProcessor`): with the chat template of training.
        max_length (`int`, *optional*): where TRL cuts, in tokens with the picture's.
        answers_only (`bool`): whether the loss covers answers only, or every token.

    Raises:
        TuningError: it is no data set of pictures and conversations, a row has two pictures, or no row is left.
    """
    from datasets import Features, Value

    _refuse_others(rows)
    look = Look.of(processor, max_length=max_length, answers_only=answers_only)
    columns = [name for name in ("id", "images", "messages") if name in rows.column_names]
    # As Arrow a picture is the bytes of its file; as a row it would be decoded, which is what may fail.
    undecoded = rows.select_columns(columns).with_format("arrow")
    processes = min(os.cpu_count() or 1, len(rows) // _ALONE)
    seen = undecoded.map(
        look,
        remove_columns=columns,
        features=Features(
            tokens=Value("int32"), answer_tokens=Value("int32"), pictures=Value("int32"), reason=Value("string")
        ),
        num_proc=processes if processes > 1 else None,
        new_fingerprint=digest("screened", undecoded._fingerprint, look.fingerprint),
        desc="looking at rows",
    ).with_format(None)
    _refuse_two_pictures(seen["pictures"], rows)
    return _screened(seen, rows, look)


@dataclass(frozen=True)
class Look:
    """The look at one row; picklable, for other processes.

    Attributes:
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        template (`str`): the chat template.
        special (`tuple[str, ...]`): texts that the tokenizer turns into tokens of their own.
        picture_token (`int`): stands for a picture in the rendered conversation.
        picture_tokens (`int`): how many tokens a picture becomes.
        max_length (`int`, *optional*), answers_only (`bool`): as for `screen`.
        fingerprint (`str`): the same for whatever looks the same way.
    """

    tokenizer: Any = field(repr=False)
    template: str = field(repr=False)
    special: tuple[str, ...]
    picture_token: int
    picture_tokens: int
    max_length: int | None
    answers_only: bool
    fingerprint: str

    @classmethod
    def of(cls, processor: Any, *, max_length: int | None, answers_only: bool) -> Look:
        """Return the look through a processor's eyes."""
        from PIL import Image

        tokenizer = processor.tokenizer
        image_token = str(processor.image_token)
        number = tokenizer.convert_tokens_to_ids(image_token)
        ids = processor(images=Image.new("RGB", (8, 8)), text=image_token, add_special_tokens=False)["input_ids"][0]
        picture_tokens = sum(int(token) == number for token in ids)
        special = tuple(sorted({*tokenizer.all_special_tokens, image_token}))
        known = (_VERSION, tokenizer.backend_tokenizer.to_str(), processor.chat_template, special)
        return cls(
            tokenizer=tokenizer,
            template=processor.chat_template,
            special=special,
            picture_token=number,
            picture_tokens=picture_tokens,
            max_length=max_length,
            answers_only=answers_only,
            fingerprint=digest(*known, picture_tokens, max_length, answers_only),
        )

    def __call__(self, table: Any) -> dict[str, Any]:
        """Return what the one row of an Arrow table is like; `reason` is empty where it can be trained on."""
        from jinja2 import TemplateError

        row = table.to_pylist()[0]
        images, messages = row["images"] or [], row["messages"] or []
        found = {"tokens": 0, "answer_tokens": 0, "pictures": len(images)}
        if not _is_conversation(messages):
            return {**found, "reason": "no conversation"}
        if not any(message["content"].strip() for message in messages[1::2]):
            return {**found, "reason": "no answer"}
        if any(token in message["content"] for message in messages for token in self.special):
            return {**found, "reason": "special token in the text"}
        if not all(map(_decodes, images)):
            return {**found, "reason": "broken picture"}
        try:
            tokens, answer_tokens, whole = self._tokens(messages, len(images))
        except TemplateError:
            return {**found, "reason": "refused by the template"}
        return {
            "tokens": tokens,
            "answer_tokens": answer_tokens,
            "pictures": len(images),
            "reason": "" if answer_tokens and whole else "too long",
        }

    def _tokens(self, messages: Sequence[Mapping[str, str]], pictures: int) -> tuple[int, int, bool]:
        """Return tokens and answer tokens before the cut, and whether the pictures lie before it as a whole."""
        from trl.data_utils import prepare_multimodal_messages

        rendered = self.tokenizer.apply_chat_template(
            prepare_multimodal_messages(list(messages), images=[None] * pictures),
            chat_template=self.template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=self.answers_only,
        )
        ids = rendered["input_ids"]
        learnt = rendered["assistant_masks"] if self.answers_only else [1] * len(ids)
        end = answers = last_of_picture = 0
        limit = self.max_length or len(ids) + pictures * self.picture_tokens
        for token, mark in zip(ids, learnt, strict=True):
            end += self.picture_tokens if token == self.picture_token else 1
            if token == self.picture_token:
                last_of_picture = end
            answers += mark and end <= limit
        return end, answers, last_of_picture <= limit


def _is_conversation(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether user and assistant take turns, and the assistant has the last word."""
    roles = [message["role"] for message in messages]
    said = all(isinstance(message["content"], str) for message in messages)
    return bool(roles) and said and roles == ["user", "assistant"] * (len(roles) // 2)


def _decodes(image: Mapping[str, Any]) -> bool:
    """Tell whether `datasets` can decode a picture, in the way that training will ask it to."""
    from datasets import Image
    from PIL.Image import DecompressionBombError

    try:
        Image().decode_example(dict(image)).convert("RGB")
    except (*_BAD_FILE, DecompressionBombError):
        return False
    return True


def _refuse_others(rows: Any) -> None:
    from datasets import Image, List

    missing = [name for name in ("images", "messages") if name not in rows.column_names]
    if missing:
        raise TuningError(
            f"the data set has no column {' and no '.join(missing)} (it has {', '.join(rows.column_names)}); tuning "
            "takes `images`, a list of pictures, and `messages`, a list of role and content, as `compact assemble` does"
        )
    images = rows.features["images"]
    if not isinstance(getattr(images, "feature", None), Image):
        raise TuningError(
            f"the data set's `images` is {images}, not {List(Image())}: a list of pictures, empty or of one"
        )


def _refuse_two_pictures(pictures: Sequence[int], rows: Any) -> None:
    several = [number for number, count in enumerate(pictures) if count > 1]
    if several:
        raise TuningError(
            f"{len(several)} rows have more than one picture ({_name(rows, several[0])} is the first); "
            "LLaVA-1.5 takes one for each row: split or leave them out"
        )


def _screened(seen: Any, rows: Any, look: Look) -> Screened:
    columns = {name: seen[name][:] for name in seen.column_names}
    kept = [number for number, reason in enumerate(columns["reason"]) if not reason]
    dropped = [(_name(rows, number), reason) for number, reason in enumerate(columns["reason"]) if reason]
    reasons = dict(Counter(reason for _, reason in dropped).most_common())
    if not kept:
        raise TuningError(f"no row of the data set can be trained on: {reasons or 'it is empty'}")
    lengths = [columns["tokens"][number] for number in kept]
    limit = look.max_length or max(lengths)
    return Screened(
        kept=tuple(kept),
        lengths=tuple(min(length, limit) for length in lengths),
        pictured=tuple(columns["pictures"][number] > 0 for number in kept),
        answer_tokens=sum(columns["answer_tokens"][number] for number in kept),
        picture_tokens=look.picture_tokens,
        cut=sum(length > limit for length in lengths),
        dropped=tuple(dropped),
    )


def _name(rows: Any, number: int) -> str:
    return str(rows.select_columns(["id"])[number]["id"]) if "id" in rows.column_names else f"row {number}"
