"""Checks the images, questions and API keys of visitors, and raises errors that state what is allowed.

The limits of the page in a browser do not apply to clients of the API, so all inputs are checked here, on the server.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio.data_classes import GradioRootModel, ImageData
from gradio.utils import is_in_or_equal
from pydantic import ConfigDict

from compact_hf.images.codec import ImageError, clean_image, decode, encode_for_teacher, open_header, strip_metadata
from compact_hf.images.inspection import MIN_EDGE
from compact_hf.images.source import MAX_EDGE

MAX_BYTES: Final = 10_000_000
"""Maximum size of an uploaded image; photos of phones are smaller."""
MAX_JPEG_PIXELS: Final = 50_000_000
"""Maximum number of pixels of a JPEG, as phones take them. It is decoded at 1/8 of its size if it is large."""
MAX_PIXELS: Final = 16_000_000
"""Maximum number of pixels of other images, which are decoded at full size; with transparency this takes 240 MB."""
MAX_QUESTION_CHARS: Final = 300
_MAX_KEY_CHARS: Final = 200
# Special tokens, such as those for the position of an image and the end of a sequence. Only the chat template may add
# them to a prompt.
_SPECIAL_TOKENS: Final = re.compile(r"<image>|<pad>|<unk>|</?s>", re.IGNORECASE)
# C0 and C1 control characters except tab and line feed, and Unicode's controls of text direction.
_CONTROL_CHARS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def input_error(message: str) -> gr.Error:
    """Return an error that is shown to the visitor and not written to the log."""
    return gr.Error(message, print_exception=False)


class ImageInput(gr.Image):
    """An image input that passes on the encoded file, checked and without metadata. Gradio never opens the file.

    Its value is None if there is no image. It raises `gr.Error` if the file is not an image, is damaged, or is too
    small or too large.
    """

    # Gradio then uses the frontend of the parent class.
    is_template = True

    def preprocess(self, payload: ImageData | None) -> bytes | None:
        """Return the bytes of the file without metadata, with the EXIF orientation applied."""
        if payload is None or not payload.path:
            return None
        # Gradio checks the path only if the client sends the type of the file, which a client may leave out.
        if not is_in_or_equal(payload.path, self.GRADIO_CACHE):
            raise input_error("The image was not uploaded to this Space.")
        path = Path(payload.path)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise input_error(f"The file is too large; at most {MAX_BYTES // 1_000_000} MB are allowed.")
            return check_image(path.read_bytes())
        except OSError as error:
            raise input_error("The image has been deleted: upload it again.") from error


def check_image(data: bytes) -> bytes:
    """Return an encoded image without metadata, with the EXIF orientation applied.

    An image whose longer edge has more than `MAX_EDGE` pixels is scaled down to it. The models see fewer pixels, and
    their image processors need half a minute and 0.5 GB for the largest images.

    Raises:
        gr.Error: the data is not an image, cannot be decoded completely, or the image is too large or too small.
    """
    try:
        image_file = strip_metadata(data)
        # The size is checked before any pixel is decoded.
        width, height = open_header(image_file).size
        max_pixels = MAX_JPEG_PIXELS if image_file.format == "JPEG" else MAX_PIXELS
        if width * height > max_pixels:
            raise input_error(
                f"The image has {width} x {height} pixels; at most {max_pixels // 1_000_000} million are allowed."
            )
        if min(width, height) < MIN_EDGE:
            raise input_error(f"The image has {width} x {height} pixels; each side needs at least {MIN_EDGE}.")
        if max(width, height) > MAX_EDGE:
            return encode_for_teacher(data)
        # Finds truncated files.
        decode(image_file)
        return clean_image(data)
    except ImageError as error:
        raise input_error(
            f"The file cannot be read as an image ({error.reason}): use JPEG, PNG, WebP or GIF."
        ) from None


def check_question(text: Any) -> str:
    """Return the question of a visitor, with single spaces.

    Raises:
        gr.Error: the question is empty or too long, or has special tokens of a model or control characters.
    """
    question = " ".join(text.split()) if isinstance(text, str) else ""
    if not 1 <= len(question) <= MAX_QUESTION_CHARS:
        raise input_error(f"The question has {len(question)} characters; 1 to {MAX_QUESTION_CHARS} are allowed.")
    if _SPECIAL_TOKENS.search(question) or _CONTROL_CHARS.search(question):
        raise input_error(
            "The question has special tokens of the model, such as <image>, or control characters: remove them."
        )
    return question


class _SecretValue(GradioRootModel):
    """A value that Gradio passes to the function and does not store."""

    # Otherwise pydantic quotes the key in its error messages.
    model_config = ConfigDict(hide_input_in_errors=True)

    root: str | None

    def model_dump(self, **_: Any) -> str:
        """Return an empty string: Gradio stores the result in the state of the session, and from there in files."""
        return ""


class KeyTextbox(gr.Textbox):
    """A password field whose value is passed only to the function: not to the state, the log or an error message."""

    is_template = True
    data_model = _SecretValue

    def preprocess(self, payload: _SecretValue | None) -> str:
        """Return the key, empty if none was entered.

        Raises:
            gr.Error: the value cannot be a key.
        """
        key = (payload.root or "").strip() if payload is not None else ""
        # Visible ASCII characters only: the key becomes the value of an HTTP header.
        if len(key) > _MAX_KEY_CHARS or not re.fullmatch(r"[\x21-\x7e]*", key):
            raise input_error("This is not an API key: it is too long, or has invalid characters. Copy it again.")
        return key
