"""Load the model that is judged and answer questions about images with it, in batches.

The model is a directory or a Hub repository with a whole vision-language model, or with a LoRA adapter whose
`adapter_config.json` names its base and may name the base's revision. It runs on a GPU if there is one and else on the
CPU, in the precision it was saved in.

An image is read once for all questions about it where the model's family allows it (`can_share_prefix`). In LLaVA's
prompt the image stands before the question, and what stands there is the same for all questions about it: three
quarters of the tokens and more. So it goes through the tower and the language model once (the prefix), each question
continues from there, and the answers are the same as without.
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
from compact_hf.hub.ref import RepoRef
from compact_hf.images.codec import decode, open_header, strip_metadata
from compact_hf.models import loading
from compact_hf.models.adapter import check_adapter_base, load_merged_model
from compact_hf.models.loading import LOAD_ERRORS, first_line, load_network, load_processor
from compact_hf.models.registry import get_family
from compact_hf.training.training_record import read_adapter_info

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


ImagePromptPairs = Sequence[tuple[bytes | None, str]]
"""(Encoded image, prompt) pairs that are answered together; None in place of an image where there is none."""

IMAGE_PLACE: Final[Mapping[str, Any]] = {"type": "image"}


def model_inputs(processor: Any, pairs: ImagePromptPairs, *, device: Any, dtype: Any) -> Any:
    """Return one batch of inputs for (encoded image, prompt) pairs.

    Args:
        processor (`transformers.ProcessorMixin`): the model's, with its chat template.
        pairs: all with an image, or all without.
        device (`torch.device | str`), dtype (`torch.dtype`): of the model.

    Returns:
        `transformers.BatchFeature`: input_ids and attention_mask (batch, tokens), padded in front; pixel_values.

    Raises:
        ImageError: an image cannot be decoded.
    """
    # Questions about one image come one after another; it is decoded once.
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
        # The template writes the special tokens itself; answers follow at the end, so padding stands in front;
        # training leaves its own maximum length in the tokenizer, which is none of ours.
        processor_kwargs={"padding": True, "padding_side": "left", "add_special_tokens": False, "max_length": None},
    ).to(device, dtype=dtype)


def conversation(prompt: str, image_part: Mapping[str, Any] | None = IMAGE_PLACE) -> list[dict[str, Any]]:
    """Return the messages that ask a model: by default with the place of an image, for the text alone."""
    text_part = {"type": "text", "text": prompt}
    return [{"role": "user", "content": [text_part] if image_part is None else [image_part, text_part]}]


def decode_rgb(data: bytes) -> Image:
    """Return an encoded image's pixels, the right way up, as RGB.

    Raises:
        ImageError: it cannot be decoded.
    """
    return decode(strip_metadata(data)).convert("RGB")


@dataclass(frozen=True, slots=True)
class SharedInputs:
    """A batch of questions about fewer images, on the CPU.

    Attributes:
        pixel_values (`Tensor`): (images, 3, height, width).
        prefix_ids (`Tensor`): token ids up to the end of the image, (images, prefix).
        image_index (`Tensor`): which image each question is about, (questions,).
        input_ids, attention_mask (`Tensor`): prefix, padding, question: (questions, tokens).
    """

    pixel_values: Tensor
    prefix_ids: Tensor
    image_index: Tensor
    input_ids: Tensor
    attention_mask: Tensor

    def generate(self, network: Any, *, max_new_tokens: int) -> Tensor:
        """Return the new tokens, (questions, new); greedy where the network's generation config is."""
        from transformers import DynamicCache

        device = network.device
        cache = DynamicCache(config=network.config.get_text_config())
        network(
            input_ids=self.prefix_ids.to(device),
            pixel_values=self.pixel_values.to(device, dtype=network.dtype),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.batch_select_indices(self.image_index.to(device))
        tokens: Tensor = network.generate(
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            past_key_values=cache,
            max_new_tokens=max_new_tokens,
        )
        return tokens[:, self.input_ids.shape[1] :]


def shared_inputs(processor: Any, pairs: ImagePromptPairs) -> SharedInputs | None:
    """Return the batch, or None where nothing can be shared: no two questions are about one image, there are no images,
    or the chat template puts something of the question before it.

    Raises:
        ImageError: an image cannot be decoded.
    """
    import torch

    images = [data for data, _ in pairs if data is not None]
    image_index = {data: index for index, data in enumerate(dict.fromkeys(images))}
    if not images or len(image_index) == len(pairs):
        return None
    conversations = [conversation(prompt) for _, prompt in pairs]
    texts = processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
    # An image's token is one of the tokenizer's special ones: however often it stands there, the rest stays the same.
    rows = processor.tokenizer(texts, add_special_tokens=False, max_length=None)["input_ids"]
    image_token = processor.image_token_id
    position = rows[0].index(image_token) if image_token in rows[0] else 0
    if any(row[: position + 1] != rows[0][: position + 1] or row.count(image_token) != 1 for row in rows):
        return None
    pixel_values = processor.image_processor([decode_rgb(data) for data in image_index], return_tensors="pt")[
        "pixel_values"
    ]
    tokens_per_image = len(processor.replace_image_token({"pixel_values": pixel_values}, 0)) // len(
        processor.image_token
    )
    prefix = rows[0][:position] + [image_token] * tokens_per_image
    suffixes = [row[position + 1 :] for row in rows]
    longest = max(map(len, suffixes))
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


# As transformers' models begin to say that the processor counted on another tower, or on other settings of it.
_MISMATCH_MESSAGE: Final = "image features and image tokens do not match"


class Student:
    """A loaded model that answers questions about images, greedily.

    Args:
        model (`str`): a folder or a Hub repository, with its `@revision` or without.

    Raises:
        EvaluationError: it cannot be found or loaded, or is no vision-language model.
    """

    def __init__(self, model: str) -> None:
        import torch

        directory = locate_model(model)
        self._model = model
        self._device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        try:
            network = _load_network(directory)
            # An adapter's directory has the processor that it was trained with.
            self._processor: Any = load_processor(directory)
        except TuningError as error:
            raise EvaluationError(str(error)) from error
        except LOAD_ERRORS as error:
            raise EvaluationError(f"model {model} cannot be loaded: {first_line(error)}") from error
        if not hasattr(self._processor, "image_processor"):
            raise EvaluationError(f"model {model} takes no pictures; give a vision-language model such as LLaVA")
        if not self._processor.chat_template:
            raise EvaluationError(f"model {model} has no chat template; save the one it was trained with beside it")
        self._network: Any = network.to(self._device).eval()
        self._family = get_family(network.config.model_type)

    def answer(self, pairs: ImagePromptPairs, *, max_new_tokens: int) -> list[str]:
        """Return the model's answers to (encoded image, prompt) pairs.

        Args:
            pairs: answered in one batch, or where that is too much for the memory, in halves of it; all with an image,
                or all without.
            max_new_tokens (`int`): where an answer is cut.

        Raises:
            ImageError: an image cannot be decoded.
            EvaluationError: the memory is too small for a single question, or the processor makes another number of
                tokens of an image than the model has features.
        """
        return self._generate_answers(pairs, self._prepare_inputs(pairs), max_new_tokens)

    def answer_batches(
        self, batch_readers: Iterable[Callable[[], ImagePromptPairs]], *, max_new_tokens: int
    ) -> Iterator[list[str]]:
        """Yield the answers of one batch after the other; while one is answered, the next is read and made ready.

        Args:
            batch_readers: each gives its pairs when its turn has come.
            max_new_tokens (`int`), raises: as for `answer`.
        """

        def prepare(read_batch: Callable[[], ImagePromptPairs]) -> tuple[ImagePromptPairs, Any]:
            pairs = read_batch()
            return pairs, self._prepare_inputs(pairs)

        pending: deque[Future[tuple[ImagePromptPairs, Any]]] = deque()
        with ThreadPoolExecutor(1, "next-batch") as executor:
            for read_batch in batch_readers:
                pending.append(executor.submit(prepare, read_batch))
                if len(pending) > 1:
                    yield self._generate_answers(*pending.popleft().result(), max_new_tokens)
            while pending:
                yield self._generate_answers(*pending.popleft().result(), max_new_tokens)

    def prompt_lengths(self, prompts: Sequence[tuple[Callable[[], bytes] | None, str]]) -> list[int]:
        """Return how many tokens each prompt has, but for what is the same in all of them.

        Args:
            prompts: what reads the image (None where there is none), and the prompt; images are read only where their
                size matters.
        """
        texts = self._processor.tokenizer([prompt for _, prompt in prompts], add_special_tokens=False)
        counts = [len(row) for row in texts["input_ids"]]
        count_image_tokens = lru_cache(maxsize=None)(self._count_image_tokens)
        if count_image_tokens((64, 64)) == count_image_tokens((960, 640)):
            return counts
        return [
            text_tokens + (count_image_tokens(open_header(strip_metadata(read_image())).size) if read_image else 0)
            for text_tokens, (read_image, _) in zip(counts, prompts, strict=True)
        ]

    def _count_image_tokens(self, size: tuple[int, int]) -> int:
        from PIL import Image

        blank = [conversation("", {"type": "image", "image": Image.new("RGB", size)})]
        return len(self._processor.apply_chat_template(blank, tokenize=True, return_dict=True)["input_ids"][0])

    def _prepare_inputs(self, pairs: ImagePromptPairs) -> Any:
        shared = shared_inputs(self._processor, pairs) if self._family.can_share_prefix(self._processor) else None
        return shared or model_inputs(self._processor, pairs, device="cpu", dtype=self._network.dtype)

    def _generate_answers(self, pairs: ImagePromptPairs, inputs: Any, max_new_tokens: int) -> list[str]:
        import torch

        try:
            tokens = self._generate_tokens(inputs, max_new_tokens)
        except torch.OutOfMemoryError as error:
            if len(pairs) == 1:
                raise EvaluationError(
                    f"the memory of {self._device} is too small for this model: {first_line(error)}"
                ) from error
        except ValueError as error:
            raise self._translate_error(error, pairs) from error
        else:
            return [text.strip() for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]
        middle = len(pairs) // 2
        halves = (pairs[:middle], pairs[middle:])
        return [answer for half in halves for answer in self.answer(half, max_new_tokens=max_new_tokens)]

    def _generate_tokens(self, inputs: Any, max_new_tokens: int) -> Any:
        import torch

        with torch.inference_mode():
            if isinstance(inputs, SharedInputs):
                return inputs.generate(self._network, max_new_tokens=max_new_tokens)
            tokens = self._network.generate(**inputs.to(self._device), max_new_tokens=max_new_tokens)
        return tokens[:, inputs["input_ids"].shape[1] :]

    def _translate_error(self, error: ValueError, pairs: ImagePromptPairs) -> EvaluationError:
        """Return in one line why the model cannot answer; of tokens that do not fit, how many there should be."""
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
            f"the processor of {self._model} does not fit the model: it makes {token_count} tokens of a "
            f"picture, the model {feature_count}; mend processor_config.json"
            + (f" ({self._family.label}'s: {settings})" if settings else "")
        )


def locate_model(model: str) -> Path:
    """Return the folder with a model's files, fetched from the Hub (or its cache) where `model` is no folder.

    Args:
        model (`str`): a folder or a Hub repository, with its `@revision` or without.

    Raises:
        EvaluationError: there is neither, or the folder holds no model.
    """
    ref = None if Path(model).exists() else RepoRef.parse(model)
    try:
        return loading.resolve_model(ref.repo_id, revision=ref.revision) if ref else loading.resolve_model(model)
    except TuningError as error:
        raise EvaluationError(str(error)) from error


def model_identity(model: str) -> str:
    """Return a hash of a model's files, so that a model trained anew in the same place counts as another.

    Raises:
        EvaluationError: as `locate_model`.
    """
    return loading.hash_model(locate_model(model))


def _load_network(directory: Path) -> Any:
    """Load a whole model, or an adapter merged into the base that it names.

    Raises:
        TuningError: the base cannot be found, or the adapter is another one's.
    """
    if loading.is_adapter(directory):
        adapter = read_adapter_info(directory)
        base = loading.resolve_model(adapter.base, revision=adapter.base_revision)
        check_adapter_base(directory, base)
        network = load_merged_model(directory, base)
    else:
        network = load_network(directory)
    # Vicuna's settings for chatting would be reported as ignored at every batch.
    network.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    return network
