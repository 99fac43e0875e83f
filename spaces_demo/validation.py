"""What visitors may hand in: Gradio's images, texts and keys in, checked values out, or a line on what is allowed.

Browsers have limits of their own, which bind nobody who calls the API: everything is checked here, on the server.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio.data_classes import GradioRootModel, ImageData
from gradio.utils import is_in_or_equal
from pydantic import ConfigDict

from compact_hf.images.codec import ImageError, clean_image, decode, open_header, strip_metadata
from compact_hf.images.inspection import MIN_EDGE

MAX_BYTES: Final = 10_000_000
"""Of an uploaded image: what a telephone makes."""
MAX_PIXELS: Final = 40_000_000
"""Of an image: decoded they are 120 MB."""
MAX_QUESTION_CHARS: Final = 300
_MAX_KEY_CHARS: Final = 200
# An image's place in the text is the template's to mark, and so are an answer's end and a sequence's beginning.
_SPECIAL_TOKENS: Final = re.compile(r"<image>|<pad>|<unk>|</?s>", re.IGNORECASE)
_CONTROL_CHARS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def input_error(message: str) -> gr.Error:
    """Return an error that the visitor sees and the log does not."""
    return gr.Error(message, print_exception=False)


class ImageInput(gr.Image):
    """Gradio's image input, handing over the encoded file without its metadata: checked, and never opened by Gradio.

    `None` where there is no image. Raises `gr.Error` where it is none, is broken, too small or too large.
    """

    is_template = True

    def preprocess(self, payload: ImageData | None) -> bytes | None:
        """Return the file's bytes, upright, without EXIF."""
        if payload is None or not payload.path:
            return None
        # Gradio asks this of files that say what they are, and lets through those that leave it out.
        if not is_in_or_equal(payload.path, self.GRADIO_CACHE):
            raise input_error("The picture is none that was uploaded here.")
        path = Path(payload.path)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise input_error(f"The file is too large; at most {MAX_BYTES // 1_000_000} MB are taken.")
            return check_image(path.read_bytes())
        except OSError as error:
            raise input_error("The picture is not here any more; choose it again.") from error


def check_image(data: bytes) -> bytes:
    """Return an image without its metadata, the right way up.

    Raises:
        gr.Error: it is no image, cannot be decoded to its end, or is too large or too small.
    """
    try:
        image_bytes = strip_metadata(data)
        width, height = open_header(image_bytes).size
        if width * height > MAX_PIXELS:
            raise input_error(
                f"The picture has {width} x {height} pixels; at most {MAX_PIXELS // 1_000_000} million are taken."
            )
        if min(width, height) < MIN_EDGE:
            raise input_error(f"The picture has {width} x {height} pixels; each edge needs at least {MIN_EDGE}.")
        decode(image_bytes, target_edge=1)
        return clean_image(data)
    except ImageError as error:
        raise input_error(
            f"This cannot be read as a picture ({error.reason}); JPEG, PNG, WebP and GIF are taken."
        ) from None


def check_question(text: Any) -> str:
    """Return a visitor's question, or raise `gr.Error` where it has the wrong length or holds a model's own marks."""
    question = " ".join(text.split()) if isinstance(text, str) else ""
    if not 1 <= len(question) <= MAX_QUESTION_CHARS:
        raise input_error(f"The question has {len(question)} characters; 1 to {MAX_QUESTION_CHARS} are allowed.")
    if _SPECIAL_TOKENS.search(question) or _CONTROL_CHARS.search(question):
        raise input_error("The question holds signs that are the model's own, such as <image>; leave them out.")
    return question


class _SecretValue(GradioRootModel):
    """A value that Gradio passes on and does not keep."""

    model_config = ConfigDict(hide_input_in_errors=True)

    root: str | None

    def model_dump(self, **_: Any) -> str:
        """Return nothing: this is what goes into the session's state, and from there into files."""
        return ""


class KeyTextbox(gr.Textbox):
    """A password field whose value reaches the function and nothing else: no state, no log, no error."""

    is_template = True
    data_model = _SecretValue

    def preprocess(self, payload: _SecretValue | None) -> str:
        """Return the key; empty where none was given. Raises `gr.Error` where it cannot be one."""
        key = (payload.root or "").strip() if payload is not None else ""
        if len(key) > _MAX_KEY_CHARS or not re.fullmatch(r"[\x21-\x7e]*", key):
            raise input_error("This is no key: it is too long, or holds characters that no key has. Copy it again.")
        return key
