"""Rows that cannot be trained on, found before the first step: a dataset in, what is kept and what is dropped out.

A broken image ends plain `trl sft` in the middle of an epoch; a row whose answers lie behind `max_length` is trained
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
from compact_hf.models.family import ModelFamily
from compact_hf.records import digest

DropReason = Literal[
    "broken picture",
    "no conversation",
    "no answer",
    "no picture",
    "special token in the text",
    "refused by the template",
    "too long",
]
# What the decoders raise on bad files; a warning only where warnings are errors.
_DECODE_ERRORS: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, Warning)
_CACHE_VERSION: Final = 2
"""Counted up whenever what is looked for changes, so that no older outcome is taken from the cache."""
_ANY_SIZE: Final = (64, 64)
"""Width and height of the image that is counted for all where size does not matter."""
_ROWS_PER_PROCESS: Final = 500
"""Rows for which starting another process does not pay."""


@dataclass(frozen=True, slots=True)
class ScreeningResult:
    """What a dataset's rows are like.

    Attributes:
        kept_indices (`tuple[int, ...]`): numbers of the rows that can be trained on.
        lengths (`tuple[int, ...]`): of each kept row, tokens after the cut at `max_length`, the image's included.
        image_flags (`tuple[bool, ...]`): whether each kept row has an image.
        answer_tokens (`int`): of all kept rows together, what the loss covers.
        image_tokens (`int`): of all kept rows together, what their images make of their lengths.
        num_truncated (`int`): kept rows that end at `max_length`.
        dropped (`tuple[tuple[str, DropReason], ...]`): the other rows: `id`, or `row N` where there is none, and why.
    """

    kept_indices: tuple[int, ...]
    lengths: tuple[int, ...]
    image_flags: tuple[bool, ...]
    answer_tokens: int
    image_tokens: int
    num_truncated: int
    dropped: tuple[tuple[str, DropReason], ...]

    @property
    def dropped_by_reason(self) -> dict[str, int]:
        """How many rows were dropped for each reason, the most frequent first."""
        return dict(Counter(reason for _, reason in self.dropped).most_common())


def screen_rows(
    rows: Any,
    processor: Any,
    family: ModelFamily,
    *,
    max_length: int | None,
    answers_only: bool,
    needs_image: bool = False,
) -> ScreeningResult:
    """Look at every row of a dataset.

    Args:
        rows (`datasets.Dataset`): with `images` and `messages`, and `id` where rows have names.
        processor (`ProcessorMixin`): with the chat template of training.
        family (`ModelFamily`): the model's.
        max_length (`int`, *optional*): where TRL cuts, in tokens with the image's.
        answers_only (`bool`): whether the loss covers answers only, or every token.
        needs_image (`bool`, *optional*, defaults to False): drop rows without one.

    Raises:
        TuningError: it is no dataset of images and conversations, a row has more images than the family takes, or no
            row is left.
    """
    from datasets import Features, Value

    _check_columns(rows)
    screener = RowScreener.from_processor(
        processor, family, max_length=max_length, answers_only=answers_only, needs_image=needs_image
    )
    columns = [name for name in ("id", "images", "messages") if name in rows.column_names]
    # As Arrow an image is the bytes of its file; as a row it would be decoded, which is what may fail.
    arrow_rows = rows.select_columns(columns).with_format("arrow")
    num_processes = min(os.cpu_count() or 1, len(rows) // _ROWS_PER_PROCESS)
    screened_rows = arrow_rows.map(
        screener,
        remove_columns=columns,
        features=Features(
            tokens=Value("int32"),
            answer_tokens=Value("int32"),
            image_tokens=Value("int32"),
            images=Value("int32"),
            reason=Value("string"),
        ),
        num_proc=num_processes if num_processes > 1 else None,
        new_fingerprint=digest("screened", arrow_rows._fingerprint, screener.fingerprint),
        desc="looking at rows",
    ).with_format(None)
    _check_image_counts(screened_rows["images"], rows, family)
    return _build_result(screened_rows, rows, screener)


@dataclass(frozen=True)
class RowScreener:
    """The look at one row; picklable, for other processes.

    Attributes:
        processor (`ProcessorMixin`): of the model, with the chat template.
        family (`ModelFamily`): the model's.
        special_tokens (`tuple[str, ...]`): texts that the tokenizer turns into tokens of their own.
        placeholder_id (`int`): the token that stands for an image in the rendered conversation.
        image_tokens (`dict[tuple[int, int], int]`): how many tokens an image of a width and height becomes, as far as
            it is known.
        max_length (`int`, *optional*), answers_only, needs_image (`bool`): as for `screen_rows`.
        fingerprint (`str`): the same for whatever looks the same way.
    """

    processor: Any = field(repr=False)
    family: ModelFamily
    special_tokens: tuple[str, ...]
    placeholder_id: int
    image_tokens: dict[tuple[int, int], int] = field(repr=False, compare=False)
    max_length: int | None
    answers_only: bool
    needs_image: bool
    fingerprint: str

    @classmethod
    def from_processor(
        cls, processor: Any, family: ModelFamily, *, max_length: int | None, answers_only: bool, needs_image: bool
    ) -> RowScreener:
        """Return the look through a processor's eyes."""
        tokenizer = processor.tokenizer
        placeholder = family.image_placeholder(processor)
        special_tokens = tuple(sorted({*tokenizer.all_special_tokens, placeholder}))
        cache_key = (
            _CACHE_VERSION,
            f"{type(family).__module__}.{type(family).__qualname__}",
            tokenizer.backend_tokenizer.to_str(),
            processor.chat_template,
            processor.to_json_string(),  # with what an image's tokens come from
        )
        return cls(
            processor=processor,
            family=family,
            special_tokens=special_tokens,
            placeholder_id=tokenizer.convert_tokens_to_ids(placeholder),
            image_tokens={},
            max_length=max_length,
            answers_only=answers_only,
            needs_image=needs_image,
            fingerprint=digest(*cache_key, special_tokens, max_length, answers_only, needs_image),
        )

    def __call__(self, table: Any) -> dict[str, Any]:
        """Return what the one row of an Arrow table is like; `reason` is empty where it can be trained on."""
        from jinja2 import TemplateError

        row = table.to_pylist()[0]
        images, messages = row["images"] or [], row["messages"] or []
        result = {"tokens": 0, "answer_tokens": 0, "image_tokens": 0, "images": len(images)}
        if not _is_conversation(messages):
            return {**result, "reason": "no conversation"}
        if not any(message["content"].strip() for message in messages[1::2]):
            return {**result, "reason": "no answer"}
        if self.needs_image and not images:
            return {**result, "reason": "no picture"}
        if any(token in message["content"] for message in messages for token in self.special_tokens):
            return {**result, "reason": "special token in the text"}
        sizes = [size for image in images if (size := _decoded_size(image))]
        if len(sizes) < len(images):
            return {**result, "reason": "broken picture"}
        image_tokens = [self._count_image_tokens(size) for size in sizes]
        try:
            tokens, answer_tokens, has_whole_images = self._count_tokens(messages, image_tokens)
        except TemplateError:
            return {**result, "reason": "refused by the template"}
        return {
            "tokens": tokens,
            "answer_tokens": answer_tokens,
            "image_tokens": sum(image_tokens),
            "images": len(images),
            "reason": "" if answer_tokens and has_whole_images else "too long",
        }

    def _count_image_tokens(self, size: tuple[int, int]) -> int:
        size = _ANY_SIZE if self.family.has_fixed_image_tokens else size
        if size not in self.image_tokens:
            self.image_tokens[size] = self.family.count_image_tokens(self.processor, size)
        return self.image_tokens[size]

    def _count_tokens(
        self, messages: Sequence[Mapping[str, str]], image_tokens: Sequence[int]
    ) -> tuple[int, int, bool]:
        """Return tokens and answer tokens before the cut, and whether the images lie before it as a whole."""
        from trl.data_utils import prepare_multimodal_messages

        encoding = self.processor.tokenizer.apply_chat_template(
            prepare_multimodal_messages(list(messages), images=[None] * len(image_tokens)),
            chat_template=self.processor.chat_template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=self.answers_only,
        )
        input_ids = encoding["input_ids"]
        loss_mask = encoding["assistant_masks"] if self.answers_only else [1] * len(input_ids)
        end = answer_tokens = image_end = 0
        limit = self.max_length or len(input_ids) + sum(image_tokens)
        remaining = iter(image_tokens)
        for token, in_loss in zip(input_ids, loss_mask, strict=True):
            if token == self.placeholder_id:
                end = image_end = end + next(remaining, 1)
            else:
                end += 1
            answer_tokens += in_loss and end <= limit
        return end, answer_tokens, image_end <= limit


def _is_conversation(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether user and assistant take turns, and the assistant has the last word."""
    roles = [message["role"] for message in messages]
    has_texts = all(isinstance(message["content"], str) for message in messages)
    return bool(roles) and has_texts and roles == ["user", "assistant"] * (len(roles) // 2)


def _decoded_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return width and height of an image as `datasets` decodes it for training, None where it cannot."""
    from datasets import Image
    from PIL.Image import DecompressionBombError

    try:
        decoded: tuple[int, int] = Image().decode_example(dict(image)).convert("RGB").size
    except (*_DECODE_ERRORS, DecompressionBombError):
        return None
    return decoded


def _check_columns(rows: Any) -> None:
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


def _check_image_counts(image_counts: Sequence[int], rows: Any, family: ModelFamily) -> None:
    limit = family.max_images
    multi_image_rows = [index for index, count in enumerate(image_counts) if count > limit]
    if multi_image_rows:
        number = "one" if limit == 1 else str(limit)
        raise TuningError(
            f"{len(multi_image_rows)} rows have more than {number} picture{'' if limit == 1 else 's'} "
            f"({_row_name(rows, multi_image_rows[0])} is the first); "
            f"{family.label} takes {number} for each row: split or leave them out"
        )


def _build_result(screened_rows: Any, rows: Any, screener: RowScreener) -> ScreeningResult:
    columns = {name: screened_rows[name][:] for name in screened_rows.column_names}
    kept_indices = [index for index, reason in enumerate(columns["reason"]) if not reason]
    dropped = [(_row_name(rows, index), reason) for index, reason in enumerate(columns["reason"]) if reason]
    reasons = dict(Counter(reason for _, reason in dropped).most_common())
    if not kept_indices:
        raise TuningError(f"no row of the data set can be trained on: {reasons or 'it is empty'}")
    lengths = [columns["tokens"][index] for index in kept_indices]
    limit = screener.max_length or max(lengths)
    return ScreeningResult(
        kept_indices=tuple(kept_indices),
        lengths=tuple(min(length, limit) for length in lengths),
        image_flags=tuple(columns["images"][index] > 0 for index in kept_indices),
        answer_tokens=sum(columns["answer_tokens"][index] for index in kept_indices),
        image_tokens=sum(columns["image_tokens"][index] for index in kept_indices),
        num_truncated=sum(length > limit for length in lengths),
        dropped=tuple(dropped),
    )


def _row_name(rows: Any, index: int) -> str:
    return str(rows.select_columns(["id"])[index]["id"]) if "id" in rows.column_names else f"row {index}"
