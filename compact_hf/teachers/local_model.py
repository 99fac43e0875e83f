"""A vision-language model that writes JSON on this machine: find it, load it, and generate replies in batches.

Any image-text-to-text model of transformers will do, from a directory or the Hub; what is wrong with it is said at
once. What it writes is held to each request's schema while it writes (xgrammar), so that a reply is that JSON, or was
cut. Nothing here knows an event loop: local.py does the waiting and the batching.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import TeacherError, UsageError
from compact_hf.models import loading
from compact_hf.models.loading import LOAD_ERRORS, without_progress_bars
from compact_hf.teachers.base import Failure, Reply, Request
from compact_hf.teachers.http import one_line

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where a model's files are.

    Attributes:
        model (`str`): the folder, or the repository.
        commit (`str | None`): the repository's newest when it was looked up; None for a folder.
    """

    model: str
    commit: str | None

    @property
    def name(self) -> str:
        """The model's name as it may be published: of a folder, its last part."""
        return self.model if self.commit else Path(self.model).resolve().name

    @property
    def version(self) -> str:
        """`NAME`, or `NAME@COMMIT` where there is one."""
        return f"{self.name}@{self.commit}" if self.commit else self.name


def locate_model(model: str) -> ModelLocation:
    """Look a model up.

    Raises:
        UsageError: it is neither a folder nor a repository that the Hub gives.
    """
    from huggingface_hub import hf_hub_download

    if Path(model).is_dir():
        return ModelLocation(model, None)
    try:
        with without_progress_bars():
            # .../snapshots/COMMIT/config.json
            return ModelLocation(model, Path(hf_hub_download(model, "config.json")).parent.name)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no model {model!r}: it is no folder here, and the Hub does not give its config.json ({summarize(error)})"
        ) from error


def load_config(location: ModelLocation) -> Any:
    """Return a model's configuration.

    Raises:
        UsageError: transformers cannot load it, or it is of a kind that is not shown images and asked.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config = loading.load_config(location.model, revision=location.commit)
    except LOAD_ERRORS as error:
        raise UsageError(f"{location.model} is no model that transformers can load: {summarize(error)}") from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UsageError(
            f"{location.model} is of the kind {config.model_type}, which is not shown pictures and asked; "
            "give an image-text-to-text model such as llava-hf/llava-1.5-7b-hf"
        )
    return config


def load_processor(location: ModelLocation) -> Any:
    """Return what turns prompts and images into a model's input, and tokens into text.

    Raises:
        UsageError: transformers cannot load it, or it lacks a part.
    """
    from jinja2 import TemplateError

    try:
        processor = loading.load_processor(location.model, revision=location.commit)
    except ImportError as error:
        # Such as torchvision, without which Qwen's cannot take videos, nor anything else.
        raise UsageError(
            f"the processor of {location.model} cannot be loaded: {summarize(error).partition('. ')[0]}; "
            "install the package that it names"
        ) from error
    except LOAD_ERRORS as error:
        raise UsageError(f"the processor of {location.model} cannot be loaded: {summarize(error)}") from error
    if not hasattr(processor, "image_processor"):
        raise UsageError(
            f"{location.model} has a tokenizer but no image processor; save its processor beside its weights"
        )
    if not processor.chat_template:
        raise UsageError(f"{location.model} has no chat template; give a model that was trained to follow instructions")
    try:
        content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
        processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except (TemplateError, TypeError) as error:
        raise UsageError(
            f"the chat template of {location.model} takes no question with a picture: {summarize(error)}"
        ) from error
    tokenizer = processor.tokenizer
    if tokenizer.eos_token is None:
        raise UsageError(f"the tokenizer of {location.model} has no end token; give another model")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return processor


def load_network(location: ModelLocation) -> Any:
    """Return a model with its weights, on the accelerator where there is one; takes minutes for a large one.

    Raises:
        TeacherError: they cannot be read.
    """
    import torch
    from safetensors import SafetensorError

    has_accelerator = torch.accelerator.is_available()
    try:
        network = loading.load_network(
            location.model,
            revision=location.commit,
            # Few CPUs are faster in bfloat16 than in float32.
            dtype=torch.bfloat16 if has_accelerator else torch.float32,
            # Over several accelerators where one is too small, and into main memory where all are.
            device_map="auto" if has_accelerator else None,
        )
    except (*LOAD_ERRORS, SafetensorError) as error:
        raise TeacherError(f"the weights of {location.model} cannot be loaded: {summarize(error)}") from error
    # The settings for chatting that come with a model would be reported as ignored at every batch.
    network.generation_config.update(do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None)
    return network.eval()


def summarize(error: BaseException) -> str:
    """Return the beginning of an error's text: transformers' go on for a page."""
    return one_line(str(error).strip().partition("\n")[0]) or type(error).__name__


# The longest draft that is let pass has 500 signs, about 125 tokens of English, and JSON around it; other scripts take
# twice as many. A small model that repeats itself without end holds its whole batch up for so long.
TOKENS_PER_QUESTION: Final = 256


@dataclass(frozen=True, slots=True)
class DecodedRequest:
    """A request with its image as pixels (RGB); None for a question that is asked blindly."""

    request: Request
    image: Image.Image | None


class LocalModel:
    """Look a model up; its weights are read when the first batch comes.

    Args:
        model (`str`): a folder, or a repository of the Hub.
        batch_size (`int`): requests that go into one batch; halved for good whenever the memory does not hold so many.

    Attributes:
        name (`str`): as it may be published: of a folder, its last part.

    Raises:
        UsageError: there is no such model, or it is none that can be shown an image and asked.
    """

    def __init__(self, model: str, *, batch_size: int) -> None:
        # First, as it brings torch and transformers along: where one of them is missing, so is this.
        from xgrammar import GrammarCompiler, TokenizerInfo

        self.batch_size = batch_size
        self._location = locate_model(model)
        self.name = self._location.name
        # The scores may be for more tokens than the tokenizer knows.
        vocab_size = load_config(self._location).get_text_config().vocab_size
        self._processor = load_processor(self._location)
        # Where the JSON is complete the grammar allows nothing but the end: any one end token does for that.
        self._eos_token_id: int = self._processor.tokenizer.eos_token_id
        try:
            tokenizer_info = TokenizerInfo.from_huggingface(
                self._processor.tokenizer, vocab_size=vocab_size, stop_token_ids=[self._eos_token_id]
            )
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"the tokenizer of {model} cannot be held to JSON: {summarize(error)}") from error
        self._grammar_compiler = GrammarCompiler(tokenizer_info)  # with a cache
        self._network: Any = None

    def generate(self, batch: Sequence[DecodedRequest], should_stop: Callable[[], bool]) -> list[Reply | Failure]:
        """Return one answer per request, in their order. Takes minutes where the weights are yet to be read.

        Args:
            batch: all with images, or all without.
            should_stop: asked before every token; once it says True, what is unfinished becomes failures.

        Raises:
            TeacherError: the weights cannot be read.
        """
        import torch
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        self._network = self._network or load_network(self._location)
        try:
            return self._generate(batch, should_stop)
        except (RuntimeError, ValueError) as error:
            # Said by a processor that cannot take an image, and by a device. The error itself must not live on: what
            # filled the memory hangs on its traceback.
            reason = summarize(error)
            is_oom = isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
        if is_oom:
            clear_device_cache(garbage_collection=True)
        if len(batch) == 1:
            prefix = f"too large for the memory of {self._network.device}: " if is_oom else ""
            return [Failure(batch[0].request.key, f"{self.name}: {prefix}{reason}", is_retryable=False)]
        middle = len(batch) // 2
        if is_oom:
            self.batch_size = min(self.batch_size, middle)
        # In halves it fits, or it comes out which request it is that fails.
        return self.generate(batch[:middle], should_stop) + self.generate(batch[middle:], should_stop)

    def _generate(self, batch: Sequence[DecodedRequest], should_stop: Callable[[], bool]) -> list[Reply | Failure]:
        import torch
        from transformers import StoppingCriteriaList
        from xgrammar.contrib.hf import LogitsProcessor

        def stop_all(input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
            return torch.full((len(input_ids),), should_stop(), device=input_ids.device)

        # Without whitespace but one space after commas and colons. Where more is allowed, small models write newlines
        # without end; where the order is free, xgrammar does not see to it that every field comes.
        grammars = [
            self._grammar_compiler.compile_json_schema(item.request.schema, any_whitespace=False) for item in batch
        ]
        limits = [TOKENS_PER_QUESTION * item.request.num_parts for item in batch]
        inputs = self._inputs(batch)
        with torch.inference_mode():
            tokens = self._network.generate(
                **inputs,
                max_new_tokens=max(limits),
                eos_token_id=self._eos_token_id,
                pad_token_id=self._processor.tokenizer.pad_token_id,
                logits_processor=[LogitsProcessor(grammars)],
                stopping_criteria=StoppingCriteriaList([stop_all]),
            )
        if should_stop():
            return [Failure(item.request.key, "ended before the answer was complete") for item in batch]
        counts = inputs["attention_mask"].sum(dim=1).tolist()
        new_tokens = tokens[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            self._make_reply(item.request, count, row[:limit])
            for item, count, row, limit in zip(batch, counts, new_tokens, limits, strict=True)
        ]

    def _inputs(self, batch: Sequence[DecodedRequest]) -> Any:
        conversations = []
        for item in batch:
            image_content = [] if item.image is None else [{"type": "image", "image": item.image}]
            prompt = {"type": "text", "text": item.request.prompt}
            conversations.append([{"role": "user", "content": [*image_content, prompt]}])
        return self._processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            # The template writes the special tokens itself; answers follow at the end, so padding stands in front;
            # a maximum length that training left in the tokenizer is none of ours.
            processor_kwargs={"padding": True, "padding_side": "left", "add_special_tokens": False, "max_length": None},
        ).to(self._network.device, dtype=self._network.dtype)

    def _make_reply(self, request: Request, input_tokens: int, tokens: list[int]) -> Reply:
        """Turn a row of new tokens, no more than its limit, into a reply: what has no end there was cut."""
        text, refused = "", "finish reason MAX_TOKENS"
        if self._eos_token_id in tokens:
            tokens = tokens[: tokens.index(self._eos_token_id) + 1]
            # With tidied spaces it would be another answer.
            text = self._processor.tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            refused = ""
        return Reply(
            request.key,
            text=text,
            refused=refused,
            model=f"local:{self._location.version}",
            input_tokens=input_tokens,
            output_tokens=len(tokens),
        )
