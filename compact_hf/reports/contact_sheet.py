"""The contact sheet: images with what is written about them, such as questions by k, and drafts that were dropped.

`SheetItem`s become an HTML fragment with the images inside it (for the report and other pages), a page, or one PNG
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

from compact_hf.records import Message, Reject, Turn
from compact_hf.reports.theme import get_label, group_of, k_tone, tone

if TYPE_CHECKING:
    from PIL import Image as PillowImage
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

_CARD_WIDTH: Final = 400
_GAP: Final = 20
_PADDING: Final = 16
# A runaway question or answer is cut after this many lines, so that no card can outgrow its paper.
_MAX_LINES: Final = 6
_MAX_TURN_HEIGHT: Final = 2 * _MAX_LINES * 23 + _MAX_LINES * 18 + 4 * 22 + 38
_LABEL_WIDTH: Final = 84


def render_sheet(items: Sequence[SheetItem], *, columns: int = 3) -> bytes:
    """Return the images with their questions as one PNG file, `columns` side by side."""
    from PIL import Image

    cards = [_draw_card(item) for item in items]
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    heights = [max(card.height for card in row) for row in rows]
    width = columns * _CARD_WIDTH + (columns + 1) * _GAP
    sheet = Image.new("RGB", (width, sum(heights) + _GAP * (len(rows) + 1)), tone("ground"))
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            backing = Image.new("RGB", (_CARD_WIDTH, height), tone("paper"))
            backing.paste(card)
            sheet.paste(backing, (_GAP + column * (_CARD_WIDTH + _GAP), top))
        top += height + _GAP
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")  # `optimize` takes four times as long for 2% less
    return buffer.getvalue()


def render_image_with_questions(image: bytes, entries: Sequence[Entry]) -> bytes:
    """Return one image and, from top to bottom beside it, questions about it with their k, as one PNG file."""
    from PIL import Image, ImageDraw, ImageOps

    resized = ImageOps.contain(upright_rgb(image), (_CARD_WIDTH, _CARD_WIDTH), Image.Resampling.LANCZOS)
    label_left = _GAP + _CARD_WIDTH + _GAP
    text_left = label_left + _LABEL_WIDTH
    size = (text_left + _CARD_WIDTH - _PADDING, _CARD_WIDTH + 2 * _GAP + _MAX_TURN_HEIGHT * len(entries))
    paper = Image.new("RGB", size, tone("paper"))
    paper.paste(resized, (_GAP, _GAP))
    draw, top = ImageDraw.Draw(paper), _GAP
    for entry in entries:
        section = section_of_k(len(entry.capabilities))
        _draw_label(draw, (label_left, top), section.label, fill=tone(section.color))
        top = _draw_entry(draw, entry, top + 2, left=text_left)
    buffer = io.BytesIO()
    paper.crop((0, 0, paper.width, max(resized.height + 2 * _GAP, top))).save(buffer, format="PNG")
    return buffer.getvalue()


def _draw_card(item: SheetItem) -> PillowImage.Image:
    """Draw one image with its k and what is written about it; the height is what the words need."""
    from PIL import Image, ImageDraw, ImageOps

    image = ImageOps.contain(upright_rgb(item.image), (_CARD_WIDTH, _CARD_WIDTH), Image.Resampling.LANCZOS)
    entries = tuple(item.entries())
    card = Image.new("RGB", (_CARD_WIDTH, image.height + _PADDING + _MAX_TURN_HEIGHT * len(entries)), tone("paper"))
    card.paste(image, ((_CARD_WIDTH - image.width) // 2, 0))
    draw = ImageDraw.Draw(card)
    _draw_label(draw, (10, 10), item.section.label, fill=tone(item.section.color))
    top = image.height + _PADDING
    for entry in entries:
        top = _draw_entry(draw, entry, top)
    return card.crop((0, 0, _CARD_WIDTH, top))


def _draw_entry(draw: ImageDraw, entry: Entry, top: int, *, left: int = _PADDING) -> int:
    """Write an entry from `top` on, to the right of `left`, a card's width; return where the next one starts."""
    edge = left + _CARD_WIDTH - 2 * _PADDING
    verdict = f"dropped: {entry.verdict}" if entry.is_dropped else entry.verdict
    for text, font, color, height in (
        (entry.question, _font(17), "ink", 23),
        (verdict, _font(17, bold=True), "ink" if entry.is_dropped else "accent", 23),
        (entry.note, _font(13), "muted", 18),
    ):
        for line in _wrap_text(text, font, _CARD_WIDTH - 2 * _PADDING)[:_MAX_LINES] if text else ():
            draw.text((left, top), line, font=font, fill=tone(color))
            top += height
    x = left
    for name in entry.capabilities:
        width = 16 + round(_font(13).getlength(get_label(name)))
        if x + width > edge:
            x, top = left, top + 22
        draw.rounded_rectangle((x, top + 6, x + 10, top + 16), 2, fill=tone(group_of(name)))
        draw.text((x + 16, top + 3), get_label(name), font=_font(13), fill=tone("muted"))
        x += width + 14
    return top + 38


def _draw_label(draw: ImageDraw, position: tuple[int, int], text: str, *, fill: str) -> None:
    left, top = position
    font = _font(16, bold=True)
    is_dark = sum(bytes.fromhex(fill[1:])) < 3 * 140
    draw.rounded_rectangle((left, top, left + font.getlength(text) + 16, top + 27), 6, fill=fill)
    draw.text((left + 8, top + 4), text, font=font, fill=tone("paper" if is_dark else "ink"))


def _wrap_text(text: str, font: FreeTypeFont, width: int) -> list[str]:
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


_THUMBNAIL_SIZE: Final = 400
_QUALITY: Final = 82


@dataclass(frozen=True, slots=True, order=True)
class Section:
    """A part of the sheet: images that belong together. Sections stand in the order of their fields.

    Attributes:
        order (`int`): its place.
        label (`str`): its name, a few letters on each image, such as `k = 2`.
        heading (`str`): what it holds, in a few words.
        color (`str`): a name of the theme, for the label.
    """

    order: int
    label: str
    heading: str = ""
    color: str = "muted"


class SheetItem(Protocol):
    """An image as the contact sheet shows it, with what is written about it.

    Attributes:
        image (`bytes`): the encoded file.
        caption (`str`): where it comes from, such as its ref; never an absolute path.
        section (`Section`): where it belongs.
    """

    @property
    def image(self) -> bytes: ...

    @property
    def caption(self) -> str: ...

    @property
    def section(self) -> Section: ...

    def entries(self) -> Iterator[Entry]:
        """Yield what is written below the image, in order."""
        ...


class HasSection(Protocol):
    """What belongs to one section."""

    @property
    def section(self) -> Section: ...


T = TypeVar("T", bound=HasSection)


@dataclass(frozen=True, slots=True)
class QuestionItem:
    """An image with questions of one k.

    Attributes:
        image (`bytes`): the encoded file.
        k (`int`): the complexity all its turns share.
        turns (`tuple[Turn, ...]`): its accepted questions and answers.
        caption (`str`): where it comes from, such as its ref; never an absolute path.
        rejects (`tuple[Reject, ...]`): drafts about it that were dropped: their questions are the subjects.
    """

    image: bytes
    k: int
    turns: tuple[Turn, ...]
    caption: str = ""
    rejects: tuple[Reject, ...] = ()

    @property
    def section(self) -> Section:
        """The images of this k."""
        return section_of_k(self.k)

    def entries(self) -> Iterator[Entry]:
        """Yield its questions, then the dropped drafts."""
        for turn in self.turns:
            names = ", ".join(map(get_label, turn.verified_capabilities)) or "nothing"
            is_different = set(turn.verified_capabilities) != set(turn.capabilities)
            yield Entry(
                turn.question, turn.answer, turn.capabilities, f"the verifier found {names}" if is_different else ""
            )
        yield from map(entry_of_reject, self.rejects)


def section_of_k(k: int) -> Section:
    """Return the section of the images of one k."""
    count = {2: "two", 3: "three", 4: "four", 5: "five"}.get(k, k)
    heading = "one capability" if k == 1 else f"{count} capabilities at once"
    return Section(k, f"k = {k}", heading, k_tone(k))


@dataclass(frozen=True, slots=True)
class MessagesItem:
    """An image with a conversation about it.

    Attributes:
        image (`bytes`): the encoded file.
        section (`Section`): where it belongs.
        messages (`tuple[Message, ...]`): `user` and `assistant` in turn.
        caption (`str`): where it comes from, such as its ref; never an absolute path.
    """

    image: bytes
    section: Section
    messages: tuple[Message, ...]
    caption: str = ""

    def entries(self) -> Iterator[Entry]:
        """Yield what the user says, each with what the assistant answers."""
        for user, assistant in zip(self.messages[::2], self.messages[1::2], strict=False):
            yield Entry(user.content, assistant.content)


@dataclass(frozen=True, slots=True)
class RejectsItem:
    """An image with what was dropped about it.

    Attributes:
        image (`bytes`): the encoded file.
        section (`Section`): where it belongs.
        rejects (`tuple[Reject, ...]`): their subjects are what was written.
        caption (`str`): where it comes from, such as its ref; never an absolute path.
    """

    image: bytes
    section: Section
    rejects: tuple[Reject, ...]
    caption: str = ""

    def entries(self) -> Iterator[Entry]:
        """Yield them in order."""
        return map(entry_of_reject, self.rejects)


def entry_of_reject(reject: Reject) -> Entry:
    """Return how something that was dropped is shown."""
    return Entry(reject.subject, reject.reason, reject.capabilities, reject.detail, is_dropped=True)


@dataclass(frozen=True, slots=True)
class Entry:
    """A question on the sheet.

    Attributes:
        question (`str`): as the teacher wrote it.
        verdict (`str`): its answer; of a dropped one the reason.
        capabilities (`tuple[str, ...]`): those that were asked for.
        note (`str`): what else there is to say, empty where nothing is.
        is_dropped (`bool`): whether it was.
    """

    question: str
    verdict: str
    capabilities: tuple[str, ...] = ()
    note: str = ""
    is_dropped: bool = False


def pick(items: Iterable[T], count: int) -> tuple[T, ...]:
    """Return at most `count` images, as evenly over the sections as there are, the first of each, in their order."""
    by_section = group_by_section(items)
    counts = dict.fromkeys(by_section, 0)
    for _ in range(count):
        open_sections = [section for section in counts if counts[section] < len(by_section[section])]
        if not open_sections:
            break
        counts[min(open_sections, key=lambda section: counts[section])] += 1
    return tuple(item for section, number in counts.items() for item in by_section[section][:number])


def group_by_section(items: Iterable[T]) -> dict[Section, list[T]]:
    """Return the images of each section, the sections in their order."""
    by_section: dict[Section, list[T]] = {}
    for item in items:
        by_section.setdefault(item.section, []).append(item)
    return {section: by_section[section] for section in sorted(by_section)}


def render_fragment(items: Sequence[SheetItem]) -> str:
    """Return the images as HTML, section by section. The page around it is laid out by layout.html.jinja.

    Everything written by a teacher is escaped. Images are WebP data URLs, at most 400 pixels on a side.
    """
    from compact_hf.reports.theme import jinja_environment

    template = jinja_environment().get_template("contact_sheet.html.jinja")
    return template.render(sections=group_by_section(items), thumbnail=thumbnail)


def render_page(items: Sequence[SheetItem], *, title: str, summary: Sequence[str]) -> str:
    """Return the images as one HTML document that needs nothing beside it: no network, no script, no other file.

    Args:
        title (`str`): the heading.
        summary (`Sequence[str]`): sentences that say what this is.
    """
    from compact_hf.reports.theme import jinja_environment

    template = jinja_environment().get_template("contact_sheet_page.html.jinja")
    return template.render(title=title, summary=summary, sheet=render_fragment(items))


def thumbnail(image: bytes) -> dict[str, Any]:
    """Return `url` (a data URL), `width` and `height` in pixels of an image, made small."""
    from PIL import Image

    small = upright_rgb(image)
    small.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=_QUALITY, method=4)
    url = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"url": url, "width": small.width, "height": small.height}


def upright_rgb(image: bytes) -> PillowImage.Image:
    """Return the image the right way up, what is transparent on white paper."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(image)) as source:
        upright = ImageOps.exif_transpose(source)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
