"""The card of a dataset: README.md, a YAML header that `datasets` reads and a text, and its figures.

Everything in it is measured (stats.py, provenance.py) or follows from the layout; the text is templates/card.md.jinja.
Its blocks hold what can be measured again in the data files: `validate` does so, and finds a card that says something
else. Each figure carries its own description and a digest of the counts that it shows, so that a figure of other data
is found without drawing it anew. The same counts give the same bytes (with the same matplotlib).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.dataset.schema import DEFAULT_CONFIG, SPLITS, card_features, configs_from_subsets, parse_data_path
from compact_hf.dataset.stats import DatasetStats
from compact_hf.records import digest
from compact_hf.reports.theme import get_label

if TYPE_CHECKING:
    from jinja2 import Template

    from compact_hf.reports.figure import Plot

CombinationCounts = Mapping[tuple[str, ...], int]

FIGURE_DIRECTORY: Final = "assets"
_FIGURE_NAMES: Final = ("k-distribution", "coverage", "cooccurrence")
FIGURE_PATH: Final = re.compile(rf"{FIGURE_DIRECTORY}/({'|'.join(_FIGURE_NAMES)})\.png")
"""Path of a card's figure inside a release."""

_COUNTS_KEY: Final = "Counts"  # PNG's text chunk with the digest


def figure_paths(combinations: CombinationCounts) -> tuple[str, ...]:
    """Return the paths of the figures that a release of these counts has: none without a question."""
    if not combinations:
        return ()
    has_pairs = any(len(combination) > 1 for combination in combinations)
    return tuple(_figure_path(name) for name in (_FIGURE_NAMES if has_pairs else _FIGURE_NAMES[:-1]))


def draw_figures(combinations: CombinationCounts) -> dict[str, Plot]:
    """Return path -> the figure to be put there."""
    from compact_hf.reports import dataset_charts

    chart_functions = (
        dataset_charts.plot_k_distribution,
        dataset_charts.plot_coverage,
        dataset_charts.plot_cooccurrence,
    )
    by_path = {_figure_path(name): draw for name, draw in zip(_FIGURE_NAMES, chart_functions, strict=True)}
    return {path: by_path[path](combinations) for path in figure_paths(combinations)}


def write_figures(figures: Mapping[str, Plot], combinations: CombinationCounts, directory: Path) -> None:
    """Write the figures below a release's folder."""
    for path, plot in figures.items():
        (directory / path).parent.mkdir(exist_ok=True)
        notes = {"Description": plot.alt, _COUNTS_KEY: _counts_digest(combinations)}
        (directory / path).write_bytes(plot.png(notes=notes))


def iter_figure_defects(directory: Path, card: str, combinations: CombinationCounts) -> Iterator[tuple[str, str, str]]:
    """Yield (check, path, detail) for each defect of the figures in `directory` with this card and these counts."""
    from PIL import Image

    expected = figure_paths(combinations)
    for path in map(_figure_path, _FIGURE_NAMES):
        if path not in expected:
            if (directory / path).exists():
                yield "card's picture shows other data", path, "there is nothing that it could show"
            continue
        if f'src="{path}"' not in card:
            yield "card does not show its picture", path, "assemble the release again"
        try:
            with Image.open(directory / path) as image:
                image.load()
                stored_digest = image.info.get(_COUNTS_KEY)
        except FileNotFoundError:
            yield "card's picture is missing", path, "assemble the release again"
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # the second is Pillow's for broken PNG
            yield "card's picture cannot be read", path, " ".join(str(error).split())
        else:
            if stored_digest != _counts_digest(combinations):
                yield "card's picture shows other data", path, "assemble the release again"


def _figure_path(name: str) -> str:
    return f"{FIGURE_DIRECTORY}/{name}.png"


def _counts_digest(combinations: CombinationCounts) -> str:
    return digest(sorted(combinations.items()))


CARD: Final = "README.md"
CHANGELOG: Final = "CHANGELOG.md"
TAG: Final = "compact_hf"
"""Tag in the header by which an earlier release is known as ours."""

# Beside the data lie the card and its figures, what versions changed (changelog.py), and what the Hub and its client
# leave in every copy of a repository.
_EXTRA_FILES: Final = re.compile(
    rf"{re.escape(CARD)}|{re.escape(CHANGELOG)}|{FIGURE_PATH.pattern}|\.gitattributes|\.cache/huggingface/.*"
)
_SECTIONS: Final = ("Load it", "A row", "Licences", "Limits", "Versions", "Citation")
_TEMPLATE_PATH: Final = Path(__file__).parent / "templates" / "card.md.jinja"
_SIZE_CATEGORIES: Final = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
# Those of the Hub's identifiers that images come under; the Hub refuses a card with any other word.
LICENSES: Final = frozenset(
    (
        "unknown other mit apache-2.0 pddl odc-by odbl cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 "
        "cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
        "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0"
    ).split()
)


def render_card(stats: DatasetStats, figures: Mapping[str, Plot]) -> str:
    """Return README.md of a release, header and text, with these figures (path -> figure) in it."""
    return _load_template().render(header=_render_header(stats), figures=figures, **_template_context(stats))


def iter_text_defects(text: str, stats: DatasetStats) -> Iterator[tuple[str, str]]:
    """Yield (check, detail) for each section that a card lacks, and each that says something else than the facts.

    Args:
        text (`str`): the card's.
        stats (`DatasetStats`): as they were measured in the data files; what was dropped, and how all of it came
            about, cannot be seen there, and is not compared.
    """
    for name in _SECTIONS:
        if f"\n## {name}\n" not in text:
            yield "card lacks a section", name
    template = _load_template()
    context = template.new_context(_template_context(stats))
    for name, block in template.blocks.items():
        expected = "".join(block(context)).strip()
        if expected not in text:
            line = next(line for line in expected.splitlines() if line not in text.splitlines())
            yield "card disagrees with the data", f"its {name} should say: {line}"


def read_header(directory: Path) -> dict[str, Any]:
    """Return the YAML header of the card in `directory`, empty where there is no card or no header.

    Raises:
        OSError: the card cannot be read.
        ValueError: the header is not YAML, or not a mapping.
    """
    path = directory / CARD
    return parse_header(path.read_text(encoding="utf-8") if path.is_file() else "")


def parse_header(text: str) -> dict[str, Any]:
    """Return the YAML header of a card's text, empty where it has none.

    Raises:
        ValueError: the header is not YAML, or not a mapping.
    """
    import yaml

    if not text.startswith("---\n"):
        return {}
    try:
        header = yaml.safe_load(text[4:].split("\n---\n", 1)[0])
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    if not isinstance(header, dict):
        raise ValueError("the header is not a mapping")
    return header


def is_dataset_directory(directory: Path) -> bool:
    """Whether `directory` holds a release of ours, whole or damaged, and no other file."""
    try:
        tags = read_header(directory).get("tags")
    except (OSError, ValueError):
        return False
    return isinstance(tags, list) and TAG in tags and not list_foreign_files(directory)


def list_foreign_files(directory: Path) -> list[str]:
    """Return the paths below `directory`, sorted, of files and links that are no part of a release."""
    paths = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(directory).as_posix() for path in paths)
    return sorted(name for name in names if is_foreign_file(name))


def is_foreign_file(name: str) -> bool:
    """Whether a file of this path (inside a folder or a repository) is no part of a release."""
    return parse_data_path(name) is None and not _EXTRA_FILES.fullmatch(name)


def header_configs(split_keys: Collection[tuple[str, str]], version: str) -> list[dict[str, Any]]:
    """Return the header's `configs`: for each config the globs of its splits, without a copy of any file.

    Args:
        split_keys (`Collection[tuple[str, str]]`): each (subset, split) that has files.
        version (`str`): X.Y.Z, which `datasets` shows as the version of what it loads.
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


@cache  # compiling it takes a tenth of a second, and a run of many releases or a validation needs it again
def _load_template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "number": "{:,}".format,
        "share": "{:.1%}".format,
        "size": _format_size,
        "usd": _format_usd,
        "spoken": get_label,
        "listed": _join_names,
        "cell": _escape_cell,
    }
    return environment.from_string(_TEMPLATE_PATH.read_text(encoding="utf-8"))


def _template_context(stats: DatasetStats) -> dict[str, Any]:
    return {"stats": stats, "capabilities": tuple(CAPABILITIES), "ks": sorted(stats.questions_by_k)}


def _format_size(count: int) -> str:
    value, unit = float(count), "B"
    for next_unit in ("KB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, next_unit
    return f"{value:.3g} {unit}"


def _format_usd(cost: float | None) -> str:
    """Return US dollars to the cent, or to two digits where they are fewer than that."""
    if cost is None:
        return "not known"
    return f"{cost:,.2f}" if cost >= 0.1 or not cost else f"{cost:.2g}"


def _join_names(names: Collection[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _escape_cell(text: str) -> str:
    """Return a name that others have given as a table can hold it: it ends no cell, and is no markup."""
    return " ".join(text.replace("|", r"\|").replace("<", "&lt;").split())


def _render_header(stats: DatasetStats) -> str:
    from huggingface_hub import DatasetCardData

    header = DatasetCardData(
        language=["en"],
        license=_dataset_license(stats),
        annotations_creators=["machine-generated"],
        task_categories=["visual-question-answering", "image-text-to-text"],
        size_categories=[next((name for limit, name in _SIZE_CATEGORIES if stats.rows() < limit), "n>10M")],
        pretty_name="COMPACT",
        tags=[TAG, "arxiv:2504.21850", "visual-instruction-tuning", "compositional"],
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
            "num_examples": stats.rows(*subsets, split=split),
        }
        for split in SPLITS
        if any(split_name == split for _, split_name in sizes)
    ]
    return {
        "config_name": name,
        "features": card_features(),
        "splits": splits,
        "download_size": sum(size.file_bytes for size in sizes.values()),
        "dataset_size": sum(size.nbytes for size in sizes.values()),
    }


def _dataset_license(stats: DatasetStats) -> str:
    """What the maker said; else the images' one licence, `other` where they have several or none of the Hub's."""
    if stats.license is not None:
        return stats.license
    licenses = {license.lower() for license in stats.licenses} or {"unknown"}
    return licenses.pop() if len(licenses) == 1 and licenses <= LICENSES else "other"
