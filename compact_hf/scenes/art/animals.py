"""Draws animals. Four-legged ones share one parametric drawing; crab, turtle and penguin have their own functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from compact_hf.scenes.art.pen import INK, Color, Drawing, Pen, Point, darker, lighter
from compact_hf.scenes.kinds import COLORS


@dataclass(frozen=True, slots=True)
class Stance:
    """The pose of a four-legged animal that faces right; coordinates as in pen.py.

    Attributes:
        rump (`Point`): rear end of the body, relative to its height on straight legs.
        chest (`Point`): front end of the body, relative to its height on straight legs.
        head (`Point`): head, relative to the chest.
        feet (`tuple[Point, ...]`): hind feet, then front feet, relative to the ground; empty if they are not visible.
        lift (`int`): height above the ground in pixels.
    """

    rump: Point = (-15, 0)
    chest: Point = (13, 0)
    head: Point = (16, 16)
    feet: tuple[Point, ...] = ((-20, 0), (-11, 0), (10, 0), (18, 0))
    lift: int = 0


STANCES: Final[dict[str, Stance]] = {
    "": Stance(),
    "singing": Stance(head=(14, 20)),
    "eating": Stance(head=(21, -8)),
    "jumping": Stance((-15, -2), (12, 9), (16, 15), ((-33, -9), (-27, -13), (28, 12), (22, 6)), 20),
    "chasing": Stance((-15, 2), (13, 2), (19, 11), ((-36, 6), (-29, 1), (35, 7), (28, 2))),
    "sleeping": Stance(head=(18, -3), feet=()),
}


@dataclass(frozen=True, slots=True)
class Build:
    """The proportions of a kind of four-legged animal, in pixels.

    Attributes:
        body_width (`float`): thickness of the body.
        leg_length (`float`): length of the legs.
        leg_width (`float`): thickness of the legs.
        head_radius (`float`): radius of the head.
    """

    body_width: float
    leg_length: float
    leg_width: float
    head_radius: float


BUILDS: Final[dict[str, Build]] = {
    "dog": Build(22, 17, 6.5, 11.5),
    "cat": Build(19, 15, 5.5, 11),
    "rabbit": Build(23, 11, 6, 11),
    "cow": Build(29, 17, 7.5, 12),
    "pig": Build(31, 10, 7, 13),
    "sheep": Build(28, 13, 5.5, 10),
    "deer": Build(20, 24, 5, 9.5),
    "bear": Build(33, 14, 10, 14.5),
}


def draw_animal(kind: str, color: str, pose: str, scale: float) -> Drawing:
    """Return the drawing of an animal that faces right.

    Args:
        kind (`str`): name of the kind.
        color (`str`): a name of `kinds.COLORS`.
        pose (`str`): an action, `chasing`, or empty for standing.
        scale (`float`): size, 1.0 for the size of `Pen` coordinates.
    """
    pen = Pen(128, 112, scale=scale)
    shade = COLORS[color]
    if kind in BUILDS:
        mouth = _draw_four_legged(pen, kind, shade, pose)
    else:
        mouth = {"crab": _crab, "turtle": _turtle, "penguin": _penguin}[kind](pen, shade, pose)
    _draw_action_marks(pen, pose, mouth)
    return pen.to_drawing()


def animal_badge_point(kind: str, pose: str) -> Point:
    """Return the middle of the badge, relative to the middle of the animal's foot."""
    if kind not in BUILDS:
        # Heights in pixels; animals that jump are drawn 20 pixels higher.
        return 0, {"crab": 22, "turtle": 24, "penguin": 30}[kind] + (20 if pose == "jumping" else 0)
    rump, chest = _trunk_ends(kind, pose)
    return (rump[0] + chest[0]) / 2 - 3, (rump[1] + chest[1]) / 2


def _trunk_ends(kind: str, pose: str) -> tuple[Point, Point]:
    """Return the positions of rump and chest."""
    build, stance = BUILDS[kind], STANCES[pose]
    if pose == "sleeping":
        return (stance.rump[0], build.body_width / 2), (stance.chest[0], build.body_width / 2)
    # Height of the middle of the trunk; the legs overlap the body by 3 pixels.
    top = build.leg_length + build.body_width / 2 + stance.lift - 3
    return (stance.rump[0], stance.rump[1] + top), (stance.chest[0], stance.chest[1] + top)


def _draw_four_legged(pen: Pen, kind: str, color: Color, pose: str) -> Point:
    """Draw a four-legged animal, from the far parts to the near ones, and return the position of its mouth."""
    build, stance = BUILDS[kind], STANCES[pose]
    rump, chest = _trunk_ends(kind, pose)
    shins = {"sheep": (70, 62, 62)}.get(kind, color)
    # Upper ends of the legs, in the order of `Stance.feet`.
    hips = (rump, rump, chest, chest)
    for i, foot in enumerate(stance.feet):
        # The second leg of each pair is darker, to distinguish them.
        shade = darker(shins, 0.18) if i % 2 else shins
        x, y = foot
        pen.limb(
            [(hips[i][0] + (4 if i % 2 else -4), hips[i][1] - 4), (x, y + stance.lift + 2)], shade, build.leg_width
        )
    _draw_tail(pen, kind, color, (rump[0] - build.body_width / 2, rump[1]))
    pen.limb([rump, chest], color, build.body_width)
    _draw_coat(pen, kind, color, rump, chest, build.body_width)
    # A lowered head stays above the ground.
    head = (chest[0] + stance.head[0], max(chest[1] + stance.head[1], build.head_radius + 1))
    pen.limb([(chest[0] + 3, chest[1] + 2), head], color, build.head_radius * 1.15)
    pen.line([(chest[0] - 2, chest[1]), (chest[0] + 4, chest[1] + 3)], color, build.head_radius * 1.15)
    _draw_ears(pen, kind, color, head, build.head_radius, behind=True)
    pen.ellipse(head, build.head_radius, build.head_radius, color)
    _draw_ears(pen, kind, color, head, build.head_radius, behind=False)
    mouth = _draw_muzzle(pen, kind, color, head, build.head_radius)
    draw_eye(pen, (head[0] + build.head_radius * 0.25, head[1] + build.head_radius * 0.25), closed=pose == "sleeping")
    return mouth


def _draw_tail(pen: Pen, kind: str, color: Color, base: Point) -> None:
    """Draw the tail of a kind at the rear end of its body."""
    x, y = base
    if kind in ("rabbit", "sheep", "deer", "bear"):
        pen.ellipse((x, y + 2), 6, 6, (250, 250, 250) if kind in ("rabbit", "deer") else color)
    elif kind == "pig":
        pen.line([(x + 2, y + 4), (x - 5, y + 8), (x - 8, y + 2), (x - 3, y + 1), (x - 6, y + 10)], darker(color), 2.6)
    elif kind == "cow":
        pen.limb([(x + 3, y + 8), (x - 6, y + 2), (x - 7, y - 12)], color, 2.6)
        pen.ellipse((x - 7, y - 14), 4, 5, INK)
    elif kind == "cat":
        pen.limb([(x + 4, y + 2), (x - 8, y + 6), (x - 9, y + 20), (x - 4, y + 27)], color, 4.5)
    else:
        pen.limb([(x + 4, y + 4), (x - 8, y + 14), (x - 9, y + 20)], color, 5)


def _draw_coat(pen: Pen, kind: str, color: Color, rump: Point, chest: Point, body: float) -> None:
    """Draw what is typical of a kind's coat: patches of a cow, spots of a deer, wool of a sheep."""
    if kind == "cow":
        for center, rx, ry in ((rump, 9, 8), (chest, 7, 9)):
            pen.ellipse((center[0] + 1, center[1] + 3), rx, ry, (250, 248, 244), edge=0)
    elif kind == "deer":
        for i, (dx, dy) in enumerate(((-3, 3), (5, 5), (11, 2), (19, 5), (25, 2))):
            y = rump[1] + (chest[1] - rump[1]) * i / 5
            pen.ellipse((rump[0] + dx, y + dy), 2.2, 2.2, (250, 246, 236), edge=0)
    elif kind == "sheep":
        # Curls of wool along both sides of the trunk, which then covers their inner halves.
        for i in range(7):
            t = i / 6
            x, y = rump[0] + (chest[0] - rump[0]) * t, rump[1] + (chest[1] - rump[1]) * t
            for side in (-1, 1):
                pen.ellipse((x, y + side * body * 0.42), 7, 7, color)
        pen.line([rump, chest], color, body * 0.9)


def _draw_ears(pen: Pen, kind: str, color: Color, head: Point, r: float, *, behind: bool) -> None:
    """Draw ears, antlers and horns: those behind the head, or those in front of it."""
    x, y = head
    if kind in ("rabbit", "bear", "cat", "deer", "cow", "sheep") and behind:
        if kind == "rabbit":
            pen.ellipse((x - 7, y + r + 10), 4.5, 14, color)
            pen.ellipse((x + 2, y + r + 10), 4.5, 14, lighter(color, 0.3))
        elif kind == "bear":
            pen.ellipse((x - 9, y + r - 2), 6, 6, color)
            pen.ellipse((x + 7, y + r - 1), 6, 6, color)
        elif kind == "cat":
            pen.polygon([(x - 10, y + 3), (x - 9, y + r + 9), (x, y + 8)], color)
            pen.polygon([(x + 1, y + 8), (x + 8, y + r + 9), (x + 10, y + 3)], color)
        elif kind == "deer":
            for side in (-1, 1):
                pen.line([(x, y + r - 2), (x + side * 7, y + r + 10), (x + side * 5, y + r + 22)], (132, 94, 60), 3)
                pen.line([(x + side * 7, y + r + 10), (x + side * 15, y + r + 16)], (132, 94, 60), 3)
            pen.ellipse((x - 11, y + 6), 6, 3.5, color)
        else:
            pen.ellipse((x - r - 2, y + 4), 6, 4, color if kind == "cow" else (70, 62, 62))
            if kind == "cow":
                pen.limb([(x - 5, y + r - 2), (x - 9, y + r + 8)], (246, 238, 214), 3)
                pen.limb([(x + 5, y + r - 2), (x + 9, y + r + 8)], (246, 238, 214), 3)
    elif kind == "dog" and not behind:
        pen.ellipse((x - 7, y - 1), 5, 10, darker(color, 0.28))
    elif kind == "pig" and not behind:
        pen.polygon([(x - 10, y + 5), (x - 8, y + r + 6), (x + 1, y + r - 2)], darker(color, 0.15))


def _draw_muzzle(pen: Pen, kind: str, color: Color, head: Point, r: float) -> Point:
    """Draw the muzzle and nose, and return the position of the mouth."""
    x, y = head
    if kind == "sheep":
        pen.ellipse((x + 2, y - 1), r, r * 0.95, (70, 62, 62))
        pen.ellipse((x - 3, y + r - 2), 7, 5, color)
        pen.ellipse((x + 4.5, y + 3), 2.6, 2.6, (250, 250, 250), edge=0)
        return x + r, y - 4
    if kind == "pig":
        pen.ellipse((x + r - 1, y - 3), 5, 6, lighter(color, 0.45))
        for dy in (-1, -5):
            pen.ellipse((x + r, y + dy), 1, 1, INK, edge=0)
        return x + r + 2, y - 7
    pale = lighter(color, 0.55)
    pen.ellipse((x + r * 0.72, y - r * 0.34), r * 0.62, r * 0.5, pale)
    pen.ellipse((x + r * 1.2, y - r * 0.12), 2.6, 2.2, INK, edge=0)
    if kind == "cat":
        for dy in (-2, -6):
            pen.line([(x + r * 0.7, y + dy), (x + r * 1.7, y + dy - 1)], INK, 1)
    return x + r * 1.1, y - r * 0.5


def _crab(pen: Pen, color: Color, pose: str) -> Point:
    """Draw a crab and return the position of its mouth."""
    # Pixels above the ground, as in `animal_badge_point`.
    up = 20 if pose == "jumping" else 0
    for side in (-1, 1):
        for i in range(3):
            x = side * (12 + 7 * i)
            pen.limb([(x, 16 + up), (x + side * 9, 13 + up), (x + side * 12, 2 + up / 2)], color, 3.4)
        pen.limb([(side * 20, 26 + up), (side * 33, 32 + up), (side * 32, 42 + up)], color, 5)
        pen.ellipse((side * 32, 47 + up), 10, 9, color)
        pen.polygon([(side * 32, 46 + up), (side * 29, 60 + up), (side * 37, 60 + up)], (255, 255, 255), edge=0)
        pen.line([(side * 8, 32 + up), (side * 8, 46 + up)], darker(color), 3)
    pen.ellipse((0, 22 + up), 28, 17, color)
    for side in (-1, 1):
        pen.ellipse((side * 8, 47 + up), 5, 5, (255, 255, 255))
        draw_eye(pen, (side * 8, 47 + up), closed=pose == "sleeping")
    return 14, 14 + up


def _turtle(pen: Pen, color: Color, pose: str) -> Point:
    """Draw a turtle and return the position of its mouth."""
    up = 20 if pose == "jumping" else 0
    skin = lighter(color, 0.5)
    # Height of the head.
    low = 12 if pose in ("sleeping", "eating") else 26
    for x in (-20, -6, 10, 22):
        pen.limb([(x, 14 + up), (x + 2, 3 + up * 0.7)], skin, 8)
    pen.limb([(22, 14 + up), (36, low + up)], skin, 9)
    pen.ellipse((38, low + 3 + up), 10, 9, skin)
    pen.polygon(
        [(-34, 12 + up), (-30, 30 + up), (-16, 43 + up), (2, 46 + up), (20, 40 + up), (31, 26 + up), (34, 12 + up)],
        color,
    )
    for a, b in (((-16, 43), (-10, 13)), ((2, 46), (2, 13)), ((20, 40), (14, 13)), ((-32, 26), (32, 26))):
        pen.line([(a[0], a[1] + up), (b[0], b[1] + up)], darker(color), 2)
    pen.box(-37, 9 + up, 37, 15 + up, lighter(color, 0.25), radius=3)
    draw_eye(pen, (41, low + 5 + up), closed=pose == "sleeping")
    return 47, low - 2 + up


def _penguin(pen: Pen, color: Color, pose: str) -> Point:
    """Draw a penguin and return the position of its mouth."""
    up = 20 if pose == "jumping" else 0
    for x in (-8, 9):
        pen.ellipse((x, 4 + up), 9, 4.5, (246, 166, 46))
    # Positive: raised wings; negative: hanging ones.
    wing = 26 if pose in ("jumping", "singing", "chasing") else -14
    for side in (-1, 1):
        pen.limb([(side * 18, 40 + up), (side * 30, 40 + wing * 0.6 + up)], color, 8)
    pen.ellipse((0, 34 + up), 23, 31, color)
    pen.ellipse((4, 28 + up), 15, 23, (252, 252, 252), edge=0)
    low = 40 if pose == "eating" else 66
    head = (18 if pose == "eating" else 2, low + up)
    pen.ellipse(head, 15, 14, color)
    pen.ellipse((head[0] + 5, head[1] - 3), 9, 8, (252, 252, 252), edge=0)
    pen.polygon([(head[0] + 11, head[1] + 2), (head[0] + 24, head[1] - 3), (head[0] + 11, head[1] - 6)], (246, 166, 46))
    draw_eye(pen, (head[0] + 5, head[1] + 2), closed=pose == "sleeping")
    return head[0] + 24, head[1] - 4


def draw_eye(pen: Pen, center: Point, *, closed: bool) -> None:
    """Draw an eye that is visible on all colors."""
    if closed:
        pen.ellipse(center, 4, 3, (255, 255, 255), edge=0)
        pen.arc((center[0], center[1] + 2), 3.4, 10, 170, INK, 1.8)
    else:
        pen.ellipse(center, 3.6, 3.8, (255, 255, 255), edge=0)
        pen.ellipse((center[0] + 0.8, center[1]), 2, 2.4, INK, edge=0)


def _draw_action_marks(pen: Pen, pose: str, mouth: Point) -> None:
    """Draw marks that make an action unambiguous."""
    x, y = mouth
    if pose == "sleeping":
        for dx, dy, size in ((-8, 26, 13), (4, 36, 17)):
            pen.text((x + dx, y + dy), "z", size, INK)
    elif pose == "eating":
        # A bowl on the ground below the mouth.
        pen.polygon([(x - 6, 9), (x + 16, 9), (x + 12, 0), (x - 2, 0)], (206, 214, 224))
        pen.ellipse((x + 5, 10), 9, 4, (150, 92, 48))
    elif pose == "singing":
        for dx, dy in ((8, 8), (20, 20)):
            pen.ellipse((x + dx, y + dy), 4.2, 3.2, INK, edge=0)
            pen.line([(x + dx + 3.4, y + dy), (x + dx + 3.4, y + dy + 14), (x + dx + 8, y + dy + 10)], INK, 2)
    elif pose == "jumping":
        # The shadow on the ground.
        pen.ellipse((0, 1), 26, 3, (92, 92, 96), edge=0)
    elif pose == "chasing":
        # Speed lines behind the animal.
        for dy, length in ((34, 14), (24, 18), (14, 14)):
            pen.line([(-44, dy), (-44 - length, dy)], INK, 2)
