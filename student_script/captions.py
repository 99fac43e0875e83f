"""Writes the conversations for alignment, which describe drawn scenes.

A scene is described as a whole or in parts: "Describe the red kites in the background." Every object gets one short
phrase whose words are always in the same order, because the model has not learned English before: side and plane,
color, kind, shape, word, action, what is done to it, and whether it is misplaced. Objects are also told about in
sentences, counted, pointed at, given boxes, and named in calls of tools, so that whatever is tuned on the model later
finds these forms learned. Requests for parts use the grammar of the scenes' questions. Alignment conversations contain
no questions and no answers.

Coordinates are percent of the width and height of the image, whole numbers from 0 to 100, from its upper left corner: a
point is `[x, y]`, a box `[left, top, right, bottom]`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from compact_hf.capabilities import CAPABILITIES
from compact_hf.scenes.kinds import KINDS, VERBS
from compact_hf.scenes.phrases import PLURALS, write_phrase
from compact_hf.scenes.program import Constraint, get_half
from compact_hf.scenes.render import get_box
from compact_hf.scenes.scene import SIZE, Scene, SceneObject
from compact_hf.scenes.search import index_scene

Exchange = tuple[str, str]
"""(request, description)."""

SCENE_REQUEST: Final = "Describe the picture."
NOTHING: Final = "none"
"""The description of a part that the scene does not have."""
_PART_COUNT: Final = 8
"""Number of exchanges about parts of a scene."""
_CONSTRAINT_COUNTS: Final = (0, 1, 1, 2, 2)
"""Numbers of constraints in a request for a part, from which one is chosen at random: 1 and 2 are twice as likely."""
_UNSPOKEN_CAPABILITIES: Final = frozenset({"counting", "object_recognition"})
"""Capabilities without constraints in a phrase."""
_ABSENT_SHARE: Final = 0.08
"""Share of the requests for a part that the scene does not have."""
_WHOLE_COUNT_SHARE: Final = 0.12
"""Share of the requests to count that are about all things."""
_REDRAWN_ONES: Final = 0.7
"""Share of the requests to count one thing that are replaced by others."""
_TEXT_TOOLS: Final = ("detect", "read", "count", "caption")
"""Tools whose calls need no place, so that they can be called about a scene that is described in words."""
_TOOLS: Final = (*_TEXT_TOOLS, "crop")


@dataclass(frozen=True, slots=True)
class Part:
    """The things of a scene that a phrase refers to.

    Attributes:
        scene (`Scene`): the scene.
        plural (`str`): the phrase in the plural, with its article: "the red kites".
        phrase (`str`): a phrase for the same things, in the singular if it refers to one.
        noun (`str`): its noun, in the plural.
        objects (`list[SceneObject]`): the things, background first, each plane from left to right; may be empty.
    """

    scene: Scene
    plural: str
    phrase: str
    noun: str
    objects: list[SceneObject]


def conversation(scene: Scene, rng: random.Random) -> list[Exchange]:
    """Return a conversation about one image: exchanges about parts of the scene, in half of them after one about all.

    Args:
        scene (`Scene`): the scene in the image.
        rng (`random.Random`): chooses the requests.
    """
    whole = [(SCENE_REQUEST, describe_scene(scene))] if rng.random() < 0.5 else []
    return [*whole, *(_draw_exchange(scene, rng, _FORMS, _TOOLS) for _ in range(_PART_COUNT))]


def text_conversation(scene: Scene, rng: random.Random) -> list[Exchange]:
    """Return a conversation about a scene that is described in the first request instead of shown.

    Points and boxes do not occur, because the description has none. Some requests name a part by what the description
    leaves out, such as the members of a group in a row.

    Args:
        scene (`Scene`): the scene.
        rng (`random.Random`): chooses the requests.
    """
    forms = {form: weight for form, weight in _FORMS.items() if form not in ("point", "box")}
    (request, description), *others = (_draw_exchange(scene, rng, forms, _TEXT_TOOLS) for _ in range(_PART_COUNT))
    return [(f"{describe_scene(scene)}\n{request}", description), *others]


def describe_scene(scene: Scene) -> str:
    """Return a description of the place and all objects, background first, each plane from left to right.

    Args:
        scene (`Scene`): the scene in the image.
    """
    arranged = f"; in a {scene.arrangement}" if scene.arrangement else ""
    return f"{_describe_place(scene)}: {_list_objects(scene, _sort_objects(scene.objects))}{arranged}."


def draw_part(scene: Scene, rng: random.Random) -> Part:
    """Return a random part of a scene, or a phrase that refers to nothing in it.

    Args:
        scene (`Scene`): the scene in the image.
        rng (`random.Random`): chooses the objects.
    """
    index = index_scene(scene)
    is_absent = rng.random() < _ABSENT_SHARE
    # Objects are bits of a mask. Each constraint narrows it down, but never to nothing unless that is wanted.
    noun, mask = rng.choice(list(index.nouns.items()))
    constraints: list[Constraint] = []
    capabilities = [name for name in CAPABILITIES if name not in _UNSPOKEN_CAPABILITIES and index.constraints[name]]
    for capability in rng.sample(capabilities, min(rng.choice(_CONSTRAINT_COUNTS), len(capabilities))):
        candidates = [(constraint, matches) for constraint, matches in index.constraints[capability] if matches & mask]
        # A capability is left out if each of its constraints would exclude all remaining objects.
        if candidates:
            constraint, matches = rng.choice(candidates)
            constraints.append(constraint)
            mask &= matches
    if is_absent:
        # Of another kind of the same category, so that the constraints still suit the noun.
        category = KINDS[noun].category if noun in KINDS else noun
        absent = [kind.name for kind in KINDS.values() if kind.category == category and kind.name not in index.nouns]
        noun, mask = rng.choice(absent), 0
    objects = _sort_objects([obj for i, obj in enumerate(scene.objects) if mask >> i & 1])
    plural = f"the {write_phrase(noun, tuple(constraints), rng, plural=True)}"
    # A phrase in the singular has its article.
    phrase = write_phrase(noun, tuple(constraints), rng, plural=False) if len(objects) == 1 else plural
    return Part(scene, plural, phrase, PLURALS[noun], objects)


def describe_part(part: Part) -> Exchange:
    """Return a request for a description of some objects, and the description."""
    return f"Describe {part.plural}.", f"{_list_objects(part.scene, part.objects)}."


def tell_about_part(part: Part) -> Exchange:
    """Return a request to tell about some objects, and sentences: about the only one, or how many there are."""
    request = f"Tell me about {part.phrase}."
    if len(part.objects) != 1:
        return request, f"There are {len(part.objects) or 'no'} {part.noun}."
    (obj,) = part.objects
    half = get_half(obj)
    place = f"in the {half} half of the {obj.depth}" if half else f"in the middle of the {obj.depth}"
    sentences = [f"There is {'an' if obj.color == 'orange' else 'a'} {obj.color} {obj.kind} {place}."]
    if obj.shape:
        sentences.append(f"Its {'shape' if obj.kind_info.category == 'object' else 'badge'} is {obj.shape}.")
    if obj.word:
        sentences.append(f"It says {obj.word}.")
    if obj.action:
        sentences.append(f"The {obj.kind} is {obj.action}.")
    if obj.verb:
        sentences.append(f"The {obj.kind} is {obj.verb} the {part.scene.objects[obj.target].kind}.")
    if verb := passive_verb(part.scene, obj):
        sentences.append(f"The {obj.kind} is being {verb}.")
    return request, " ".join(sentences)


def count_part(part: Part) -> Exchange:
    """Return a request to count some objects, and their number, from 0."""
    return f"Count {part.plural}.", str(len(part.objects))


def point_at_part(part: Part) -> Exchange:
    """Return a request to point at some objects, and the middle of the box of each."""
    points = [((left + right) / 2, (top + bottom) / 2) for left, top, right, bottom in map(get_box, part.objects)]
    return f"Point at {part.phrase}.", _list_coordinates(points)


def box_part(part: Part) -> Exchange:
    """Return a request for the boxes of some objects, and the box of each."""
    return f"Mark {part.phrase} with a box.", _list_coordinates([get_box(obj) for obj in part.objects])


def call_for_part(part: Part, tool: str) -> Exchange:
    """Return a request to call a tool for some objects, and the call in JSON; only `crop` takes a box.

    Args:
        part (`Part`): the objects.
        tool (`str`): name of the tool.
    """
    arguments: dict[str, object] = {"query": part.phrase.removeprefix("the ")}
    if tool == "crop" and len(part.objects) == 1:
        arguments = {"box": _to_percent(get_box(part.objects[0]))}
    return f"Call the tool {tool} for {part.phrase}.", json.dumps({"name": tool, "arguments": arguments})


def passive_verb(scene: Scene, obj: SceneObject) -> str:
    """Return what is done to an object, such as "pushed", or an empty string; no object has two actors."""
    return next((VERBS[actor.verb] for actor in scene.objects if actor.verb and scene.objects[actor.target] is obj), "")


# Form of an exchange about a part -> how often it is used, relative to the others.
_FORMS: Final = {"describe": 6, "count": 4, "point": 4, "box": 2, "tell": 3, "call": 1}


def _draw_exchange(scene: Scene, rng: random.Random, forms: Mapping[str, int], tools: Sequence[str]) -> Exchange:
    """Return an exchange of a random form, by the weights in `forms`, about a random part of a scene."""
    (form,) = rng.choices(list(forms), list(forms.values()))
    part = draw_part(scene, rng)
    match form:
        case "describe":
            return describe_part(part)
        case "count":
            if rng.random() < _WHOLE_COUNT_SHARE:
                return "Count all things.", str(len(scene.objects))
            # Most phrases refer to one thing, so others are preferred.
            while len(part.objects) == 1 and rng.random() < _REDRAWN_ONES:
                part = draw_part(scene, rng)
            return count_part(part)
        case "point":
            return point_at_part(part)
        case "box":
            return box_part(part)
        case "tell":
            return tell_about_part(part)
        case _:
            return call_for_part(part, rng.choice(tools))


def _describe_place(scene: Scene) -> str:
    return f"{scene.place} at night" if scene.night else scene.place


def _sort_objects(objects: Sequence[SceneObject]) -> list[SceneObject]:
    # In alphabetical order, "background" precedes "foreground".
    return sorted(objects, key=lambda obj: (obj.depth, obj.x))


def _list_objects(scene: Scene, objects: Sequence[SceneObject]) -> str:
    return "; ".join(_phrase(scene, obj) for obj in objects) or NOTHING


def _list_coordinates(places: Sequence[Sequence[float]]) -> str:
    """Return points or boxes, in pixels, as a list in percent."""
    return ", ".join(str(_to_percent(place)) for place in places) or NOTHING


def _to_percent(place: Sequence[float]) -> list[int]:
    return [round(100 * value / SIZE) for value in place]


def _phrase(scene: Scene, obj: SceneObject) -> str:
    """Return the phrase about one object, with its words in the fixed order."""
    misplaced = "misplaced" if scene.place in obj.kind_info.odd_places else ""
    words = (get_half(obj) or "middle", obj.depth, obj.color, obj.kind, obj.shape, obj.word)
    return " ".join(filter(None, (*words, obj.action or obj.verb, passive_verb(scene, obj), misplaced)))
