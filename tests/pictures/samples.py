"""Made-up pictures, turns and scores, and words that would be markup if nobody escaped them."""

from __future__ import annotations

import io
import random
from functools import cache

from PIL import Image

from compact_hf.capabilities import CAPABILITIES
from compact_hf.pictures.contact_sheet import Shown
from compact_hf.pictures.scores import Interval, Score
from compact_hf.records import Turn

HOSTILE = "<script>alert('1')</script> & \"quotes\""


@cache
def picture(seed: int, size: tuple[int, int] = (336, 336)) -> bytes:
    """Return a PNG file of noise, the worst there is for a picture's size in bytes."""
    file = io.BytesIO()
    noise = random.Random(seed).randbytes(3 * size[0] * size[1])
    Image.frombytes("RGB", size, noise).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def shown(seed: int, k: int, *, question: str = "What is the word on the sign?") -> Shown:
    """Return a picture with two turns of k capabilities."""
    names = tuple(CAPABILITIES)[:k]
    return Shown(picture(seed % 24), k, (Turn(question, "OPEN", names, names, 95),) * 2, f"scene:{seed}")


def score(label: str, n: int = 50) -> Score:
    """Return made-up shares of two models."""
    return Score(label, n, 0.3, (Interval(0.1, 0.05, 0.2), Interval(0.6, 0.5, 0.7)))
