"""Applies the Hub's rules for the headers of cards: identifiers, licenses, and the check that the Hub makes itself.

The rules are those of modelcard.md and datasetcard.md in https://github.com/huggingface/hub-docs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import HubError
from compact_hf.hub.card import CARD

if TYPE_CHECKING:
    from compact_hf.hub.staging import RepoType

# The identifiers of https://huggingface.co/docs/hub/repositories-licenses. The Hub rejects a card with any other one.
LICENSES: Final = frozenset(
    (
        "unknown other afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m "
        "bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 "
        "c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 "
        "cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 "
        "cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m "
        "deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 "
        "fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research "
        "intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
        "lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 pddl "
        "postgresql unlicense wtfpl zlib"
    ).split()
)
_OTHER_LICENSE: Final = "other"
_NOT_IN_IDENTIFIERS: Final = re.compile(r"[^a-z0-9._/-]+")


def to_identifier(text: str) -> str:
    """Return a text as an identifier of the Hub: lower-case letters, digits, `-`, `.`, `_` and `/`, without spaces.

    Args:
        text (`str`): a name that people read.
    """
    return _NOT_IN_IDENTIFIERS.sub("-", text.lower()).strip("-./_")


def license_fields(name: str, *, link: str = "") -> dict[str, Any]:
    """Return the fields of a card's header for a license that has no identifier on the Hub.

    Args:
        name (`str`): name of the license; the Hub allows `my-license-1.0`, but neither spaces nor slashes.
        link (`str`, *optional*, defaults to none): URL of its text.
    """
    identifier = re.sub(r"[/_]", "-", to_identifier(name)) or "custom-license"
    fields = {"license": _OTHER_LICENSE, "license_name": identifier}
    return fields | ({"license_link": link} if link else {})


def read_license_fields(header: Mapping[str, Any], *, page: str = "") -> dict[str, Any]:
    """Return the license fields of a card for the card of another repository, in the form that the Hub demands.

    Args:
        header (`Mapping[str, Any]`): header of the card.
        page (`str`, *optional*, defaults to none): URL of the card's repository at its revision, such as
            `https://huggingface.co/org/name/blob/main`. A link to a file of that repository becomes a URL; without it,
            the link is left out.
    """
    license, name, link = (header.get(key) or "" for key in ("license", "license_name", "license_link"))
    if isinstance(license, list):
        # A choice of licenses, which `ModelCardData` cannot express.
        name = name or "-or-".join(map(str, license))
        license = license[0] if len(license) == 1 else _OTHER_LICENSE
    identifier = str(license).lower()
    if identifier in LICENSES - {_OTHER_LICENSE}:
        return {"license": identifier}
    name = name or ("" if identifier == _OTHER_LICENSE else license)
    if not identifier and not name:
        return {}
    if not re.match(r"https?://", str(link)):
        link = f"{page}/{link or CARD}" if page else ""
    return license_fields(str(name) or "license-of-the-base-model", link=str(link))


def check_card(directory: Path, *, repo_type: RepoType) -> None:
    """Let the Hub check the card in a directory, before a repository is created for it.

    Args:
        directory (`Path`): the directory that will be uploaded; without a card there is nothing to check.
        repo_type (`str`): `dataset`, `model` or `space`.

    Raises:
        HubError: the Hub rejects the card's header, or the card is not UTF-8.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    path = directory / CARD
    if not path.is_file():
        return
    try:
        body = {"content": path.read_text(encoding="utf-8"), "repoType": repo_type}
    except UnicodeDecodeError as error:
        raise HubError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
    response = get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=body, headers=build_hf_headers())
    if response.status_code == 400:
        problems = "; ".join(" ".join(str(error["message"]).split()) for error in response.json()["errors"])
        raise HubError(f"the Hub rejects the metadata in {CARD} ({problems}): correct it and run the command again")
    hf_raise_for_status(response)
