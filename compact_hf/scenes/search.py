"""Finding the programs that a scene supports for a combination of capabilities.

In: a scene, a combination, a random generator. Out: a `Program` that has an answer and needs exactly the
combination. Sets of things are bit masks here (bit i: the scene's thing i), because one scene has thousands of
candidate programs; a branch ends as soon as one of its constraints has become redundant, which more constraints
can never mend.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice

from compact_hf.capabilities import CAPABILITIES
from compact_hf.scenes.kinds import CATEGORIES, COLORS, VERBS
from compact_hf.scenes.program import BESIDE, CLEARLY, Constraint, Program, answer, holds, is_a, needed, the_only
from compact_hf.scenes.scene import SIZE, Scene

Part = tuple[Constraint, int]


@dataclass(frozen=True, slots=True)
class Facts:
    """What may be said of a scene's things: nouns and constraints, each with the mask of whom it is true of."""

    nouns: dict[str, int]
    parts: dict[str, tuple[Part, ...]]
    anchors: tuple[str, ...]


@lru_cache(maxsize=32)
def facts(scene: Scene) -> Facts:
    """Return everything that constraints can say about the scene."""
    names = [*CATEGORIES, *dict.fromkeys(thing.kind for thing in scene.things)]
    nouns = {name: _mask(is_a(thing, name) for thing in scene.things) for name in names}
    anchors = tuple(_anchors(scene, nouns))
    parts: dict[str, tuple[Part, ...]] = {}
    for capability in CAPABILITIES:
        masked = (
            (part, _mask(holds(scene, thing, part) for thing in scene.things))
            for part in _said(scene, capability, anchors)
        )
        parts[capability] = tuple((part, mask) for part, mask in masked if mask)
    return Facts({name: mask for name, mask in nouns.items() if mask}, parts, anchors)


def find(scene: Scene, capabilities: tuple[str, ...], rng: random.Random) -> Program | None:
    """Return a program drawn by `rng` that needs exactly `capabilities`; None where the scene has none."""
    for asked in rng.sample(_askable(capabilities), len(_askable(capabilities))):
        # One of a kind is what most counts would come to, and the answer "1" could be guessed.
        programs = list(islice(_programs(scene, asked, capabilities, rng), 5 if asked == "counting" else 1))
        if programs:
            return next((program for program in programs if answer(scene, program) != "1"), programs[0])
    return None


def supports(scene: Scene, k: int) -> tuple[tuple[str, ...], ...]:
    """Return every combination of `k` capabilities for which `find` finds a program, in canonical order."""
    rng = random.Random(0)
    chainable = _chainable(facts(scene), k - 1)
    return tuple(
        names
        for names in combinations(CAPABILITIES, k)
        if any(_constraining(asked, names) in chainable for asked in _askable(names))
        and find(scene, names, rng) is not None
    )


def _chainable(known: Facts, most: int) -> set[tuple[str, ...]]:
    """Return the names, up to `most` and in canonical order, that can constrain some noun together, none redundant.

    Where all of them can, so can any few of them: so sets of names grow by one name at a time, and most never do.
    """
    rng, order = random.Random(0), tuple(CAPABILITIES)
    found: set[tuple[str, ...]] = {()}
    for base in set(known.nouns.values()):
        able: set[tuple[str, ...]] = {()}
        for _ in range(most):
            longer = ((*names, name) for names in able for name in order[order.index(names[-1]) + 1 if names else 0 :])
            able = {
                names
                for names in longer
                if all(names[:i] + names[i + 1 :] in able for i in range(len(names)))
                and next(_chains(known, base, list(names), rng), None) is not None
            }
            found |= able
    return found


def _askable(capabilities: tuple[str, ...]) -> list[str]:
    """Return the members that can be the answer's, given that all others must be constraints.

    To name a thing is never a constraint, to count is one only where a kind is asked for, and the place does not
    depend on anything else that a question could say.
    """
    if "object_recognition" in capabilities:
        return ["object_recognition"]
    if "counting" in capabilities:
        return ["counting"]
    return [name for name in capabilities if name != "scene_understanding" or len(capabilities) == 1]


def _constraining(asked: str, capabilities: tuple[str, ...]) -> tuple[str, ...]:
    """Return the members that are constraints: all but what is asked for, and counting beside a kind, which groups."""
    grouped = {"counting"} if asked == "object_recognition" else set()
    return tuple(name for name in capabilities if name != asked and name not in grouped)


def _programs(scene: Scene, asked: str, capabilities: tuple[str, ...], rng: random.Random) -> Iterator[Program]:
    if asked == "scene_understanding":
        yield Program(asked, "place")
        return
    known = facts(scene)
    grouped = asked == "object_recognition" and "counting" in capabilities
    rest = list(_constraining(asked, capabilities))
    nouns = list(CATEGORIES) if asked == "object_recognition" else list(known.nouns)
    rng.shuffle(nouns)
    for noun in nouns:
        for parts, mask in _chains(known, known.nouns.get(noun, 0), rest, rng):
            for program in _questions(known, Program(asked, noun, parts), mask, grouped, rng):
                said = {noun, program.other, *(part.value for part in parts), *(part.other for part in parts)}
                if answer(scene, program) not in {None, *said} and needed(scene, program) == capabilities:
                    yield program


def _chains(
    known: Facts, base: int, names: list[str], rng: random.Random
) -> Iterator[tuple[tuple[Constraint, ...], int]]:
    """Yield one constraint for each of `names` such that none is redundant, and the mask of what they leave."""
    choices = []
    for name in names:
        telling = [part for part in known.parts[name] if 0 != part[1] & base != base]
        choices.append(rng.sample(telling, len(telling)))

    def extend(
        chain: tuple[Constraint, ...], left: int, without: tuple[int, ...]
    ) -> Iterator[tuple[tuple[Constraint, ...], int]]:
        """Go on from a chain that leaves `left`, and `without[i]` if its i-th constraint is dropped."""
        if len(chain) == len(choices):
            yield chain, left
            return
        for part, mask in choices[len(chain)]:
            fewer = left & mask
            dropped = (*(more & mask for more in without), left)
            if fewer and fewer not in dropped:
                yield from extend((*chain, part), fewer, dropped)

    if base:
        yield from extend((), base, ())


def _questions(known: Facts, program: Program, mask: int, grouped: bool, rng: random.Random) -> Iterator[Program]:
    """Yield the ways to complete `program`, whose constraints leave the things in `mask`."""
    asked, noun, parts = program.asked, program.noun, program.constraints
    several = mask & (mask - 1)
    axes = {axis for part in parts if (axis := _axis(part))}
    if grouped:
        sizes = [2, 3, 4, 5]
        yield from (Program(asked, noun, parts, count=size) for size in rng.sample(sizes, 4))
    elif asked == "counting":
        yield program
    elif asked == "spatial_recognition" and several:
        yield Program(asked, noun, parts, aspect="arrangement")
    elif several:
        return
    elif asked == "spatial_recognition":
        # A question that speaks of left and right must not ask for left or right: the words would tell.
        aspects = [aspect for aspect, axis in (("depth", "z"), ("side", "x")) if axis not in axes]
        yield from (Program(asked, noun, parts, aspect=aspect) for aspect in rng.sample(aspects, len(aspects)))
    elif asked == "spatial_relationship":
        anchors = [name for name in known.anchors if name != noun and "x" not in axes]
        yield from (Program(asked, noun, parts, other=name) for name in rng.sample(anchors, len(anchors)))
    else:
        yield program


def _axis(part: Constraint) -> str:
    if part.value in ("left of", "right of", "left half", "right half"):
        return "x"
    return "z" if part.value in ("foreground", "background") else ""


def _anchors(scene: Scene, nouns: dict[str, int]) -> Iterator[str]:
    """Yield the kinds that are there once, with everything else clearly to one side.

    Kinds that belong to a place are left out: "left of the tractor" would tell which kinds to expect.
    """
    for name, mask in nouns.items():
        if name in CATEGORIES or mask & (mask - 1):
            continue
        anchor = scene.things[mask.bit_length() - 1]
        others = (thing for thing in scene.things if thing is not anchor)
        if not anchor.what.home and all(abs(thing.x - anchor.x) >= CLEARLY for thing in others):
            yield name


def _has_clear_neighbours(scene: Scene, name: str) -> bool:
    anchor = the_only(scene, name)
    row = [thing for thing in scene.things if anchor is not None and thing.depth == anchor.depth]
    return anchor is not None and all(abs(abs(thing.x - anchor.x) - BESIDE) >= CLEARLY for thing in row)


def _said(scene: Scene, capability: str, anchors: tuple[str, ...]) -> list[Constraint]:
    """Return the constraints of one capability that this scene's questions may use."""
    things = scene.things
    values: list[tuple[str, str]] = []
    match capability:
        case "color":
            values = [(color, "") for color in COLORS if any(thing.color == color for thing in things)]
        case "shape":
            values = [(shape, "") for shape in sorted({thing.shape for thing in things} - {""})]
        case "action_recognition":
            values = [(action, "") for action in sorted({thing.action for thing in things} - {""})]
        case "text_recognition":
            values = [(word, "") for word in sorted({thing.word for thing in things} - {""})]
        case "spatial_recognition":
            values = [("foreground", ""), ("background", "")]
            if all(abs(thing.x - SIZE // 2) >= CLEARLY for thing in things):
                values += [("left half", ""), ("right half", "")]
            if scene.arrangement:
                values.append((scene.arrangement, ""))
        case "spatial_relationship":
            values = [(side, name) for name in anchors for side in ("left of", "right of")]
            values += [("next to", name) for name in anchors if _has_clear_neighbours(scene, name)]
        case "object_interaction":
            agents = [thing for thing in things if thing.doing]
            values = [(thing.doing, "") for thing in agents] + [(VERBS[thing.doing], "") for thing in agents]
            values += [(VERBS[thing.doing], name) for thing in agents for name in (thing.kind, thing.what.category)]
            values = list(dict.fromkeys(values))
        case "scene_understanding":
            values = [("odd", "")]
    return [Constraint(capability, value, other) for value, other in values]


def _mask(flags: Iterator[bool]) -> int:
    return sum(1 << i for i, flag in enumerate(flags) if flag)
