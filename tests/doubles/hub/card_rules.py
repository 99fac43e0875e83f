"""What the Hub says about the header of a card, at `/api/validate-yaml` and at every commit that holds one.

The rules are those that its documentation gives: modelcard.md and datasetcard.md of hub-docs, the list of licenses, and
the reference of the configuration of Spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

LICENSES: Final = frozenset(
    (
        "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
        "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc "
        "cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 "
        "cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 "
        "cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 "
        "eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c "
        "ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa "
        "unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 "
        "llama3.2 llama3.3 llama4 grok2-community gemma unknown other"
    ).split()
)
SIZE_CATEGORIES: Final = frozenset(
    "n<1K 1K<n<10K 10K<n<100K 100K<n<1M 1M<n<10M 10M<n<100M 100M<n<1B 1B<n<10B 10B<n<100B 100B<n<1T n>1T other".split()
)
_LICENSE_NAME: Final = re.compile(r"[a-z0-9.-]+")
_LICENSE_LINK: Final = re.compile(r"LICENSE(\.md)?|https?://\S+")
_IDENTIFIER: Final = re.compile(r"[\w./:-]+")
_SDKS: Final = ("gradio", "docker", "static")
_COLORS: Final = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


def find_problems(content: str, repo_type: str) -> list[str]:
    """Return what is wrong with the header of a card, empty if nothing is.

    Args:
        content (`str`): of README.md.
        repo_type (`str`): `model`, `dataset` or `space`.
    """
    if not content.startswith("---\n"):
        return []
    try:
        header = yaml.safe_load(content[4:].split("\n---", 1)[0])
    except yaml.YAMLError as error:
        return [str(error)]
    if not isinstance(header, dict):
        return ["the header is not a mapping"]
    rules = {"model": _check_model, "dataset": _check_dataset, "space": _check_space}
    return [*_check_license(header), *rules[repo_type](header)]


def _check_license(header: dict[str, Any]) -> Iterator[str]:
    for license in _as_list(header.get("license")):
        if license not in LICENSES:
            yield f'"license" must be one of [{", ".join(sorted(LICENSES))}]'
        if license == "other" and not header.get("license_name"):
            yield '"license_name" is required where "license" is other'
    if "license_name" in header and not _LICENSE_NAME.fullmatch(str(header["license_name"])):
        yield f'"license_name" with value "{header["license_name"]}" is no id such as my-license-1.0'
    if "license_link" in header and not _LICENSE_LINK.fullmatch(str(header["license_link"])):
        yield '"license_link" must be LICENSE, LICENSE.md or a URL'


def _check_dataset(header: dict[str, Any]) -> Iterator[str]:
    for size in _as_list(header.get("size_categories")):
        if size not in SIZE_CATEGORIES:
            yield f'"size_categories" must be one of [{", ".join(sorted(SIZE_CATEGORIES))}]'


def _check_model(header: dict[str, Any]) -> Iterator[str]:
    for model in header.get("model-index", []):
        if not model.get("name"):
            yield '"model-index[].name" is required'
        for result in model["results"]:
            for place in ("task", "dataset", *range(len(result["metrics"]))):
                value = (result["metrics"] if isinstance(place, int) else result)[place].get("type")
                if not _IDENTIFIER.fullmatch(str(value or "")):
                    yield f'"model-index[].results[].{place}.type" with value "{value}" must be an id without spaces'
            if not result["dataset"].get("name"):
                yield '"model-index[].results[].dataset.name" is required'


def _check_space(header: dict[str, Any]) -> Iterator[str]:
    if header.get("sdk", _SDKS[0]) not in _SDKS:
        yield f'"sdk" must be one of [{", ".join(_SDKS)}]'
    for key in ("colorFrom", "colorTo"):
        if header.get(key, _COLORS[0]) not in _COLORS:
            yield f'"{key}" must be one of [{", ".join(_COLORS)}]'
    if len(header.get("short_description", "")) > 60:
        yield '"short_description" length must be less than or equal to 60 characters long'


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
