"""The contact sheet: images with their questions, answers and capabilities, by k; and with drafts that were dropped.

`Shown` images become an HTML fragment with the images inside it (for the report and other pages), a page, or one PNG
for a README or a card on the Hub, the same on every machine.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from compact_hf.records import Reject, Turn
from compact_hf.reports.theme import group_of, k_tone, spoken, tone

if TYPE_CHECKING:
    from PIL import Image as PillowImage
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

_CARD: Final = 400
_GAP: Final = 20
_PAD: Final = 16
# A runaway question or answer is cut after this many lines, so that no card can outgrow its paper.
_LINES: Final = 6
_TALLEST_TURN: Final = 2 * _LINES * 23 + _LINES * 18 + 4 * 22 + 38
_LABEL: Final = 84


def sheet(shown: Sequence[Shown], *, columns: int = 3) -> bytes:
    """Return the pictures with their questions as one PNG file, `columns` side by side."""
    from PIL import Image

    cards = [_card(one) for one in shown]
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    heights = [max(card.height for card in row) for row in rows]
    width = columns * _CARD + (columns + 1) * _GAP
    sheet = Image.new("RGB", (width, sum(heights) + _GAP * (len(rows) + 1)), tone("ground"))
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            backing = Image.new("RGB", (_CARD, height), tone("paper"))
            backing.paste(card)
            sheet.paste(backing, (_GAP + column * (_CARD + _GAP), top))
        top += height + _GAP
    file = io.BytesIO()
    sheet.save(file, format="PNG")  # `optimize` takes four times as long for 2% less
    return file.getvalue()


def ladder(picture: bytes, entries: Sequence[Entry]) -> bytes:
    """Return one picture and, from top to bottom beside it, questions about it with their k, as one PNG file."""
    from PIL import Image, ImageDraw, ImageOps

    shown = ImageOps.contain(upright_rgb(picture), (_CARD, _CARD), Image.Resampling.LANCZOS)
    labels = _GAP + _CARD + _GAP
    words = labels + _LABEL
    size = (words + _CARD - _PAD, _CARD + 2 * _GAP + _TALLEST_TURN * len(entries))
    paper = Image.new("RGB", size, tone("paper"))
    paper.paste(shown, (_GAP, _GAP))
    pen, top = ImageDraw.Draw(paper), _GAP
    for entry in entries:
        k = len(entry.capabilities)
        _label(pen, (labels, top), f"k = {k}", fill=tone(k_tone(k)))
        top = _write(pen, entry, top + 2, left=words)
    file = io.BytesIO()
    paper.crop((0, 0, paper.width, max(shown.height + 2 * _GAP, top))).save(file, format="PNG")
    return file.getvalue()


def _card(one: Shown) -> PillowImage.Image:
    """Draw one picture with its k and what is written about it; the height is what the words need."""
    from PIL import Image, ImageDraw, ImageOps

    picture = ImageOps.contain(upright_rgb(one.picture), (_CARD, _CARD), Image.Resampling.LANCZOS)
    entries = tuple(one.entries())
    card = Image.new("RGB", (_CARD, picture.height + _PAD + _TALLEST_TURN * len(entries)), tone("paper"))
    card.paste(picture, ((_CARD - picture.width) // 2, 0))
    pen = ImageDraw.Draw(card)
    _label(pen, (10, 10), f"k = {one.k}", fill=tone(k_tone(one.k)))
    top = picture.height + _PAD
    for entry in entries:
        top = _write(pen, entry, top)
    return card.crop((0, 0, _CARD, top))


def _write(pen: ImageDraw, entry: Entry, top: int, *, left: int = _PAD) -> int:
    """Write an entry from `top` on, to the right of `left`, a card's width; return where the next one starts."""
    edge = left + _CARD - 2 * _PAD
    verdict = f"dropped: {entry.verdict}" if entry.dropped else entry.verdict
    for text, font, color, height in (
        (entry.question, _font(17), "ink", 23),
        (verdict, _font(17, bold=True), "ink" if entry.dropped else "accent", 23),
        (entry.note, _font(13), "muted", 18),
    ):
        for line in _lines(text, font, _CARD - 2 * _PAD)[:_LINES] if text else ():
            pen.text((left, top), line, font=font, fill=tone(color))
            top += height
    place = left
    for name in entry.capabilities:
        width = 16 + round(_font(13).getlength(spoken(name)))
        if place + width > edge:
            place, top = left, top + 22
        pen.rounded_rectangle((place, top + 6, place + 10, top + 16), 2, fill=tone(group_of(name)))
        pen.text((place + 16, top + 3), spoken(name), font=_font(13), fill=tone("muted"))
        place += width + 14
    return top + 38


def _label(pen: ImageDraw, place: tuple[int, int], text: str, *, fill: str) -> None:
    left, top = place
    font = _font(16, bold=True)
    dark = sum(bytes.fromhex(fill[1:])) < 3 * 140
    pen.rounded_rectangle((left, top, left + font.getlength(text) + 16, top + 27), 6, fill=fill)
    pen.text((left + 8, top + 4), text, font=font, fill=tone("paper" if dark else "ink"))


def _lines(text: str, font: FreeTypeFont, width: int) -> list[str]:
    """Break a text at spaces so that no line is wider than `width` pixels, long words apart."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@cache
def _font(size: int, *, bold: bool = False) -> FreeTypeFont:
    """Return DejaVu Sans as matplotlib ships it, so that the sheet is the same on every machine."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", name)), size)


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
    from compact_hf.reports.theme import environment

    sections = {k: [one for one in shown if one.k == k] for k in sorted({one.k for one in shown})}
    return environment().get_template("contact_sheet.html.jinja").render(sections=sections, thumbnail=thumbnail)


def page(shown: Sequence[Shown], *, title: str, summary: Sequence[str]) -> str:
    """Return the pictures as one HTML document that needs nothing beside it: no network, no script, no other file.

    Args:
        title (`str`): the heading.
        summary (`Sequence[str]`): sentences that say what this is.
    """
    from compact_hf.reports.theme import environment

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
