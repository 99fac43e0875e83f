"""The templates and what they share. In: a template's name and values. Out: HTML, everything escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compact_hf.capabilities import CAPABILITIES, GROUPS
from compact_hf.reports.theme import css_variables, group_of, k_tone, spoken

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> Environment:
    """Return the Jinja environment of this folder's templates.

    Autoescape is on for every template: questions and answers come from teachers, which read pictures from
    anywhere. A name that a template misses is an error, not an empty place.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("compact_hf.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update(
        css_variables=css_variables,
        definitions={name: atom.definition for name, atom in CAPABILITIES.items()},
        groups=GROUPS,
        group_of=group_of,
        k_tone=k_tone,
    )
    found.filters["spoken"] = spoken
    return found
