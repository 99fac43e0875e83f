"""Finds, checks and loads a vision-language model on this machine, and generates JSON replies in batches.

Any image-text-to-text model of transformers from a directory or the Hub is supported; an unsuitable model is rejected
before its weights are loaded. Decoding is constrained to the schema of each request (xgrammar), so a reply is valid
JSON of that schema unless it was truncated. This module is synchronous: local.py waits for requests and forms batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import TeacherError, UsageError
from compact_hf.models import loading
from compact_hf.models.chat_template import check_image_question
from compact_hf.models.finite import NonFiniteLogitsError, require_finite_logits
from compact_hf.models.loading import LOAD_ERRORS, without_progress_bars
from compact_hf.teachers.base import Failure, FailureKind, Reply, Request
from compact_hf.teachers.http import one_line
from compact_hf.teachers.reader import is_complete_json

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Location of a model's files.

    Attributes:
        model (`str`): the directory, or the name of the repository.
        commit (`str | None`): newest commit of the repository when it was looked up; None for a directory.
    """

    model: str
    commit: str | None

    @property
    def name(self) -> str:
        """The name of the model for publication: the repository, or only the last part of a directory's path."""
        return self.model if self.commit else Path(self.model).resolve().name

    @property
    def version(self) -> str:
        """`NAME@COMMIT` for a repository, `NAME` for a directory."""
        return f"{self.name}@{self.commit}" if self.commit else self.name


def locate_model(model: str) -> ModelLocation:
    """Return the location of a model: a local directory, or else a repository at its newest commit.

    Args:
        model (`str`): a directory, or a repository on the Hub.

    Raises:
        UsageError: the model is neither a directory nor a repository that can be read.
    """
    from huggingface_hub import constants, hf_hub_download

    if Path(model).is_dir():
        return ModelLocation(model, None)
    try:
        with without_progress_bars():
            # .../snapshots/COMMIT/config.json
            return ModelLocation(model, Path(hf_hub_download(model, "config.json")).parent.name)
    except (OSError, ValueError) as error:
        if constants.is_offline_mode():
            raise UsageError(
                f"model {model!r} is neither a directory nor in the Hub's cache: check the name, or unset "
                "HF_HUB_OFFLINE once to download it"
            ) from error
        raise UsageError(
            f"model {model!r} was not found (not a directory; no config.json on the Hub: {summarize(error)}): "
            "check the name"
        ) from error


def load_config(location: ModelLocation) -> Any:
    """Load the configuration of a model, and check that it is an image-text-to-text model.

    Args:
        location (`ModelLocation`): the model.

    Raises:
        UsageError: transformers cannot load it, or it is not an image-text-to-text model.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config = loading.load_config(location.model, revision=location.commit)
    except LOAD_ERRORS as error:
        raise UsageError(f"{location.model} cannot be loaded by transformers: {summarize(error)}") from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UsageError(
            f"{location.model} is not an image-text-to-text model (its type is {config.model_type}): "
            "use one such as llava-hf/llava-1.5-7b-hf"
        )
    return config


def load_processor(location: ModelLocation, config: Any) -> Any:
    """Load the processor of a model, and check its image processor, chat template and tokenizer.

    Args:
        location (`ModelLocation`): the model.
        config (`PreTrainedConfig`): its configuration, from which an incomplete processor is completed.

    Raises:
        UsageError: transformers cannot load the processor, or a part of it is missing or unsuitable.
    """
    try:
        processor = loading.load_processor(location.model, config, revision=location.commit)
    except ImportError as error:
        # For example torchvision: Qwen's processor needs it for videos, and cannot be loaded without it.
        raise UsageError(
            f"the processor of {location.model} cannot be loaded ({summarize(error).partition('. ')[0]}): "
            "install the missing package"
        ) from error
    except LOAD_ERRORS as error:
        raise UsageError(f"the processor of {location.model} cannot be loaded: {summarize(error)}") from error
    if not hasattr(processor, "image_processor"):
        raise UsageError(
            f"{location.model} has a tokenizer but no image processor: save its processor next to its weights"
        )
    if not processor.chat_template:
        raise UsageError(f"{location.model} has no chat template: use an instruction-tuned model")
    try:
        check_image_question(processor)
    except ValueError as error:
        raise UsageError(f"{location.model} cannot be used: {summarize(error)}; use another model") from error
    if processor.tokenizer.eos_token is None:
        raise UsageError(f"the tokenizer of {location.model} has no end-of-sequence token: use another model")
    return processor


def load_network(location: ModelLocation) -> Any:
    """Load a model with its weights, on accelerators if there are any; a large model takes minutes.

    Args:
        location (`ModelLocation`): the model.

    Raises:
        TeacherError: the weights cannot be loaded.
    """
    import torch
    from safetensors import SafetensorError

    has_accelerator = torch.accelerator.is_available()
    try:
        network = loading.load_network(
            location.model,
            revision=location.commit,
            # On most CPUs bfloat16 is slower than float32.
            dtype=torch.bfloat16 if has_accelerator else torch.float32,
            # `auto` splits the model over several accelerators if one is too small, and uses main memory for the rest.
            device_map="auto" if has_accelerator else None,
        )
    except (*LOAD_ERRORS, SafetensorError) as error:
        raise TeacherError(f"the weights of {location.model} cannot be loaded: {summarize(error)}") from error
    # Greedy decoding. The sampling settings are unset too, because transformers would warn at every batch that it
    # ignores them.
    network.generation_config.update(do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None)
    return network.eval()


def summarize(error: BaseException) -> str:
    """Return the first line of an error's message; messages of transformers may fill a page.

    Args:
        error (`BaseException`): the error.
    """
    return one_line(str(error).strip().partition("\n")[0]) or type(error).__name__


# Maximum number of new tokens per part of a reply. The longest draft that the filters accept has 500 characters, about
# 125 tokens of English, plus JSON; other scripts need twice as many. Not higher, because a small model that repeats
# itself delays its whole batch until this limit.
TOKENS_PER_QUESTION: Final = 256


@dataclass(frozen=True, slots=True)
class DecodedRequest:
    """A request with its decoded image.

    Attributes:
        request (`Request`): the request.
        image (`PIL.Image.Image | None`): the image in RGB mode; None for a request without an image.
    """

    request: Request
    image: Image.Image | None


class LocalModel:
    """A model that writes JSON replies in batches. Its weights are loaded at the first batch.

    Args:
        model (`str`): a directory, or a repository on the Hub.
        batch_size (`int`): maximum number of requests in a batch; halved permanently whenever a batch does not fit into
            the memory.

    Attributes:
        name (`str`): name of the model for publication: the repository, or the last part of a directory's path.

    Raises:
        UsageError: the model does not exist, or is not a suitable image-text-to-text model.
    """

    def __init__(self, model: str, *, batch_size: int) -> None:
        # First, because xgrammar depends on torch and transformers: if the extra is not installed, this import fails.
        from xgrammar import GrammarCompiler, TokenizerInfo

        self.batch_size = batch_size
        self._location = locate_model(model)
        self.name = self._location.name
        # The size of the model's output, which may be larger than the tokenizer's vocabulary because of padding.
        config = load_config(self._location)
        vocab_size = config.get_text_config().vocab_size
        self._processor = load_processor(self._location, config)
        # When the JSON is complete, the grammar allows only an end token, so one of them is sufficient.
        self._eos_token_id: int = self._processor.tokenizer.eos_token_id
        try:
            tokenizer_info = TokenizerInfo.from_huggingface(
                self._processor.tokenizer, vocab_size=vocab_size, stop_token_ids=[self._eos_token_id]
            )
        except (ValueError, RuntimeError) as error:
            raise UsageError(
                f"the tokenizer of {model} does not support constrained decoding: {summarize(error)}"
            ) from error
        self._grammar_compiler = GrammarCompiler(tokenizer_info)  # caches compiled schemas
        self._network: Any = None

    def generate(self, batch: Sequence[DecodedRequest], should_stop: Callable[[], bool]) -> list[Reply | Failure]:
        """Return one result per request of a batch, in their order.

        The first call loads the weights, which may take minutes.

        Args:
            batch (`Sequence[DecodedRequest]`): the requests; either all have an image, or none has.
            should_stop (`Callable[[], bool]`): called before each token; once it returns True, all requests of the
                batch fail.

        Raises:
            TeacherError: the weights cannot be loaded, or logits are not finite.
        """
        import torch
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        self._network = self._network or load_network(self._location)
        try:
            return self._generate(batch, should_stop)
        except NonFiniteLogitsError as error:
            # The fault of the model, so that no other request would be answered either.
            raise TeacherError(f"{self.name} cannot answer: {error}") from error
        except (RuntimeError, ValueError) as error:
            # Raised by a processor that rejects an image, and by a device without memory. Keep only the message: the
            # traceback references the tensors that filled the memory.
            reason = summarize(error)
            is_oom = isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
        if is_oom:
            clear_device_cache(garbage_collection=True)
        if len(batch) == 1:
            prefix = f"too large for the memory of {self._network.device}: " if is_oom else ""
            return [Failure(batch[0].request.key, f"{self.name}: {prefix}{reason}", FailureKind.LOST)]
        middle = len(batch) // 2
        if is_oom:
            self.batch_size = min(self.batch_size, middle)
        # Halving makes the batch fit, or isolates the request that fails.
        return self.generate(batch[:middle], should_stop) + self.generate(batch[middle:], should_stop)

    def _generate(self, batch: Sequence[DecodedRequest], should_stop: Callable[[], bool]) -> list[Reply | Failure]:
        """Generate replies to one batch; may raise if the memory is too small or an image is rejected."""
        import torch
        from transformers import StoppingCriteriaList
        from xgrammar.contrib.hf import LogitsProcessor

        def stop_all(input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
            return torch.full((len(input_ids),), should_stop(), device=input_ids.device)

        # No whitespace except one space after commas and colons: if more is allowed, small models write endless
        # newlines. The order of fields is fixed: if it is free, xgrammar does not enforce that every field is present.
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
                # First the logits are checked; then the grammar excludes tokens, by setting their logits to -inf.
                logits_processor=[require_finite_logits, LogitsProcessor(grammars)],
                stopping_criteria=StoppingCriteriaList([stop_all]),
            )
        if should_stop():
            return [Failure(item.request.key, "ended before the answer was complete") for item in batch]
        # attention_mask: (batch, input tokens), 0 for padding. tokens: (batch, input tokens + new tokens).
        counts = inputs["attention_mask"].sum(dim=1).tolist()
        new_tokens = tokens[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            self._make_reply(item.request, count, row[:limit])
            for item, count, row, limit in zip(batch, counts, new_tokens, limits, strict=True)
        ]

    def _inputs(self, batch: Sequence[DecodedRequest]) -> Any:
        """Return the model inputs of a batch: input_ids and attention_mask `(batch, tokens)`, and its images."""
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
            # The template writes the special tokens itself. Padding is on the left, because generation continues at the
            # end. `max_length` None overrides a maximum length that training may have left in the tokenizer.
            processor_kwargs={"padding": True, "padding_side": "left", "add_special_tokens": False, "max_length": None},
        ).to(self._network.device, dtype=self._network.dtype)

    def _make_reply(self, request: Request, input_tokens: int, tokens: list[int]) -> Reply:
        """Return a row of new tokens, truncated to its limit, as a reply; a row with incomplete JSON is a refusal."""
        refused = ""
        if self._eos_token_id in tokens:
            tokens = tokens[: tokens.index(self._eos_token_id) + 1]
        # `clean_up_tokenization_spaces` would change the text of the answer.
        text = self._processor.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if not is_complete_json(text):
            text, refused = "", "finish reason MAX_TOKENS"
        return Reply(
            request.key,
            text=text,
            refused=refused,
            model=f"local:{self._location.version}",
            input_tokens=input_tokens,
            output_tokens=len(tokens),
        )
