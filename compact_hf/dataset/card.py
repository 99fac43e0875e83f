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
from compact_hf.dataset.schema import DEFAULT_CONFIG, SPLITS, configs, features_in_card, place_of
from compact_hf.dataset.stats import Facts
from compact_hf.records import digest
from compact_hf.reports.theme import spoken

if TYPE_CHECKING:
    from jinja2 import Template

    from compact_hf.reports.figure import Plot

Combinations = Mapping[tuple[str, ...], int]

FOLDER: Final = "assets"
_NAMES: Final = ("k-distribution", "coverage", "cooccurrence")
FIGURE_PATH: Final = re.compile(rf"{FOLDER}/({'|'.join(_NAMES)})\.png")
"""Path of a card's picture inside a release."""

_COUNTS: Final = "Counts"  # PNG's text chunk with the digest


def paths(combinations: Combinations) -> tuple[str, ...]:
    """Return the paths of the pictures that a release of these counts has: none without a question."""
    if not combinations:
        return ()
    has_pairs = any(len(combination) > 1 for combination in combinations)
    return tuple(_path(name) for name in (_NAMES if has_pairs else _NAMES[:-1]))


def drawn(combinations: Combinations) -> dict[str, Plot]:
    """Return path -> the picture to be put there."""
    from compact_hf.reports import dataset_charts

    made = (dataset_charts.k_distribution, dataset_charts.coverage, dataset_charts.cooccurrence)
    by_path = {_path(name): draw for name, draw in zip(_NAMES, made, strict=True)}
    return {path: by_path[path](combinations) for path in paths(combinations)}


def write_pictures(pictures: Mapping[str, Plot], combinations: Combinations, folder: Path) -> None:
    """Write the pictures below a release's folder."""
    for path, plot in pictures.items():
        (folder / path).parent.mkdir(exist_ok=True)
        notes = {"Description": plot.alt, _COUNTS: _digest(combinations)}
        (folder / path).write_bytes(plot.png(notes=notes))


def picture_defects(folder: Path, card: str, combinations: Combinations) -> Iterator[tuple[str, str, str]]:
    """Yield (check, path, detail) for each defect of the pictures in `folder` with this card and these counts."""
    from PIL import Image

    expected = paths(combinations)
    for path in map(_path, _NAMES):
        if path not in expected:
            if (folder / path).exists():
                yield "card's picture shows other data", path, "there is nothing that it could show"
            continue
        if f'src="{path}"' not in card:
            yield "card does not show its picture", path, "assemble the release again"
        try:
            with Image.open(folder / path) as picture:
                picture.load()
                shown = picture.info.get(_COUNTS)
        except FileNotFoundError:
            yield "card's picture is missing", path, "assemble the release again"
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # the second is Pillow's for broken PNG
            yield "card's picture cannot be read", path, " ".join(str(error).split())
        else:
            if shown != _digest(combinations):
                yield "card's picture shows other data", path, "assemble the release again"


def _path(name: str) -> str:
    return f"{FOLDER}/{name}.png"


def _digest(combinations: Combinations) -> str:
    return digest(sorted(combinations.items()))


CARD: Final = "README.md"
CHANGELOG: Final = "CHANGELOG.md"
TAG: Final = "compact_hf"
"""Tag in the header by which an earlier release is known as ours."""

# Beside the data lie the card and its pictures, what versions changed (changelog.py), and what the Hub and its client
# leave in every copy of a repository.
_BESIDE: Final = re.compile(
    rf"{re.escape(CARD)}|{re.escape(CHANGELOG)}|{FIGURE_PATH.pattern}|\.gitattributes|\.cache/huggingface/.*"
)
_SECTIONS: Final = ("Load it", "A row", "Licences", "Limits", "Versions", "Citation")
_TEMPLATE: Final = Path(__file__).parent / "templates" / "card.md.jinja"
_SIZES: Final = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
# Those of the Hub's identifiers that pictures come under; the Hub refuses a card with any other word.
LICENSES: Final = frozenset(
    (
        "unknown other mit apache-2.0 pddl odc-by odbl cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 "
        "cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
        "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0"
    ).split()
)


def card(facts: Facts, pictures: Mapping[str, Plot]) -> str:
    """Return README.md of a release, header and text, with these pictures (path -> picture) in it."""
    return _template().render(header=_header(facts), pictures=pictures, **_values(facts))


def text_defects(text: str, facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield (check, detail) for each section that a card lacks, and each that says something else than the facts.

    Args:
        text (`str`): the card's.
        facts (`Facts`): as they were measured in the data files; what was dropped, and how all of it came about, cannot
            be seen there, and is not compared.
    """
    for name in _SECTIONS:
        if f"\n## {name}\n" not in text:
            yield "card lacks a section", name
    template = _template()
    context = template.new_context(_values(facts))
    for name, block in template.blocks.items():
        expected = "".join(block(context)).strip()
        if expected not in text:
            line = next(line for line in expected.splitlines() if line not in text.splitlines())
            yield "card disagrees with the data", f"its {name} should say: {line}"


def header_of(folder: Path) -> dict[str, Any]:
    """Return the YAML header of the card in `folder`, empty where there is no card or no header.

    Raises:
        OSError: the card cannot be read.
        ValueError: the header is not YAML, or not a mapping.
    """
    path = folder / CARD
    return header_in(path.read_text(encoding="utf-8") if path.is_file() else "")


def header_in(text: str) -> dict[str, Any]:
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


def is_release(folder: Path) -> bool:
    """Whether `folder` holds a release of ours, whole or damaged, and no other file."""
    try:
        tags = header_of(folder).get("tags")
    except (OSError, ValueError):
        return False
    return isinstance(tags, list) and TAG in tags and not foreign_files(folder)


def foreign_files(folder: Path) -> list[str]:
    """Return the paths below `folder`, sorted, of files and links that are no part of a release."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in paths)
    return sorted(name for name in names if is_foreign(name))


def is_foreign(name: str) -> bool:
    """Whether a file of this path (inside a folder or a repository) is no part of a release."""
    return place_of(name) is None and not _BESIDE.fullmatch(name)


def listed_configs(places: Collection[tuple[str, str]], version: str) -> list[dict[str, Any]]:
    """Return the header's `configs`: for each config the globs of its splits, without a copy of any file.

    Args:
        places (`Collection[tuple[str, str]]`): each (leaf, split) that has files.
        version (`str`): X.Y.Z, which `datasets` shows as the version of what it loads.
    """
    listed: list[dict[str, Any]] = []
    for name, leaves in configs(leaf for leaf, _ in places).items():
        globs = {
            split: [f"data/{leaf}/{split}-*.parquet" for leaf in leaves if (leaf, split) in places] for split in SPLITS
        }
        files = [{"split": split, "path": paths} for split, paths in globs.items() if paths]
        default = {"default": True} if name == DEFAULT_CONFIG else {}
        listed.append({"config_name": name, **default, "version": version, "data_files": files})
    return listed


@cache  # compiling it takes a tenth of a second, and a run of many releases or a validation needs it again
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "number": "{:,}".format,
        "share": "{:.1%}".format,
        "size": _size,
        "usd": _usd,
        "spoken": spoken,
        "listed": _listed,
        "cell": _cell,
    }
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def _values(facts: Facts) -> dict[str, Any]:
    return {"facts": facts, "capabilities": tuple(CAPABILITIES), "ks": sorted(facts.turns)}


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def _usd(cost: float | None) -> str:
    """Return US dollars to the cent, or to two digits where they are fewer than that."""
    if cost is None:
        return "not known"
    return f"{cost:,.2f}" if cost >= 0.1 or not cost else f"{cost:.2g}"


def _listed(parts: Collection[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _cell(text: str) -> str:
    """Return a name that others have given as a table can hold it: it ends no cell, and is no markup."""
    return " ".join(text.replace("|", r"\|").replace("<", "&lt;").split())


def _header(facts: Facts) -> str:
    from huggingface_hub import DatasetCardData

    header = DatasetCardData(
        language=["en"],
        license=_license(facts),
        annotations_creators=["machine-generated"],
        task_categories=["visual-question-answering", "image-text-to-text"],
        size_categories=[next((name for limit, name in _SIZES if facts.rows() < limit), "n>10M")],
        pretty_name="COMPACT",
        tags=[TAG, "arxiv:2504.21850", "visual-instruction-tuning", "compositional"],
        configs=listed_configs(facts.shards, facts.version),
        dataset_info=[_info(facts, name, leaves) for name, leaves in facts.configs.items()],
    )
    return header.to_yaml()


def _info(facts: Facts, name: str, leaves: tuple[str, ...]) -> dict[str, Any]:
    of = {place: shards for place, shards in facts.shards.items() if place[0] in leaves}
    splits = [
        {
            "name": split,
            "num_bytes": sum(shards.nbytes for (_, its), shards in of.items() if its == split),
            "num_examples": facts.rows(*leaves, split=split),
        }
        for split in SPLITS
        if any(its == split for _, its in of)
    ]
    return {
        "config_name": name,
        "features": features_in_card(),
        "splits": splits,
        "download_size": sum(shards.file_bytes for shards in of.values()),
        "dataset_size": sum(shards.nbytes for shards in of.values()),
    }


def _license(facts: Facts) -> str:
    """What the maker said; else the pictures' one licence, `other` where they have several or none of the Hub's."""
    if facts.license is not None:
        return facts.license
    licenses = {license.lower() for license in facts.licenses} or {"unknown"}
    return licenses.pop() if len(licenses) == 1 and licenses <= LICENSES else "other"
