"""Loads the evaluated model and answers questions about images with it, in batches.

The model is a directory or a Hub repository with a full vision-language model, or with a LoRA adapter whose
`adapter_config.json` names its base and may name the revision of the base. It runs on a GPU if one is available,
otherwise on the CPU, in the precision that it was saved in.

If the model family allows it (`can_share_prefix`), an image is processed once for all questions about it. In LLaVA's
prompt the image precedes the question, so everything up to the end of the image is the same for all of these questions:
three quarters of the tokens or more. This prefix goes through the vision tower and the language model once, and each
question continues from its key-value cache. The answers are the same as without sharing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import EvaluationError, TuningError
from compact_hf.evaluation.model_files import locate_model
from compact_hf.images.codec import decode_rgb, open_header, strip_metadata
from compact_hf.models import loading
from compact_hf.models.adapter import load_merged_model
from compact_hf.models.chat_template import check_image_question
from compact_hf.models.finite import require_finite_logits
from compact_hf.models.loading import LOAD_ERRORS, first_line, load_network, load_processor
from compact_hf.models.registry import get_family
from compact_hf.training.inputs import find_trained_base

if TYPE_CHECKING:
    from torch import Tensor


ImagePromptPairs = Sequence[tuple[bytes | None, str]]
"""(Encoded image, prompt) pairs that are answered in one batch; None if a question has no image."""

IMAGE_PLACE: Final[Mapping[str, Any]] = {"type": "image"}


def model_inputs(processor: Any, pairs: ImagePromptPairs, *, device: Any, dtype: Any) -> Any:
    """Return one batch of inputs for (encoded image, prompt) pairs.

    Args:
        processor (`transformers.ProcessorMixin`): the processor of the model, with its chat template.
        pairs (`ImagePromptPairs`): images and prompts; either all of them have an image or none has.
        device (`torch.device | str`): device of the model.
        dtype (`torch.dtype`): data type of the model.

    Returns:
        `transformers.BatchFeature`: `input_ids` and `attention_mask`, both `(batch, tokens)` and left-padded, and
        `pixel_values`.

    Raises:
        ImageError: an image cannot be decoded.
    """
    # Questions about one image are next to each other in a batch; the image is decoded once.
    image_parts = {
        data: None if data is None else {"type": "image", "image": decode_rgb(data)}
        for data in {data for data, _ in pairs}
    }
    return processor.apply_chat_template(
        [conversation(prompt, image_parts[data]) for data, prompt in pairs],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        # The template writes the special tokens itself. Padding is on the left because answers follow at the end.
        # The maximum length that training leaves in the tokenizer does not apply here.
        processor_kwargs={"padding": True, "padding_side": "left", "add_special_tokens": False, "max_length": None},
    ).to(device, dtype=dtype)


def conversation(prompt: str, image_part: Mapping[str, Any] | None = IMAGE_PLACE) -> list[dict[str, Any]]:
    """Return the chat messages for a prompt: with an image placeholder by default, without an image if it is None."""
    text_part = {"type": "text", "text": prompt}
    return [{"role": "user", "content": [text_part] if image_part is None else [image_part, text_part]}]


@dataclass(frozen=True, slots=True)
class SharedInputs:
    """The inputs for a batch of questions that share images, on the CPU.

    Attributes:
        pixel_values (`Tensor`): images, `(images, 3, height, width)`.
        prefix_ids (`Tensor`): token ids up to the end of the image, `(images, prefix)`.
        image_index (`Tensor`): index of each question's image, `(questions,)`.
        input_ids (`Tensor`): token ids of prefix, padding and question, `(questions, tokens)`.
        attention_mask (`Tensor`): 0 at the padding and 1 elsewhere, `(questions, tokens)`.
    """

    pixel_values: Tensor
    prefix_ids: Tensor
    image_index: Tensor
    input_ids: Tensor
    attention_mask: Tensor

    def generate(self, network: Any, *, max_new_tokens: int) -> Tensor:
        """Return the generated tokens, `(questions, new)`; decoding is greedy if the generation config says so."""
        from transformers import DynamicCache

        device = network.device
        cache = DynamicCache(config=network.config.get_text_config())
        # Fills the cache with the prefixes, one row per image.
        network(
            input_ids=self.prefix_ids.to(device),
            pixel_values=self.pixel_values.to(device, dtype=network.dtype),
            past_key_values=cache,
            use_cache=True,
            # Otherwise logits would be computed at every position: (images, prefix, vocabulary).
            logits_to_keep=1,
        )
        # Now one row per question: each question gets a copy of its image's row.
        cache.batch_select_indices(self.image_index.to(device))
        tokens: Tensor = network.generate(
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            past_key_values=cache,
            max_new_tokens=max_new_tokens,
            logits_processor=[require_finite_logits],
        )
        # `generate` returns the prompt as well; only the tokens after it are the answer.
        return tokens[:, self.input_ids.shape[1] :]


def shared_inputs(processor: Any, pairs: ImagePromptPairs) -> SharedInputs | None:
    """Return the batch with shared prefixes, or None if nothing can be shared.

    Nothing can be shared if there are no images, if no two questions are about the same image, or if the chat template
    puts a part of the question before the image.

    Raises:
        ImageError: an image cannot be decoded.
    """
    import torch

    images = [data for data, _ in pairs if data is not None]
    # Encoded image -> its row in the cache, in the order of first occurrence.
    image_index = {data: index for index, data in enumerate(dict.fromkeys(images))}
    if not images or len(image_index) == len(pairs):
        return None
    # With a placeholder instead of pixels, each row has one image token, which is repeated below.
    conversations = [conversation(prompt) for _, prompt in pairs]
    texts = processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
    # The image token is a special token, so repeating it below does not change how the text around it is tokenized.
    rows = processor.tokenizer(texts, add_special_tokens=False, max_length=None)["input_ids"]
    image_token = processor.image_token_id
    position = rows[0].index(image_token) if image_token in rows[0] else 0
    # Rows that differ before the image, or have several images, cannot continue from one prefix.
    if any(row[: position + 1] != rows[0][: position + 1] or row.count(image_token) != 1 for row in rows):
        return None
    # The prefix ends with the last token of the image; what follows is the question.
    pixel_values = processor.image_processor([decode_rgb(data) for data in image_index], return_tensors="pt")[
        "pixel_values"
    ]
    tokens_per_image = len(processor.replace_image_token({"pixel_values": pixel_values}, 0)) // len(
        processor.image_token
    )
    prefix = rows[0][:position] + [image_token] * tokens_per_image
    suffixes = [row[position + 1 :] for row in rows]
    longest = max(map(len, suffixes))
    # Padding comes after the prefix, so that prefixes match the cache and all questions end at the same position.
    padding = [longest - len(row) for row in suffixes]
    pad_token = processor.tokenizer.pad_token_id
    return SharedInputs(
        pixel_values,
        torch.tensor([prefix] * len(image_index)),
        torch.tensor([image_index[data] for data in images]),
        torch.tensor(
            [prefix + [pad_token] * pad_length + row for pad_length, row in zip(padding, suffixes, strict=True)]
        ),
        torch.tensor(
            [
                [1] * len(prefix) + [0] * pad_length + [1] * len(row)
                for pad_length, row in zip(padding, suffixes, strict=True)
            ]
        ),
    )


# Part of transformers' error message when the processor expects another vision tower, or other settings of it.
_MISMATCH_MESSAGE: Final = "image features and image tokens do not match"


class Student:
    """A loaded model that answers questions about images with greedy decoding.

    Args:
        model (`str`): a directory, or a Hub repository with an optional `@revision`.
        base (`str`, *optional*): base of an adapter, if it is not the one that the adapter's config names.

    Raises:
        UsageError: the model or the base is neither a directory of a model nor the name of a repository.
        EvaluationError: one of them cannot be downloaded or loaded, or is not a vision-language model.
    """

    def __init__(self, model: str, *, base: str | None = None) -> None:
        import torch

        directory = locate_model(model)
        self._model = model
        self._device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        try:
            network = _load_network(directory, base)
            # After the network, whose loading registers the classes of the model's family.
            # An adapter's directory has the processor that it was trained with.
            self._processor: Any = load_processor(directory, network.config)
        except TuningError as error:
            raise EvaluationError(str(error)) from error
        except LOAD_ERRORS as error:
            raise EvaluationError(f"model {model} cannot be loaded: {first_line(error)}") from error
        if not hasattr(self._processor, "image_processor"):
            raise EvaluationError(f"model {model} does not accept images; give a vision-language model such as LLaVA")
        if not self._processor.chat_template:
            raise EvaluationError(f"model {model} has no chat template; save its own next to it as chat_template.jinja")
        try:
            check_image_question(self._processor)
        except ValueError as error:
            raise EvaluationError(
                f"model {model} cannot be used: {first_line(error)}; save another template next to it"
            ) from error
        self._network: Any = network.to(self._device).eval()
        self._family = get_family(network.config.model_type)

    def answer(self, pairs: ImagePromptPairs, *, max_new_tokens: int) -> list[str]:
        """Return the model's answers to (encoded image, prompt) pairs.

        Args:
            pairs (`ImagePromptPairs`): images and prompts; either all of them have an image or none has. They are
                answered in one batch, or in halves of it if memory runs out.
            max_new_tokens (`int`): maximum length of an answer, in tokens.

        Raises:
            ImageError: an image cannot be decoded.
            EvaluationError: there is not enough memory for a single question, or the processor makes another number of
                tokens per image than the model expects.
        """
        return self._generate_answers(pairs, self._prepare_inputs(pairs), max_new_tokens)

    def answer_batches(
        self, batch_readers: Iterable[Callable[[], ImagePromptPairs]], *, max_new_tokens: int
    ) -> Iterator[list[str]]:
        """Yield the answers to one batch after the other. While a batch is answered, the next one is prepared.

        Args:
            batch_readers (`Iterable[Callable[[], ImagePromptPairs]]`): functions that read one batch each.
            max_new_tokens (`int`): maximum length of an answer, in tokens.

        Raises:
            ImageError: as for `answer`.
            EvaluationError: as for `answer`.
        """

        def prepare(read_batch: Callable[[], ImagePromptPairs]) -> tuple[ImagePromptPairs, Any]:
            pairs = read_batch()
            return pairs, self._prepare_inputs(pairs)

        pending: deque[Future[tuple[ImagePromptPairs, Any]]] = deque()
        with ThreadPoolExecutor(1, "next-batch") as executor:
            for read_batch in batch_readers:
                pending.append(executor.submit(prepare, read_batch))
                # One batch is prepared while another is answered. More than that would only hold more images in memory.
                if len(pending) > 1:
                    yield self._generate_answers(*pending.popleft().result(), max_new_tokens)
            while pending:
                yield self._generate_answers(*pending.popleft().result(), max_new_tokens)

    def prompt_lengths(self, prompts: Sequence[tuple[Callable[[], bytes] | None, str]]) -> list[int]:
        """Return the number of tokens of each prompt, without the tokens that all prompts have in common.

        Args:
            prompts (`Sequence[tuple[Callable[[], bytes] | None, str]]`): for each question a function that reads the
                image (None without an image), and the prompt. Images are read only if the number of image tokens
                depends on the size of the image.
        """
        texts = self._processor.tokenizer([prompt for _, prompt in prompts], add_special_tokens=False)
        counts = [len(row) for row in texts["input_ids"]]
        count_image_tokens = lru_cache(maxsize=None)(self._count_image_tokens)
        # Two sizes with different aspect ratios: the same count means that images of any size have as many tokens.
        if count_image_tokens((64, 64)) == count_image_tokens((960, 640)):
            return counts
        return [
            text_tokens + (count_image_tokens(open_header(strip_metadata(read_image())).size) if read_image else 0)
            for text_tokens, (read_image, _) in zip(counts, prompts, strict=True)
        ]

    def _count_image_tokens(self, size: tuple[int, int]) -> int:
        from PIL import Image

        # The template's own tokens are counted too; they are the same for every size.
        blank = [conversation("", {"type": "image", "image": Image.new("RGB", size)})]
        return len(self._processor.apply_chat_template(blank, tokenize=True, return_dict=True)["input_ids"][0])

    def _prepare_inputs(self, pairs: ImagePromptPairs) -> Any:
        shared = shared_inputs(self._processor, pairs) if self._family.can_share_prefix(self._processor) else None
        return shared or model_inputs(self._processor, pairs, device="cpu", dtype=self._network.dtype)

    def _generate_answers(self, pairs: ImagePromptPairs, inputs: Any, max_new_tokens: int) -> list[str]:
        """Return the answers to one batch; after running out of memory, answer its halves one after the other."""
        import torch

        try:
            tokens = self._generate_tokens(inputs, max_new_tokens)
        except torch.OutOfMemoryError as error:
            if len(pairs) == 1:
                raise EvaluationError(
                    f"not enough memory on {self._device} for this model: {first_line(error)}"
                ) from error
        # transformers raises it if image tokens and features do not match, among other cases.
        except ValueError as error:
            raise self._translate_error(error, pairs) from error
        else:
            return [text.strip() for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]
        # Only reached when memory ran out; outside `except`, whose traceback would keep the failed batch in memory.
        middle = len(pairs) // 2
        halves = (pairs[:middle], pairs[middle:])
        return [answer for half in halves for answer in self.answer(half, max_new_tokens=max_new_tokens)]

    def _generate_tokens(self, inputs: Any, max_new_tokens: int) -> Any:
        import torch

        with torch.inference_mode():
            if isinstance(inputs, SharedInputs):
                return inputs.generate(self._network, max_new_tokens=max_new_tokens)
            tokens = self._network.generate(
                **inputs.to(self._device), max_new_tokens=max_new_tokens, logits_processor=[require_finite_logits]
            )
        return tokens[:, inputs["input_ids"].shape[1] :]

    def _translate_error(self, error: ValueError, pairs: ImagePromptPairs) -> EvaluationError:
        """Return a one-line error; if image tokens and features do not match, it gives both counts."""
        import torch

        if _MISMATCH_MESSAGE not in str(error).lower():
            return EvaluationError(f"model {self._model} cannot answer: {first_line(error)}")
        inputs = model_inputs(self._processor, pairs[:1], device=self._device, dtype=self._network.dtype)
        token_count = int((inputs["input_ids"] == self._network.config.image_token_id).sum())
        with torch.inference_mode():
            image_inputs = {
                name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")
            }
            feature_count = len(torch.cat(list(self._network.get_image_features(**image_inputs).pooler_output)))
        settings = ", ".join(self._family.processor_settings)
        return EvaluationError(
            f"the processor of {self._model} does not match the model: it makes {token_count} tokens per "
            f"image, and the model expects {feature_count}; fix processor_config.json"
            + (f" ({self._family.label}'s: {settings})" if settings else "")
        )


def _load_network(directory: Path, base: str | None) -> Any:
    """Load a full model, or an adapter merged into its base, by default the one that it names.

    Raises:
        TuningError: the base was not found, or the adapter was trained on another base or on other weights at its path.
    """
    if loading.is_adapter(directory):
        network = load_merged_model(directory, find_trained_base(directory, base))
    else:
        network = load_network(directory)
    # Without this, transformers would warn at every batch that Vicuna's sampling settings are ignored.
    network.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    return network
