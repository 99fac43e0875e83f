"""Searches a scene for programs that need exactly a given combination of capabilities.

Sets of things are bit masks (bit i is `scene.objects[i]`), because one scene has thousands of candidate programs. The
search adds one constraint at a time. It abandons a branch as soon as one of its constraints is redundant, because a
redundant constraint stays redundant when others are added.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice

from compact_hf.capabilities import CAPABILITIES
from compact_hf.scenes.kinds import CATEGORIES, COLORS, VERBS
from compact_hf.scenes.program import (
    MIN_OFFSET,
    NEXT_TO_DISTANCE,
    Constraint,
    Program,
    compute_answer,
    find_unique,
    is_a,
    needed_capabilities,
    satisfies,
)
from compact_hf.scenes.scene import SIZE, Scene

MaskedConstraint = tuple[Constraint, int]


@dataclass(frozen=True, slots=True)
class SceneIndex:
    """The nouns and constraints that apply to a scene, with the things that each of them is true of.

    Attributes:
        nouns (`dict[str, int]`): noun -> bit mask of the things that it names.
        constraints (`dict[str, tuple[MaskedConstraint, ...]]`): capability -> pairs of a constraint and the bit mask of
            the things that satisfy it.
        anchors (`tuple[str, ...]`): nouns that spatial relations may refer to.
    """

    nouns: dict[str, int]
    constraints: dict[str, tuple[MaskedConstraint, ...]]
    anchors: tuple[str, ...]


@lru_cache(maxsize=32)
def index_scene(scene: Scene) -> SceneIndex:
    """Return the nouns and constraints that apply to the scene."""
    # Each kind once, in the order of the scene.
    names = [*CATEGORIES, *dict.fromkeys(obj.kind for obj in scene.objects)]
    nouns = {name: _mask(is_a(obj, name) for obj in scene.objects) for name in names}
    anchors = tuple(_iter_anchors(scene, nouns))
    constraints: dict[str, tuple[MaskedConstraint, ...]] = {}
    for capability in CAPABILITIES:
        masked = (
            (constraint, _mask(satisfies(scene, obj, constraint) for obj in scene.objects))
            for constraint in _list_constraints(scene, capability, anchors)
        )
        # A constraint that no thing satisfies cannot be part of a program.
        constraints[capability] = tuple((constraint, mask) for constraint, mask in masked if mask)
    return SceneIndex({name: mask for name, mask in nouns.items() if mask}, constraints, anchors)


def find_program(scene: Scene, capabilities: tuple[str, ...], rng: random.Random) -> Program | None:
    """Return a random program that needs exactly some capabilities.

    Args:
        scene (`Scene`): the scene.
        capabilities (`tuple[str, ...]`): the capabilities, in canonical order.
        rng (`random.Random`): draws the program.

    Returns:
        A program that has an answer in the scene, or None if there is no program for these capabilities.
    """
    # All queries in random order, because some of them may have no program.
    for query in rng.sample(_possible_queries(capabilities), len(_possible_queries(capabilities))):
        # Most counts would be 1, which could be guessed. Therefore the first of five programs with another answer is
        # preferred.
        programs = list(islice(_iter_programs(scene, query, capabilities, rng), 5 if query == "counting" else 1))
        if programs:
            return next((program for program in programs if compute_answer(scene, program) != "1"), programs[0])
    return None


def find_combinations(scene: Scene, k: int) -> tuple[tuple[str, ...], ...]:
    """Return all combinations of `k` capabilities for which `find_program` finds a program, in canonical order."""
    # Any seed will do: it decides which program is found first, not whether there is one.
    rng = random.Random(0)
    chainable = _chainable(index_scene(scene), k - 1)
    return tuple(
        names
        for names in combinations(CAPABILITIES, k)
        if any(_constraint_capabilities(query, names) in chainable for query in _possible_queries(names))
        and find_program(scene, names, rng) is not None
    )


def _chainable(index: SceneIndex, max_size: int) -> set[tuple[str, ...]]:
    """Return the sets of up to `max_size` capabilities that can constrain a noun together, none of them redundant.

    All subsets of such a set have the same property. The sets are therefore extended by one capability at a time (the
    Apriori principle), and most candidates are excluded early. Each set is a tuple in canonical order.
    """
    rng, order = random.Random(0), tuple(CAPABILITIES)
    result: set[tuple[str, ...]] = {()}
    # Nouns that name the same things are searched once.
    for base in set(index.nouns.values()):
        current: set[tuple[str, ...]] = {()}
        for _ in range(max_size):
            # Names are only appended in canonical order, so that each set occurs once.
            extended = (
                (*names, name) for names in current for name in order[order.index(names[-1]) + 1 if names else 0 :]
            )
            current = {
                names
                for names in extended
                # Apriori: all subsets with one name less are in the previous generation.
                if all(names[:i] + names[i + 1 :] in current for i in range(len(names)))
                and next(_iter_chains(index, base, list(names), rng), None) is not None
            }
            result |= current
    return result


def _possible_queries(capabilities: tuple[str, ...]) -> list[str]:
    """Return the capabilities that can be the query if all others have to be constraints.

    object_recognition is never a constraint. counting is a constraint only if the query is object_recognition. The
    answer of scene_understanding, the place, does not depend on constraints, so it can only be queried alone.
    """
    if "object_recognition" in capabilities:
        return ["object_recognition"]
    if "counting" in capabilities:
        return ["counting"]
    return [name for name in capabilities if name != "scene_understanding" or len(capabilities) == 1]


def _constraint_capabilities(query: str, capabilities: tuple[str, ...]) -> tuple[str, ...]:
    """Return the capabilities that become constraints: all but the query.

    With the query object_recognition, counting is not a constraint either, because it becomes `Program.count`.
    """
    excluded = {"counting"} if query == "object_recognition" else set()
    return tuple(name for name in capabilities if name != query and name not in excluded)


def _iter_programs(scene: Scene, query: str, capabilities: tuple[str, ...], rng: random.Random) -> Iterator[Program]:
    """Yield programs with this query that need exactly `capabilities` and do not have the answer in the question."""
    if query == "scene_understanding":
        yield Program(query, "place")
        return
    index = index_scene(scene)
    is_grouped = query == "object_recognition" and "counting" in capabilities
    names = list(_constraint_capabilities(query, capabilities))
    # A question about the kind must not name the kind.
    nouns = list(CATEGORIES) if query == "object_recognition" else list(index.nouns)
    rng.shuffle(nouns)
    for noun in nouns:
        for constraints, mask in _iter_chains(index, index.nouns.get(noun, 0), names, rng):
            for program in _iter_variants(index, Program(query, noun, constraints), mask, is_grouped, rng):
                question_words = {
                    noun,
                    program.other_noun,
                    *(constraint.value for constraint in constraints),
                    *(constraint.other_noun for constraint in constraints),
                }
                if (
                    compute_answer(scene, program) not in {None, *question_words}
                    # With counts a question refers to kinds instead of things, so the masks alone do not decide what is
                    # needed.
                    and needed_capabilities(scene, program) == capabilities
                ):
                    yield program


def _iter_chains(
    index: SceneIndex, base: int, names: list[str], rng: random.Random
) -> Iterator[tuple[tuple[Constraint, ...], int]]:
    """Yield (constraints, mask): one constraint for each capability, none redundant, and the things that they select.

    Args:
        index (`SceneIndex`): the constraints to choose from.
        base (`int`): bit mask of the things to select from.
        names (`list[str]`): the capabilities.
        rng (`random.Random`): draws the order of the constraints.
    """
    choices = []
    for name in names:
        # A constraint must select some things of `base` (0 !=), but not all of them (!= base).
        candidates = [pair for pair in index.constraints[name] if 0 != pair[1] & base != base]
        choices.append(rng.sample(candidates, len(candidates)))

    def extend(
        chain: tuple[Constraint, ...], remaining: int, without: tuple[int, ...]
    ) -> Iterator[tuple[tuple[Constraint, ...], int]]:
        """Extend a chain that selects `remaining`; `without[i]` is what it selects without its i-th constraint."""
        if len(chain) == len(choices):
            yield chain, remaining
            return
        for constraint, mask in choices[len(chain)]:
            narrowed = remaining & mask
            # A constraint is redundant if the chain without it selects the same things as with it.
            dropped = (*(other_mask & mask for other_mask in without), remaining)
            if narrowed and narrowed not in dropped:
                yield from extend((*chain, constraint), narrowed, dropped)

    if base:
        yield from extend((), base, ())


def _iter_variants(
    index: SceneIndex, program: Program, mask: int, is_grouped: bool, rng: random.Random
) -> Iterator[Program]:
    """Yield the variants of `program`: counts, aspects or other nouns. Its constraints select the things in `mask`."""
    query, noun, constraints = program.query, program.noun, program.constraints
    multiple = mask & (mask - 1)  # not 0 if more than one thing is selected
    axes = {axis for constraint in constraints if (axis := _axis(constraint))}
    if is_grouped:
        sizes = [2, 3, 4, 5]
        yield from (Program(query, noun, constraints, count=size) for size in rng.sample(sizes, 4))
    elif query == "counting":
        yield program
    elif query == "spatial_recognition" and multiple:
        yield Program(query, noun, constraints, aspect="arrangement")
    # All other queries are about a single thing.
    elif multiple:
        return
    elif query == "spatial_recognition":
        # A question that mentions left or right must not ask for left or right, because its words could be the answer.
        aspects = [aspect for aspect, axis in (("depth", "z"), ("side", "x")) if axis not in axes]
        yield from (Program(query, noun, constraints, aspect=aspect) for aspect in rng.sample(aspects, len(aspects)))
    elif query == "spatial_relationship":
        # Left and right must not be in the question here either, for the same reason.
        anchors = [name for name in index.anchors if name != noun and "x" not in axes]
        yield from (Program(query, noun, constraints, other_noun=name) for name in rng.sample(anchors, len(anchors)))
    else:
        yield program


def _axis(constraint: Constraint) -> str:
    """Return `x` for left and right, `z` for depth, else an empty string."""
    if constraint.value in ("left of", "right of", "left half", "right half"):
        return "x"
    return "z" if constraint.value in ("foreground", "background") else ""


def _iter_anchors(scene: Scene, nouns: dict[str, int]) -> Iterator[str]:
    """Yield the kinds with exactly one thing, if all other things are clearly to its left or right.

    Kinds with home places are left out: "left of the tractor" would reveal the place, and thus which kinds to expect.
    """
    for name, mask in nouns.items():
        if name in CATEGORIES or mask & (mask - 1):
            continue
        # The mask has one bit; its position is the index of the thing.
        anchor = scene.objects[mask.bit_length() - 1]
        others = (obj for obj in scene.objects if obj is not anchor)
        if not anchor.kind_info.home_places and all(abs(obj.x - anchor.x) >= MIN_OFFSET for obj in others):
            yield name


def _has_clear_neighbors(scene: Scene, name: str) -> bool:
    """Return whether it is clear for all things in the row of `name` whether they are next to it."""
    anchor = find_unique(scene, name)
    row_objects = [obj for obj in scene.objects if anchor is not None and obj.depth == anchor.depth]
    return anchor is not None and all(
        abs(abs(obj.x - anchor.x) - NEXT_TO_DISTANCE) >= MIN_OFFSET for obj in row_objects
    )


def _list_constraints(scene: Scene, capability: str, anchors: tuple[str, ...]) -> list[Constraint]:
    """Return the constraints of one capability that questions about this scene may use."""
    objects = scene.objects
    # Pairs (value, other noun). Sets are sorted, because their order differs between processes.
    values: list[tuple[str, str]] = []
    match capability:
        case "color":
            values = [(color, "") for color in COLORS if any(obj.color == color for obj in objects)]
        case "shape":
            values = [(shape, "") for shape in sorted({obj.shape for obj in objects} - {""})]
        case "action_recognition":
            values = [(action, "") for action in sorted({obj.action for obj in objects} - {""})]
        case "text_recognition":
            values = [(word, "") for word in sorted({obj.word for obj in objects} - {""})]
        case "spatial_recognition":
            values = [(place, "") for place in _list_places(scene)]
        case "spatial_relationship":
            values = [(side, name) for name in anchors for side in ("left of", "right of")]
            values += [("next to", name) for name in anchors if _has_clear_neighbors(scene, name)]
        case "object_interaction":
            values = _list_interactions(scene)
        case "scene_understanding":
            values = [("odd", "")]
    return [Constraint(capability, value, other_noun) for value, other_noun in values]


def _list_places(scene: Scene) -> list[str]:
    """Return the positions that constraints may use: depths, halves of the image and the arrangement."""
    places = ["foreground", "background"]
    # A thing in the middle is in neither half, so halves are only used if there is none.
    if all(abs(obj.x - SIZE // 2) >= MIN_OFFSET for obj in scene.objects):
        places += ["left half", "right half"]
    if scene.arrangement:
        places.append(scene.arrangement)
    return places


def _list_interactions(scene: Scene) -> list[tuple[str, str]]:
    """Return pairs (verb, other noun): each verb in the active and passive, the passive also with its agent."""
    agents = [obj for obj in scene.objects if obj.verb]
    values = [(obj.verb, "") for obj in agents] + [(VERBS[obj.verb], "") for obj in agents]
    values += [(VERBS[obj.verb], name) for obj in agents for name in (obj.kind, obj.kind_info.category)]
    return list(dict.fromkeys(values))


def _mask(flags: Iterator[bool]) -> int:
    return sum(1 << i for i, flag in enumerate(flags) if flag)
