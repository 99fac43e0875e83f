"""Renders contact sheets: images with their questions and answers, or with rejected drafts, grouped by k or subset.

`SheetItem`s are rendered as an HTML fragment with embedded images (for the report and other pages), as an HTML page, or
as one PNG for a README or a card on the Hub. The PNG looks the same on every machine.
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

# Pixels of the PNG: a card, the gap between cards, and the margin of the text in a card.
_CARD_WIDTH: Final = 400
_GAP: Final = 20
_PADDING: Final = 16
# A longer question or answer is cut, so that no card exceeds the height that is reserved for it.
_MAX_LINES: Final = 6
# The greatest height of an entry: question and verdict (23 px per line), note (18 px), capabilities (22 px), and a gap.
_MAX_TURN_HEIGHT: Final = 2 * _MAX_LINES * 23 + _MAX_LINES * 18 + 4 * 22 + 38
_LABEL_WIDTH: Final = 84


def render_sheet(items: Sequence[SheetItem], *, columns: int = 3) -> bytes:
    """Return the images with their questions as one PNG file.

    Args:
        items (`Sequence[SheetItem]`): the images, at least one.
        columns (`int`, *optional*, defaults to 3): number of images per row.
    """
    from PIL import Image

    # Cards have the heights of their texts; a row is as high as its highest card.
    cards = [_draw_card(item) for item in items]
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    heights = [max(card.height for card in row) for row in rows]
    width = columns * _CARD_WIDTH + (columns + 1) * _GAP
    sheet = Image.new("RGB", (width, sum(heights) + _GAP * (len(rows) + 1)), tone("ground"))
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            # Paper up to the height of the row, so that its cards look equally high.
            backing = Image.new("RGB", (_CARD_WIDTH, height), tone("paper"))
            backing.paste(card)
            sheet.paste(backing, (_GAP + column * (_CARD_WIDTH + _GAP), top))
        top += height + _GAP
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")  # `optimize` saves 2% of the size and takes four times as long
    return buffer.getvalue()


def render_image_with_questions(image: bytes, entries: Sequence[Entry]) -> bytes:
    """Return one image with its questions to the right of it, each with its k, as one PNG file.

    Args:
        image (`bytes`): the encoded image.
        entries (`Sequence[Entry]`): the questions, from top to bottom.
    """
    from PIL import Image, ImageDraw, ImageOps

    from compact_hf.images.codec import decode_rgb

    resized = ImageOps.contain(decode_rgb(image), (_CARD_WIDTH, _CARD_WIDTH), Image.Resampling.LANCZOS)
    label_left = _GAP + _CARD_WIDTH + _GAP
    text_left = label_left + _LABEL_WIDTH
    size = (text_left + _CARD_WIDTH - _PADDING, _CARD_WIDTH + 2 * _GAP + _MAX_TURN_HEIGHT * len(entries))
    # The height of the text is known only when it is wrapped: draw on enough paper, and crop it at the end.
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
    """Draw one image with its label and, below it, its entries; the height depends on the text."""
    from PIL import Image, ImageDraw, ImageOps

    from compact_hf.images.codec import decode_rgb

    image = ImageOps.contain(decode_rgb(item.image), (_CARD_WIDTH, _CARD_WIDTH), Image.Resampling.LANCZOS)
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
    """Draw an entry with its top left corner at (left, top), and return the top of the next one."""
    edge = left + _CARD_WIDTH - 2 * _PADDING
    verdict = f"rejected: {entry.verdict}" if entry.is_dropped else entry.verdict
    # (text, font, tone, height of a line in pixels)
    for text, font, color, height in (
        (entry.question, _font(17), "ink", 23),
        (verdict, _font(17, bold=True), "ink" if entry.is_dropped else "accent", 23),
        (entry.note, _font(13), "muted", 18),
    ):
        for line in _wrap_text(text, font, _CARD_WIDTH - 2 * _PADDING)[:_MAX_LINES] if text else ():
            draw.text((left, top), line, font=font, fill=tone(color))
            top += height
    # Capabilities: a square of 10 pixels in the color of the group, and the name; they wrap at the right edge.
    x = left
    for name in entry.capabilities:
        width = 16 + round(_font(13).getlength(get_label(name)))
        if x + width > edge:
            x, top = left, top + 22
        draw.rounded_rectangle((x, top + 6, x + 10, top + 16), 2, fill=tone(group_of(name)))
        draw.text((x + 16, top + 3), get_label(name), font=_font(13), fill=tone("muted"))
        x += width + 14
    # The last line of capabilities and the gap below it.
    return top + 38


def _draw_label(draw: ImageDraw, position: tuple[int, int], text: str, *, fill: str) -> None:
    left, top = position
    font = _font(16, bold=True)
    # `fill` is #rrggbb: dark if the mean of the three channels is below 140 of 255.
    is_dark = sum(bytes.fromhex(fill[1:])) < 3 * 140
    draw.rounded_rectangle((left, top, left + font.getlength(text) + 16, top + 27), 6, fill=fill)
    draw.text((left + 8, top + 4), text, font=font, fill=tone("paper" if is_dark else "ink"))


def _wrap_text(text: str, font: FreeTypeFont, width: int) -> list[str]:
    """Break a text at spaces into lines of at most `width` pixels; only a single long word may be wider."""
    # Invariant: every line but the last is complete; the last one takes the next word if it fits.
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
    """Return DejaVu Sans from matplotlib's package, so that the sheet is the same on every machine."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", name)), size)


# Pixels of the longer edge, and WebP quality, 0 to 100; pages embed the thumbnails as text.
_THUMBNAIL_SIZE: Final = 400
_QUALITY: Final = 82


@dataclass(frozen=True, slots=True, order=True)
class Section:
    """A group of images on the sheet. Sections are sorted by their fields, first by `order`.

    Attributes:
        order (`int`): position of the section.
        label (`str`): short name that is printed on each image, such as `k = 2`.
        heading (`str`): description of the section.
        color (`str`): name of a tone of the theme, for the label.
    """

    order: int
    label: str
    heading: str = ""
    color: str = "muted"


class SheetItem(Protocol):
    """An image with the text that the contact sheet shows below it.

    Attributes:
        image (`bytes`): the encoded image.
        caption (`str`): origin of the image, such as its ref; never an absolute path.
        section (`Section`): the section to which it belongs.
    """

    @property
    def image(self) -> bytes: ...

    @property
    def caption(self) -> str: ...

    @property
    def section(self) -> Section: ...

    def entries(self) -> Iterator[Entry]:
        """Yield the entries below the image, in order."""
        ...


class HasSection(Protocol):
    """Anything that belongs to a section."""

    @property
    def section(self) -> Section: ...


T = TypeVar("T", bound=HasSection)


@dataclass(frozen=True, slots=True)
class QuestionItem:
    """An image with questions of one k.

    Attributes:
        image (`bytes`): the encoded image.
        k (`int`): number of capabilities that each question needs.
        turns (`tuple[Turn, ...]`): the accepted questions and answers.
        caption (`str`): origin of the image, such as its ref; never an absolute path.
        rejects (`tuple[Reject, ...]`): the rejected drafts; the subject of a reject is its question.
    """

    image: bytes
    k: int
    turns: tuple[Turn, ...]
    caption: str = ""
    rejects: tuple[Reject, ...] = ()

    @property
    def section(self) -> Section:
        """The section of this k."""
        return section_of_k(self.k)

    def entries(self) -> Iterator[Entry]:
        """Yield the accepted questions, then the rejected drafts."""
        for turn in self.turns:
            names = ", ".join(map(get_label, turn.verified_capabilities)) or "nothing"
            # The order of capabilities is not a difference.
            is_different = set(turn.verified_capabilities) != set(turn.capabilities)
            yield Entry(
                turn.question, turn.answer, turn.capabilities, f"the verifier found {names}" if is_different else ""
            )
        yield from map(entry_of_reject, self.rejects)


def section_of_k(k: int) -> Section:
    """Return the section for images of one k.

    Args:
        k (`int`): number of capabilities, at least 1.
    """
    count = {2: "two", 3: "three", 4: "four", 5: "five"}.get(k, k)
    heading = "one capability" if k == 1 else f"{count} capabilities at once"
    return Section(k, f"k = {k}", heading, k_tone(k))


@dataclass(frozen=True, slots=True)
class MessagesItem:
    """An image with a conversation about it.

    Attributes:
        image (`bytes`): the encoded image.
        section (`Section`): the section to which it belongs.
        messages (`tuple[Message, ...]`): alternating messages of `user` and `assistant`.
        caption (`str`): origin of the image, such as its ref; never an absolute path.
    """

    image: bytes
    section: Section
    messages: tuple[Message, ...]
    caption: str = ""

    def entries(self) -> Iterator[Entry]:
        """Yield each message of the user with the answer of the assistant."""
        # A last question without an answer is not shown.
        for user, assistant in zip(self.messages[::2], self.messages[1::2], strict=False):
            yield Entry(user.content, assistant.content)


@dataclass(frozen=True, slots=True)
class RejectsItem:
    """An image with its rejects.

    Attributes:
        image (`bytes`): the encoded image.
        section (`Section`): the section to which it belongs.
        rejects (`tuple[Reject, ...]`): the rejects; the subject of a reject is the text that was rejected.
        caption (`str`): origin of the image, such as its ref; never an absolute path.
    """

    image: bytes
    section: Section
    rejects: tuple[Reject, ...]
    caption: str = ""

    def entries(self) -> Iterator[Entry]:
        """Yield the rejects in order."""
        return map(entry_of_reject, self.rejects)


def entry_of_reject(reject: Reject) -> Entry:
    """Return the entry that shows a reject.

    Args:
        reject (`Reject`): the reject.
    """
    return Entry(reject.subject, reject.reason, reject.capabilities, reject.detail, is_dropped=True)


@dataclass(frozen=True, slots=True)
class Entry:
    """A question on the sheet.

    Attributes:
        question (`str`): the question as the teacher wrote it.
        verdict (`str`): the answer, or for a rejected draft the reason.
        capabilities (`tuple[str, ...]`): the capabilities that were requested.
        note (`str`): further detail in smaller type; may be empty.
        is_dropped (`bool`): whether it was rejected.
    """

    question: str
    verdict: str
    capabilities: tuple[str, ...] = ()
    note: str = ""
    is_dropped: bool = False


def pick(items: Iterable[T], count: int) -> tuple[T, ...]:
    """Return at most `count` items, spread as evenly as possible over the sections, sorted by section.

    Args:
        items (`Iterable[T]`): the items; the first ones of each section are returned.
        count (`int`): largest number of items.
    """
    by_section = group_by_section(items)
    counts = dict.fromkeys(by_section, 0)
    # Each round gives one place to the section that has the fewest and is not used up; the first one wins a tie.
    for _ in range(count):
        open_sections = [section for section in counts if counts[section] < len(by_section[section])]
        if not open_sections:
            break
        counts[min(open_sections, key=lambda section: counts[section])] += 1
    return tuple(item for section, number in counts.items() for item in by_section[section][:number])


def group_by_section(items: Iterable[T]) -> dict[Section, list[T]]:
    """Return the items by section, in the order of the sections.

    Args:
        items (`Iterable[T]`): the items.
    """
    by_section: dict[Section, list[T]] = {}
    for item in items:
        by_section.setdefault(item.section, []).append(item)
    return {section: by_section[section] for section in sorted(by_section)}


def render_fragment(items: Sequence[SheetItem], *, heading: str = "h3") -> str:
    """Return the images as an HTML fragment, section by section, for a page that is based on layout.html.jinja.

    All text from teachers is escaped. Images are WebP data URLs of at most 400 x 400 pixels.

    Args:
        items (`Sequence[SheetItem]`): the images.
        heading (`str`, *optional*, defaults to `"h3"`): element of the sections' headings, one level below the heading
            above the fragment.
    """
    from compact_hf.reports.theme import jinja_environment

    template = jinja_environment().get_template("contact_sheet.html.jinja")
    return template.render(sections=group_by_section(items), heading=heading, thumbnail=thumbnail)


def render_page(items: Sequence[SheetItem], *, title: str, summary: Sequence[str]) -> str:
    """Return the images as one self-contained HTML document: it needs no network, no script and no other file.

    Args:
        items (`Sequence[SheetItem]`): the images.
        title (`str`): heading of the page.
        summary (`Sequence[str]`): paragraphs below the heading.
    """
    from compact_hf.reports.theme import jinja_environment

    template = jinja_environment().get_template("contact_sheet_page.html.jinja")
    return template.render(title=title, summary=summary, sheet=render_fragment(items, heading="h2"))


def thumbnail(image: bytes) -> dict[str, Any]:
    """Return a thumbnail of an image: `url` (a data URL), and `width` and `height` in pixels.

    Args:
        image (`bytes`): the encoded image.
    """
    from PIL import Image

    from compact_hf.images.codec import decode_rgb

    small = decode_rgb(image)
    small.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=_QUALITY, method=4)
    url = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"url": url, "width": small.width, "height": small.height}
