"""The contact sheet: pictures with their questions, answers and capabilities, by k; and with drafts that were dropped.

In: `Shown` pictures. Out: an HTML fragment with the pictures inside it (for the report and other pages), or a page of
its own; cards.py draws the same as one PNG.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from compact_hf.records import Reject, Turn
from compact_hf.reports.theme import spoken

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_THUMB: Final = 400
_QUALITY: Final = 82


class HasK(Protocol):
    """What belongs to one k."""

    @property
    def k(self) -> int: ...


T = TypeVar("T", bound=HasK)


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as the contact sheet shows it.

    Attributes:
        picture (`bytes`): the encoded file.
        k (`int`): the complexity all its turns share.
        turns (`tuple[Turn, ...]`): its accepted questions and answers.
        caption (`str`): where it comes from, such as its ref; never an absolute path.
        dropped (`tuple[Reject, ...]`): drafts about it that were dropped: their questions are the subjects.
    """

    picture: bytes
    k: int
    turns: tuple[Turn, ...]
    caption: str = ""
    dropped: tuple[Reject, ...] = ()

    def entries(self) -> Iterator[Entry]:
        """Yield what is written below the picture, in order."""
        for turn in self.turns:
            found = ", ".join(map(spoken, turn.verified_capabilities)) or "nothing"
            differs = set(turn.verified_capabilities) != set(turn.capabilities)
            yield Entry(turn.question, turn.answer, turn.capabilities, f"the verifier found {found}" if differs else "")
        for reject in self.dropped:
            yield Entry(reject.subject, reject.reason, reject.capabilities, reject.detail, dropped=True)


@dataclass(frozen=True, slots=True)
class Entry:
    """A question on the sheet.

    Attributes:
        question (`str`): as the teacher wrote it.
        verdict (`str`): its answer; of a dropped one the reason.
        capabilities (`tuple[str, ...]`): those that were asked for.
        note (`str`): what else there is to say, empty where nothing is.
        dropped (`bool`): whether it was.
    """

    question: str
    verdict: str
    capabilities: tuple[str, ...]
    note: str = ""
    dropped: bool = False


def pick(shown: Iterable[T], count: int) -> tuple[T, ...]:
    """Return at most `count` pictures, as evenly over k as there are, the first of each k, ordered by k."""
    by_k: dict[int, list[T]] = {}
    for one in shown:
        by_k.setdefault(one.k, []).append(one)
    taken = dict.fromkeys(sorted(by_k), 0)
    for _ in range(count):
        open_ks = [k for k in taken if taken[k] < len(by_k[k])]
        if not open_ks:
            break
        taken[min(open_ks, key=lambda k: taken[k])] += 1
    return tuple(one for k, number in taken.items() for one in by_k[k][:number])


def fragment(shown: Sequence[Shown]) -> str:
    """Return the pictures as HTML, one section per k. The page around it is laid out by layout.html.jinja.

    Everything written by a teacher is escaped. Pictures are WebP data URLs, at most 400 pixels on a side.
    """
    from compact_hf.reports.page import environment

    sections = {k: [one for one in shown if one.k == k] for k in sorted({one.k for one in shown})}
    return environment().get_template("contact_sheet.html.jinja").render(sections=sections, thumbnail=thumbnail)


def page(shown: Sequence[Shown], *, title: str, summary: Sequence[str]) -> str:
    """Return the pictures as one HTML document that needs nothing beside it: no network, no script, no other file.

    Args:
        title (`str`): the heading.
        summary (`Sequence[str]`): sentences that say what this is.
    """
    from compact_hf.reports.page import environment

    template = environment().get_template("contact_sheet_page.html.jinja")
    return template.render(title=title, summary=summary, sheet=fragment(shown))


def thumbnail(picture: bytes) -> dict[str, Any]:
    """Return `url` (a data URL), `width` and `height` in pixels of a picture, made small."""
    from PIL import Image

    small = upright_rgb(picture)
    small.thumbnail((_THUMB, _THUMB), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, format="WEBP", quality=_QUALITY, method=4)
    url = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    return {"url": url, "width": small.width, "height": small.height}


def upright_rgb(picture: bytes) -> PillowImage.Image:
    """Return the picture the right way up, what is transparent on white paper."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(picture)) as opened:
        upright = ImageOps.exif_transpose(opened)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
