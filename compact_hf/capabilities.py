"""Defines the ten atomic visual capabilities, their groups, and the rule by which a question needs a capability.

The prompts of teacher and verifier and the questions about drawn scenes all use these definitions, so that the three
stay consistent (paper, section 3.1 and appendix).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from compact_hf.errors import UnknownCapabilityError


@dataclass(frozen=True, slots=True)
class Capability:
    """One atomic capability.

    Attributes:
        name (`str`): the name in prompts, journals and datasets.
        group (`str`): `attribution`, `recognition` or `relation`.
        definition (`str`): what a question that needs the capability asks about; part of the prompts.
    """

    name: str
    group: str
    definition: str


# (name, group, definition). The order decides the order of names in prompts and rows, and what a seed draws.
# A definition is part of the prompts: after a change, runs that were started before cannot be resumed.
_CAPABILITIES: Final = (
    Capability("color", "attribution", "naming or comparing the colours of things"),
    Capability("shape", "attribution", "naming or describing the shapes of things"),
    Capability("object_recognition", "recognition", "naming the things that are there"),
    Capability("action_recognition", "recognition", "what is being done; one actor is enough"),
    Capability("text_recognition", "recognition", "reading text in the picture"),
    Capability("spatial_recognition", "recognition", "the layout of the whole scene: arrangement, depth, perspective"),
    Capability("counting", "recognition", "how many of something there are"),
    Capability("spatial_relationship", "relation", "where particular things are relative to each other"),
    Capability(
        "object_interaction",
        "relation",
        "how two or more things act on each other; at least one is active, two still things do not count",
    ),
    Capability("scene_understanding", "relation", "what kind of place or setting it is"),
)

CAPABILITIES: Final[dict[str, Capability]] = {atom.name: atom for atom in _CAPABILITIES}
"""Name -> capability, in the paper's order, which is the order of capabilities everywhere."""

GROUPS: Final[tuple[str, ...]] = ("attribution", "recognition", "relation")

NEEDED_RULE: Final = (
    "A question needs a capability if without it the things referred to, or the answer, would be different. "
    "A capability that is only touched on in passing is not needed. Naming a thing only to point at it is not "
    'object_recognition: "What colour is the car?" needs color alone, while "What is the red thing?" needs '
    "color and object_recognition, because the answer itself names a thing."
)
"""The rule by which a question needs a capability. Prompts quote it literally, and questions about scenes follow it."""


def canonicalize(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names without duplicates, in the paper's order.

    Raises:
        UnknownCapabilityError: a name is not one of the ten capabilities.
    """
    unique_names = set(names)
    unknown = unique_names - CAPABILITIES.keys()
    if unknown:
        # Sorted, because the order of a set of strings differs between processes.
        raise UnknownCapabilityError(sorted(unknown)[0], tuple(CAPABILITIES))
    return tuple(name for name in CAPABILITIES if name in unique_names)


def describe_capabilities(names: Iterable[str] = CAPABILITIES) -> str:
    """Return one line `- name: definition` per name, in the given order, for a prompt."""
    return "\n".join(f"- {name}: {CAPABILITIES[name].definition}" for name in names)
