"""Finding a vision-language model, saying at once what is wrong with it, and reading its weights.

In: a folder or a repository of the Hub. Out: transformers' objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compact_hf.errors import TeacherError, UsageError
from compact_hf.teachers.http import one_line

# What transformers raises for a repository or folder that lacks something, or holds what it does not know.
_CANNOT_LOAD: Final = (OSError, ValueError, KeyError, RuntimeError, ImportError)


@dataclass(frozen=True, slots=True)
class Place:
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


def located(model: str) -> Place:
    """Look a model up.

    Raises:
        UsageError: it is neither a folder nor a repository that the Hub gives.
    """
    from huggingface_hub import hf_hub_download

    if Path(model).is_dir():
        return Place(model, None)
    try:
        with _without_progress_bars():
            # .../snapshots/COMMIT/config.json
            return Place(model, Path(hf_hub_download(model, "config.json")).parent.name)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no model {model!r}: it is no folder here, and the Hub does not give its config.json ({line_of(error)})"
        ) from error


def config_of(place: Place) -> Any:
    """Return a model's configuration.

    Raises:
        UsageError: transformers cannot load it, or it is of a kind that is not shown pictures and asked.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(place.model, revision=place.commit)
    except _CANNOT_LOAD as error:
        raise UsageError(f"{place.model} is no model that transformers can load: {line_of(error)}") from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UsageError(
            f"{place.model} is of the kind {config.model_type}, which is not shown pictures and asked; "
            "give an image-text-to-text model such as llava-hf/llava-1.5-7b-hf"
        )
    return config


def processor_of(place: Place) -> Any:
    """Return what turns prompts and pictures into a model's input, and tokens into text.

    Raises:
        UsageError: transformers cannot load it, or it lacks a part.
    """
    from jinja2 import TemplateError
    from transformers import AutoProcessor

    try:
        with _without_progress_bars():
            processor = AutoProcessor.from_pretrained(place.model, revision=place.commit)
    except ImportError as error:
        # Such as torchvision, without which Qwen's cannot take videos, nor anything else.
        raise UsageError(
            f"the processor of {place.model} cannot be loaded: {line_of(error).partition('. ')[0]}; "
            "install the package that it names"
        ) from error
    except _CANNOT_LOAD as error:
        raise UsageError(f"the processor of {place.model} cannot be loaded: {line_of(error)}") from error
    if not hasattr(processor, "image_processor"):
        raise UsageError(f"{place.model} has a tokenizer but no image processor; save its processor beside its weights")
    if not processor.chat_template:
        raise UsageError(f"{place.model} has no chat template; give a model that was trained to follow instructions")
    try:
        content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
        processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except (TemplateError, TypeError) as error:
        raise UsageError(
            f"the chat template of {place.model} takes no question with a picture: {line_of(error)}"
        ) from error
    tokenizer = processor.tokenizer
    if tokenizer.eos_token is None:
        raise UsageError(f"the tokenizer of {place.model} has no end token; give another model")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return processor


def network_of(place: Place) -> Any:
    """Return a model with its weights, on the accelerator where there is one; takes minutes for a large one.

    Raises:
        TeacherError: they cannot be read.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    has_accelerator = torch.accelerator.is_available()
    try:
        with _without_progress_bars():
            network = AutoModelForImageTextToText.from_pretrained(
                place.model,
                revision=place.commit,
                # Few CPUs are faster in bfloat16 than in float32.
                dtype=torch.bfloat16 if has_accelerator else torch.float32,
                # Over several accelerators where one is too small, and into main memory where all are.
                device_map="auto" if has_accelerator else None,
            )
    except (*_CANNOT_LOAD, SafetensorError) as error:
        raise TeacherError(f"the weights of {place.model} cannot be loaded: {line_of(error)}") from error
    # The settings for chatting that come with a model would be reported as ignored at every batch.
    network.generation_config.update(do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None)
    return network.eval()


def line_of(error: BaseException) -> str:
    """Return the beginning of an error's text: transformers' go on for a page."""
    return one_line(str(error).strip().partition("\n")[0]) or type(error).__name__


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keep transformers' and the Hub's bars off the terminal: the library talks to its caller only."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
