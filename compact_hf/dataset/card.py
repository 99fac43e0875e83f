"""Renders and checks the dataset card: README.md with a YAML header that `datasets` reads, and its figures.

All numbers in the card are measured (stats.py, provenance.py) or follow from the file layout. The text is
templates/card.md.jinja. Its blocks contain what can be measured again from the data files: `compact validate` renders
them again and reports a card that says something else. Each figure file stores its description and a digest of the
counts that it shows, so that an outdated figure is detected without drawing it again. The same counts give the same
bytes (with the same version of matplotlib).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from compact_hf.capabilities import CAPABILITIES
from compact_hf.dataset.row_kinds import INSTRUCTION
from compact_hf.dataset.schema import (
    DEFAULT_CONFIG,
    SPLITS,
    card_features,
    configs_from_subsets,
    describe_columns,
    parse_data_path,
)
from compact_hf.dataset.stats import DatasetStats
from compact_hf.hub.card import CARD
from compact_hf.hub.card_rules import LICENSES, license_fields
from compact_hf.hub.ref import other_endpoint, page_url
from compact_hf.methods.row_kind import RowStatistics
from compact_hf.parsing import read_card_header
from compact_hf.regular_files import open_regular
from compact_hf.reports.markdown import escape_markdown, iter_live_markup, make_environment, unescape_markdown
from compact_hf.reports.theme import get_label
from compact_hf.teachers.registry import BACKENDS

if TYPE_CHECKING:
    from jinja2 import Template

    from compact_hf.reports.figure import Plot

FIGURE_DIRECTORY: Final = "assets"
FIGURE_PATH: Final = re.compile(rf"{FIGURE_DIRECTORY}/[a-z0-9-]+\.png")
"""Path of a card's figure inside a release, as a regular expression."""

_COUNTS_KEY: Final = "Counts"  # the PNG text chunk that stores the digest


def draw_figures(stats: DatasetStats) -> dict[str, Plot]:
    """Draw the figures of a card, and return them by path inside the release.

    Args:
        stats (`DatasetStats`): statistics of the release.
    """
    return {_figure_path(name): plot for statistics in stats.statistics for name, plot in statistics.figures().items()}


def write_figures(figures: Mapping[str, Plot], stats: DatasetStats, directory: Path) -> None:
    """Write the figures into a release directory, each with its description and its digest.

    Args:
        figures (`Mapping[str, Plot]`): the figures by path inside the release.
        stats (`DatasetStats`): the statistics that the figures show.
        directory (`Path`): directory of the release.
    """
    digests = _figure_digests(stats)
    for path, plot in figures.items():
        (directory / path).parent.mkdir(exist_ok=True)
        notes = {"Description": plot.alt, _COUNTS_KEY: digests[path]}
        (directory / path).write_bytes(plot.png(notes=notes))


def iter_figure_defects(directory: Path, card: str, stats: DatasetStats) -> Iterator[tuple[str, str, str]]:
    """Yield (check, path, detail) for each figure that is missing, damaged, not shown by the card, or outdated.

    Args:
        directory (`Path`): directory of the release.
        card (`str`): text of the card.
        stats (`DatasetStats`): statistics measured from the data files.
    """
    from PIL import Image

    # Figures that the release has, but that its rows do not give.
    digests = _figure_digests(stats)
    for figure in sorted((directory / FIGURE_DIRECTORY).glob("*.png")):
        path = f"{FIGURE_DIRECTORY}/{figure.name}"
        if path not in digests:
            yield "card's figure shows other data", path, "no such figure exists"
    for path, expected_digest in digests.items():
        # The templates of the card show figures as HTML images, to set their width.
        if f'src="{path}"' not in card:
            yield "card does not show its figure", path, "assemble the release again"
        try:
            with open_regular(directory / path) as file, Image.open(file) as image:
                # Decodes all pixels, so that a truncated file is found.
                image.load()
                stored_digest = image.info.get(_COUNTS_KEY)
        except FileNotFoundError:
            yield "card's figure is missing", path, "assemble the release again"
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
            yield "card's figure cannot be read", path, " ".join(str(error).split())
        else:
            if stored_digest != expected_digest:
                yield "card's figure shows other data", path, "assemble the release again"


def _figure_digests(stats: DatasetStats) -> dict[str, str]:
    """Return the digest of the counts that each figure shows, by the figure's path."""
    return {
        _figure_path(name): statistics.figure_digest()
        for statistics in stats.statistics
        for name in statistics.figure_names()
    }


def _figure_path(name: str) -> str:
    return f"{FIGURE_DIRECTORY}/{name}.png"


CHANGELOG: Final = "CHANGELOG.md"
TAG: Final = "compact_hf"
"""Tag in the card's header that marks a release as written by this package."""

# Files of a release besides the data: the card, its figures, the changelog, and files that the Hub and its client add
# to every copy of a repository.
_EXTRA_FILES: Final = re.compile(
    rf"{re.escape(CARD)}|{re.escape(CHANGELOG)}|{FIGURE_PATH.pattern}|\.gitattributes|\.cache/huggingface/.*"
)
# Headings that card.md.jinja writes for every release; other sections depend on the rows.
# Cards of version 0.1.0 spell "Licences".
_SECTIONS: Final = ("Load it", "A row", "Licen[cs]es", "Limits", "Versions", "Citation")
# The block that shows the figures. It depends on them, not only on rows, and is not rendered again to compare.
_FIGURES_PART: Final = "asks"
# A number, possibly with separators and a percent sign; text in backticks or double quotes.
_VALUE: Final = re.compile(r"""\d+(?:[.,]\d+)*%?|`[^`]+`|"[^"]+\"""")
_CAPABILITY: Final = re.compile(rf"\b(?:{'|'.join(map(get_label, CAPABILITIES))})\b")
# (exclusive upper limit of the number of rows, the Hub's name of the category)
_SIZE_CATEGORIES: Final = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
)
_IMAGE_LICENSES: Final = "licenses-of-the-images"  # the `license_name` of a release whose images have several


def render_card(stats: DatasetStats, figures: Mapping[str, Plot]) -> str:
    """Return the text of README.md, header included.

    Args:
        stats (`DatasetStats`): statistics of the release.
        figures (`Mapping[str, Plot]`): the figures to show, by path inside the release.
    """
    return _load_template(_read_template()).render(header=_render_header(stats), **_template_context(stats, figures))


def _render_part(name: str, *, stats: DatasetStats, figures: Mapping[str, Plot]) -> Markup:
    """Return the named part of the card: the texts of all kinds of rows whose templates have a block of that name."""
    texts = (
        "".join(template.blocks[name](template.new_context(_part_context(statistics, stats, figures)))).strip()
        for statistics in stats.statistics
        if (template := _part_template(statistics)) is not None and name in template.blocks
    )
    return Markup("\n\n".join(filter(None, texts)))


@cache
def _read_template() -> str:
    return (Path(__file__).parent / "templates" / "card.md.jinja").read_text(encoding="utf-8")


def _part_template(statistics: RowStatistics) -> Template | None:
    text = statistics.card_template() if statistics.has_content() else ""
    return _load_template(text) if text else None


def _part_context(statistics: RowStatistics, stats: DatasetStats, figures: Mapping[str, Plot]) -> dict[str, Any]:
    paths = map(_figure_path, statistics.figure_names())
    return {
        "statistics": statistics,
        "stats": stats,
        "figures": {path: figures[path] for path in paths if path in figures},
        "capabilities": tuple(CAPABILITIES),
    }


def iter_text_defects(text: str, stats: DatasetStats) -> Iterator[tuple[str, str]]:
    """Yield (check, detail) for each section that is missing from a card or disagrees with the data, and raw markup.

    Args:
        text (`str`): the text of the card.
        stats (`DatasetStats`): statistics measured from the data files. Rejects and provenance cannot be measured from
            them and are not compared.
    """
    for line in iter_live_markup(text):
        yield "card has a link, an image or HTML in a table", line
    for name in _SECTIONS:
        if not re.search(rf"^## {name}$", text, re.MULTILINE):
            yield "card lacks a section", name.replace("[cs]", "s")
    # In the order of the card; a part agrees if its facts are a contiguous sequence of these.
    card_facts = list(_iter_facts(text))
    for name, expected in _iter_measured_text(stats):
        facts = list(_iter_facts(expected))
        if not _is_part(facts, card_facts):
            # If no line is missing, the lines are in another order or have others between them: show the first.
            missing = (fact for fact in facts if not any(map(fact.is_stated_by, card_facts)))
            yield "card disagrees with the data", f"its part {name} should contain: {next(missing, facts[0]).line}"


@dataclass(frozen=True, slots=True)
class _Facts:
    """The measurable contents of a line of a card.

    Attributes:
        line (`str`): the line.
        values (`str`): the line itself if it is the title or a row of a table, else its numbers and quotations.
        names (`tuple[str, ...]`): the capabilities that it names, in their order, if it is neither.
    """

    line: str
    values: str
    names: tuple[str, ...]

    def is_stated_by(self, other: _Facts) -> bool:
        """Return whether a line of a card states these facts. It may name only some of several tied capabilities."""
        if self.values != other.values or bool(self.names) != bool(other.names):
            return False
        # In the same order: `in` consumes the iterator up to the name.
        names = iter(self.names)
        return all(name in names for name in other.names)


def _iter_facts(text: str) -> Iterator[_Facts]:
    """Yield the facts of each line of a card that has any.

    Other words are not compared, so that they can change between versions of this package.
    """
    for line in map(unescape_markdown, text.splitlines()):
        if line.startswith(("|", "# ")):
            yield _Facts(line, line, ())
        elif (values := _VALUE.findall(line)) or _CAPABILITY.search(line):
            yield _Facts(line, " ".join(values), tuple(_CAPABILITY.findall(line)))


def _is_part(part: Sequence[_Facts], whole: Sequence[_Facts]) -> bool:
    return any(
        all(map(_Facts.is_stated_by, part, whole[start : start + len(part)]))
        for start in range(len(whole) - len(part) + 1)
    )


def _iter_measured_text(stats: DatasetStats) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each part of the card that can be derived from the rows."""
    template = _load_template(_read_template())
    context = template.new_context(_template_context(stats, {}))
    for name, block in template.blocks.items():
        yield name, "".join(block(context)).strip()
    for statistics in stats.statistics:
        if (part_template := _part_template(statistics)) is not None:
            part_context = part_template.new_context(_part_context(statistics, stats, {}))
            for name, block in part_template.blocks.items():
                if name != _FIGURES_PART:
                    yield name, "".join(block(part_context)).strip()


def read_header(directory: Path) -> dict[str, Any]:
    """Return the YAML header of the card in `directory`, an empty dict if there is no card or no header.

    Args:
        directory (`Path`): directory of a release.

    Raises:
        OSError: the card cannot be read.
        ValueError: the header is not YAML, or not a mapping.
    """
    path = directory / CARD
    return read_card_header(path) if path.is_file() else {}


def is_dataset_directory(directory: Path) -> bool:
    """Return whether a directory is a release of this package, possibly damaged, and contains no other files.

    Args:
        directory (`Path`): the directory.
    """
    try:
        tags = read_header(directory).get("tags")
    # Without a readable header nothing shows that the directory is a release, so it must not be replaced.
    except (OSError, ValueError):
        return False
    return isinstance(tags, list) and TAG in tags and not list_foreign_files(directory)


def list_foreign_files(directory: Path) -> list[str]:
    """Return the sorted relative paths of files and links in a directory that do not belong to a release.

    Args:
        directory (`Path`): the directory.
    """
    # A link to a directory counts as a file: `rglob` does not follow it, and a release has no such link.
    paths = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(directory).as_posix() for path in paths)
    return sorted(name for name in names if is_foreign_file(name))


def is_foreign_file(name: str) -> bool:
    """Return whether a file does not belong to a release, judged by its path.

    Args:
        name (`str`): path inside a directory or repository.
    """
    return parse_data_path(name) is None and not _EXTRA_FILES.fullmatch(name)


def header_configs(split_keys: Collection[tuple[str, str]], version: str) -> list[dict[str, Any]]:
    """Return the header's `configs`: the file globs of each config's splits. Configs share files and copy none.

    Args:
        split_keys (`Collection[tuple[str, str]]`): each (subset, split) that has files.
        version (`str`): X.Y.Z; `datasets` shows it as the version of the loaded dataset.
    """
    entries: list[dict[str, Any]] = []
    for name, subsets in configs_from_subsets(subset for subset, _ in split_keys).items():
        globs = {
            split: [f"data/{subset}/{split}-*.parquet" for subset in subsets if (subset, split) in split_keys]
            for split in SPLITS
        }
        data_files = [{"split": split, "path": paths} for split, paths in globs.items() if paths]
        default = {"default": True} if name == DEFAULT_CONFIG else {}
        entries.append({"config_name": name, **default, "version": version, "data_files": data_files})
    return entries


@cache  # compiling takes 0.1 s, and a validation renders the template several times
def _load_template(text: str) -> Template:
    environment = make_environment(
        number="{:,}".format,
        share="{:.1%}".format,
        size=_format_size,
        usd=_format_usd,
        spoken=get_label,
        listed=_join_names,
    )
    return environment.from_string(text)


def _template_context(stats: DatasetStats, figures: Mapping[str, Plot]) -> dict[str, Any]:
    """Return the variables of card.md.jinja. `example_subset` is the last config that has one subset (of questions)."""
    return {
        "stats": stats,
        "title": _title(stats),
        "columns": describe_columns(stats.sources),
        "example_subset": next(
            (name for name, subsets in reversed(stats.configs.items()) if subsets == (name,) and name != INSTRUCTION),
            "",
        ),
        "teacher_terms": _teacher_terms(stats),
        "page": page_url("org/name", kind="datasets"),
        "endpoint": other_endpoint(),
        "part": partial(_render_part, stats=stats, figures=figures),
    }


def _teacher_terms(stats: DatasetStats) -> list[str]:
    """Return the notes about the terms of use of all teachers that were asked, without repetition."""
    asked = {usage.backend for usage in stats.provenance.model_usage} if stats.provenance else set()
    return list(dict.fromkeys(backend.terms for name, backend in BACKENDS.items() if name in asked and backend.terms))


def _title(stats: DatasetStats) -> str:
    return (
        " and ".join(filter(None, (statistics.title for statistics in stats.statistics))) or "Visual instruction data"
    )


def _format_size(count: int) -> str:
    value, unit = float(count), "B"
    for next_unit in ("KB", "MB", "GB", "TB"):
        if value < 999.5:  # 999.5 would be formatted as 1e+03
            break
        value, unit = value / 1000, next_unit
    return f"{value:.3g} {unit}"


def _format_usd(cost: float | None) -> str:
    """Format US dollars to the cent, or to two significant digits below 0.10."""
    if cost is None:
        return "not known"
    return f"{cost:,.2f}" if cost >= 0.1 or not cost else f"{cost:.2g}"


def _join_names(names: Iterable[str]) -> Markup:
    *first, last = map(escape_markdown, names)
    return Markup(f"{', '.join(first)} and {last}") if first else last


def _render_header(stats: DatasetStats) -> str:
    from huggingface_hub import DatasetCardData

    header = DatasetCardData(
        language=["en"],
        **_dataset_license(stats),
        annotations_creators=["machine-generated"],
        task_categories=["visual-question-answering", "image-text-to-text"],
        size_categories=[next((name for limit, name in _SIZE_CATEGORIES if stats.rows() < limit), "n>1T")],
        pretty_name=_title(stats),
        tags=[TAG, *(tag for statistics in stats.statistics for tag in statistics.tags)],
        configs=header_configs(stats.sizes, stats.version),
        dataset_info=[_config_info(stats, name, subsets) for name, subsets in stats.configs.items()],
    )
    return header.to_yaml()


def _config_info(stats: DatasetStats, name: str, subsets: tuple[str, ...]) -> dict[str, Any]:
    sizes = {split_key: size for split_key, size in stats.sizes.items() if split_key[0] in subsets}
    splits = [
        {
            "name": split,
            "num_bytes": sum(size.nbytes for (_, split_name), size in sizes.items() if split_name == split),
            # `datasets` compares this with the rows that it reads, and raises an error if they differ.
            "num_examples": stats.rows(*subsets, split=split),
        }
        for split in SPLITS
        if any(split_name == split for _, split_name in sizes)
    ]
    return {
        "config_name": name,
        "features": card_features(stats.sources),
        "splits": splits,
        # The sizes are in bytes: of the Parquet files, and of the same rows as Arrow tables.
        "download_size": sum(size.file_bytes for size in sizes.values()),
        "dataset_size": sum(size.nbytes for size in sizes.values()),
    }


def _dataset_license(stats: DatasetStats) -> dict[str, Any]:
    """Return the fields of the given license, or of the one that all images share.

    A license that the Hub does not know is `other` with a name; the card has a table of the licenses of all images.
    """
    licenses = {license.lower() for license in stats.licenses} or {"unknown"}
    license = stats.license or (licenses.pop() if len(licenses) == 1 else "other")
    if license in LICENSES - {"other"}:
        return {"license": license}
    return license_fields(_IMAGE_LICENSES if license == "other" else license)
