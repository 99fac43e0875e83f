"""Finds rows that cannot be trained on, before the first step.

In plain `trl sft`, a broken image ends training in the middle of an epoch; a row whose answers are all after
`max_length` is trained on without any effect; and text that contains a special token changes what is learned. Here
every row is checked once, in parallel, with the codec, the template and the tokenizer that training uses. `datasets`
caches the result under a fingerprint of data, tokenizer, template and limit, so that a resumed run does not repeat it.
The content of a message is a text or a list of parts, `{type: text, text}` and `{type: image}`, as for TRL.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from compact_hf.errors import TuningError
from compact_hf.images.codec import ImageError, decode_rgb
from compact_hf.images.reasons import ImageReason
from compact_hf.models.family import ModelFamily
from compact_hf.records import digest
from compact_hf.training.row_images import read_image
from compact_hf.wording import format_count

DropReason = Literal[
    "no conversation",
    "no answer",
    "no picture",
    "other number of image parts than images",
    "special token in the text",
    "refused by the template",
    "too long",
]
_MAX_DETAIL: Final = 200  # characters of a template's message
_CACHE_VERSION: Final = 5
"""Increased whenever the checks change, so that older results in the cache are not used."""
_ANY_SIZE: Final = (64, 64)
"""Width and height of the image that is counted for all images, if the family's image tokens do not depend on size."""
_ROWS_PER_PROCESS: Final = 500
"""Minimum number of rows per process; starting a process for fewer rows takes longer than screening them."""


class DroppedRow(NamedTuple):
    """A row that cannot be trained on.

    Attributes:
        name (`str`): its `id`, or `row N` if rows have no id.
        reason (`DropReason | ImageReason`): an `ImageReason` if an image cannot be read or decoded.
        detail (`str`, *optional*, defaults to an empty string): what is wrong with the image, or why the template
            refuses the row.
    """

    name: str
    reason: DropReason | ImageReason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}{f' ({self.detail})' if self.detail else ''}"


@dataclass(frozen=True, slots=True)
class ScreeningResult:
    """Kept and dropped rows of a dataset.

    Attributes:
        kept_indices (`tuple[int, ...]`): indices of the rows that can be trained on.
        lengths (`tuple[int, ...]`): length of each kept row in tokens, image tokens included, at most `max_length`.
        image_flags (`tuple[bool, ...]`): whether each kept row has an image.
        answer_tokens (`int`): total number of tokens in kept rows that the loss covers.
        image_tokens (`int`): total number of image tokens in kept rows.
        num_truncated (`int`): number of kept rows that are longer than `max_length`.
        dropped (`tuple[DroppedRow, ...]`): name and reason of each dropped row.
    """

    kept_indices: tuple[int, ...]
    lengths: tuple[int, ...]
    image_flags: tuple[bool, ...]
    answer_tokens: int
    image_tokens: int
    num_truncated: int
    dropped: tuple[DroppedRow, ...]

    @property
    def dropped_by_reason(self) -> dict[str, int]:
        """Number of dropped rows by reason, the most frequent reason first."""
        return dict(Counter(row.reason for row in self.dropped).most_common())


def screen_rows(
    rows: Any,
    processor: Any,
    family: ModelFamily,
    *,
    max_length: int | None,
    answers_only: bool,
    needs_image: bool = False,
) -> ScreeningResult:
    """Check every row of a dataset.

    Args:
        rows (`datasets.Dataset`): with the columns `images` and `messages`, and optionally `id`.
        processor (`ProcessorMixin`): with the chat template for training.
        family (`ModelFamily`): the model's family.
        max_length (`int`, *optional*): number of tokens, image tokens included, after which TRL truncates a row.
        answers_only (`bool`): whether the loss covers only answers, or all tokens.
        needs_image (`bool`, *optional*, defaults to False): drop rows without an image.

    Returns:
        `ScreeningResult`: kept and dropped rows.

    Raises:
        TuningError: if the dataset has no images or conversations, a row has more images than the family supports, or
            all rows are dropped.
    """
    from datasets import Features, Value

    _check_columns(rows)
    screener = RowScreener.from_processor(
        processor, family, max_length=max_length, answers_only=answers_only, needs_image=needs_image
    )
    columns = [name for name in ("id", "images", "messages") if name in rows.column_names]
    # In Arrow format an image is the bytes of its file. Other formats decode it, which fails for broken images.
    arrow_rows = rows.select_columns(columns).with_format("arrow")
    # 0 or 1 for a small dataset, which is then screened in this process.
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
            detail=Value("string"),
        ),
        num_proc=num_processes if num_processes > 1 else None,
        # The name of the result in the cache of `datasets`: it depends on the data and on all settings of the screener.
        new_fingerprint=digest("screened", arrow_rows._fingerprint, screener.fingerprint),
        desc="screening rows",
    ).with_format(None)
    # Not a reason to drop rows: users have to decide how such rows are split.
    _check_image_counts(screened_rows["images"], rows, family)
    return _build_result(screened_rows, rows, screener)


@dataclass(frozen=True)
class RowScreener:
    """Checks single rows. It can be pickled, so that `datasets` can run it in several processes.

    Attributes:
        processor (`ProcessorMixin`): the model's processor, with the chat template.
        family (`ModelFamily`): the model's family.
        special_tokens (`tuple[str, ...]`): texts of the tokenizer's special tokens.
        placeholder_id (`int`): id of the token in the rendered conversation that an image's tokens replace.
        image_tokens (`dict[tuple[int, int], int]`): cache of the number of tokens by an image's width and height.
        max_length (`int`, *optional*): as for `screen_rows`.
        answers_only (`bool`): as for `screen_rows`.
        needs_image (`bool`): as for `screen_rows`.
        fingerprint (`str`): hash of everything that affects the result.
    """

    processor: Any = field(repr=False)
    family: ModelFamily
    special_tokens: tuple[str, ...]
    placeholder_id: int
    # Changed in spite of `frozen`: each process fills a dictionary of its own.
    image_tokens: dict[tuple[int, int], int] = field(repr=False, compare=False)
    max_length: int | None
    answers_only: bool
    needs_image: bool
    fingerprint: str

    @classmethod
    def from_processor(
        cls, processor: Any, family: ModelFamily, *, max_length: int | None, answers_only: bool, needs_image: bool
    ) -> RowScreener:
        """Return a screener for a processor and its tokenizer.

        Args:
            processor (`ProcessorMixin`): the model's processor, with the chat template.
            family (`ModelFamily`): the model's family.
            max_length (`int`, *optional*): as for `screen_rows`.
            answers_only (`bool`): as for `screen_rows`.
            needs_image (`bool`): as for `screen_rows`.
        """
        tokenizer = processor.tokenizer
        placeholder = family.image_placeholder(processor)
        special_tokens = tuple(sorted({*tokenizer.all_special_tokens, placeholder}))
        # Everything that affects the result of screening, except the data.
        cache_key = (
            _CACHE_VERSION,
            f"{type(family).__module__}.{type(family).__qualname__}",
            tokenizer.backend_tokenizer.to_str(),
            processor.chat_template,
            processor.to_json_string(),  # includes the settings that determine the number of image tokens
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
        """Return token counts and drop reason of a row; the reason is empty if the row can be trained on.

        Args:
            table (`pyarrow.Table`): a table with one row.
        """
        from jinja2 import TemplateError
        from trl.data_utils import prepare_multimodal_messages

        row = table.to_pylist()[0]
        images, messages = row["images"] or [], row["messages"] or []
        result = {"tokens": 0, "answer_tokens": 0, "image_tokens": 0, "images": len(images), "detail": ""}
        if not _is_conversation(messages):
            return {**result, "reason": "no conversation"}
        texts = [(message["role"], text) for message in messages for text in _get_texts(message["content"]) or ()]
        if not any(text.strip() for role, text in texts if role == "assistant"):
            return {**result, "reason": "no answer"}
        if self.needs_image and not images:
            return {**result, "reason": "no picture"}
        # The tokenizer would turn such a text into the token: `</s>`, for example, would end the answer.
        if any(token in text for _, text in texts for token in self.special_tokens):
            return {**result, "reason": "special token in the text"}
        try:
            sizes = [decode_rgb(read_image(image)).size for image in images]
        except ImageError as error:
            return {**result, "reason": error.reason, "detail": error.detail}
        image_tokens = [self._count_image_tokens(size) for size in sizes]
        try:
            prepared_messages = prepare_multimodal_messages(messages, images=[None] * len(images))
        except ValueError:  # TRL would raise it in the first step with this row
            return {**result, "reason": "other number of image parts than images"}
        try:
            tokens, answer_tokens, has_whole_images = self._count_tokens(prepared_messages, image_tokens)
        except TemplateError as error:
            # The template's own words, such as which role it refuses.
            return {**result, "reason": "refused by the template", "detail": " ".join(str(error).split())[:_MAX_DETAIL]}
        return {
            **result,
            "tokens": tokens,
            "answer_tokens": answer_tokens,
            "image_tokens": sum(image_tokens),
            # Without answer tokens before the limit there is nothing to learn; TRL fails if an image is truncated.
            "reason": "" if answer_tokens and has_whole_images else "too long",
        }

    def _count_image_tokens(self, size: tuple[int, int]) -> int:
        """Return the number of tokens of an image of this size, from the cache if possible."""
        size = _ANY_SIZE if self.family.has_fixed_image_tokens else size
        if size not in self.image_tokens:
            self.image_tokens[size] = self.family.count_image_tokens(self.processor, size)
        return self.image_tokens[size]

    def _count_tokens(
        self, messages: Sequence[Mapping[str, Any]], image_tokens: Sequence[int]
    ) -> tuple[int, int, bool]:
        """Return the length, the number of answer tokens before `max_length`, and whether all images end before it.

        The conversation is tokenized with one placeholder token per image, which counts as `image_tokens` tokens.
        """
        encoding = self.processor.tokenizer.apply_chat_template(
            messages,
            chat_template=self.processor.chat_template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=self.answers_only,
        )
        input_ids = encoding["input_ids"]
        # One number per token of `input_ids`: 1 if the loss covers it.
        loss_mask = encoding["assistant_masks"] if self.answers_only else [1] * len(input_ids)
        # `end` is the position after a token, with image tokens in place of the placeholders.
        end = answer_tokens = image_end = 0
        limit = self.max_length or len(input_ids) + sum(image_tokens)
        remaining = iter(image_tokens)
        for token, in_loss in zip(input_ids, loss_mask, strict=True):
            if token == self.placeholder_id:
                # A placeholder without an image counts as the one token that it is.
                end = image_end = end + next(remaining, 1)
            else:
                end += 1
            # TRL cuts the row at the limit, so that later tokens are not learned.
            answer_tokens += in_loss and end <= limit
        return end, answer_tokens, image_end <= limit


def _is_conversation(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether messages alternate between user and assistant, after a system message or none, and end with the
    assistant.
    """
    roles = [message["role"] for message in messages]
    roles = roles[1:] if roles[:1] == ["system"] else roles
    has_texts = all(_get_texts(message["content"]) is not None for message in messages)
    # The length of the repeated pair is even, so an odd number of messages never equals it.
    return bool(roles) and has_texts and roles == ["user", "assistant"] * (len(roles) // 2)


def _get_texts(content: Any) -> list[str] | None:
    """Return the texts of a message's content; None if it is neither a text nor a list of texts and images."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list) or any(part["type"] not in ("text", "image") for part in content):
        return None
    texts = [part.get("text") for part in content if part["type"] == "text"]
    return texts if all(isinstance(text, str) for text in texts) else None


def _check_columns(rows: Any) -> None:
    """Raise if the columns of images and messages are missing or of another type."""
    from datasets import Image, List

    missing = [name for name in ("images", "messages") if name not in rows.column_names]
    if missing:
        raise TuningError(
            f"the dataset has no column {' and no '.join(missing)} (it has {', '.join(rows.column_names)}): tuning "
            "needs `images`, a list of images, and `messages`, a list of role and content, as `compact assemble` "
            "writes them"
        )
    # A list type has the type of its items as `feature`; other types have no such attribute.
    images = rows.features["images"]
    if not isinstance(getattr(images, "feature", None), Image):
        raise TuningError(
            f"the dataset's column `images` has the type {images}: it has to be {List(Image())}, a list of images "
            "(which may be empty)"
        )


def _check_image_counts(image_counts: Sequence[int], rows: Any, family: ModelFamily) -> None:
    """Raise if rows have more images than the family supports."""
    limit = family.max_images
    multi_image_rows = [index for index, count in enumerate(image_counts) if count > limit]
    if multi_image_rows:
        number = "one" if limit == 1 else str(limit)
        verb = "has" if len(multi_image_rows) == 1 else "have"
        raise TuningError(
            f"{format_count(len(multi_image_rows), 'row')} {verb} more than {number} image{'' if limit == 1 else 's'} "
            f"(the first: {_row_name(rows, multi_image_rows[0])}), but "
            f"{family.label} takes at most {number} per row: split these rows or leave them out"
        )


def _build_result(screened_rows: Any, rows: Any, screener: RowScreener) -> ScreeningResult:
    """Return the result of all rows from the screened columns; raise if no row is left."""
    # column -> values of all rows
    columns = {name: screened_rows[name][:] for name in screened_rows.column_names}
    kept_indices = [index for index, reason in enumerate(columns["reason"]) if not reason]
    dropped = [
        DroppedRow(_row_name(rows, index), reason, columns["detail"][index])
        for index, reason in enumerate(columns["reason"])
        if reason
    ]
    if not kept_indices:
        reasons = dict(Counter(row.reason for row in dropped).most_common())
        first = next((f" (the first: {row})" for row in dropped if row.detail), "")
        raise TuningError(f"no row of the dataset can be trained on: {reasons or 'it is empty'}{first}")
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
