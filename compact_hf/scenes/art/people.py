"""Draws people: a man, a woman, a boy or a girl, in a pose that shows what they are doing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from compact_hf.scenes.art.pen import INK, PAPER, Color, Drawing, Pen, Point
from compact_hf.scenes.kinds import COLORS


@dataclass(frozen=True, slots=True)
class Pose:
    """The pose of a person who faces right.

    A limb is given by the angles of its upper and lower part, in degrees; 0 is hanging down, positive is forward.

    Attributes:
        near (`tuple[int, int]`): the arm nearer to the viewer.
        far (`tuple[int, int]`): the other arm.
        front (`tuple[int, int]`): the front leg.
        back (`tuple[int, int]`): the rear leg.
        lean (`int`): angle in degrees by which the trunk leans forward.
        lift (`int`): height above the ground in pixels.
    """

    near: tuple[int, int] = (-12, -6)
    far: tuple[int, int] = (12, 6)
    front: tuple[int, int] = (7, 4)
    back: tuple[int, int] = (-7, -4)
    lean: int = 0
    lift: int = 0


POSES: Final[dict[str, Pose]] = {
    "": Pose(),
    "waving": Pose(far=(122, 172)),
    "jumping": Pose(near=(-145, -150), far=(145, 150), front=(55, -35), back=(-40, -100), lift=16),
    "reading": Pose(near=(25, 95), far=(35, 110)),
    "sitting": Pose(near=(25, 60), far=(30, 70), front=(88, 8), back=(78, 2)),
    "drinking": Pose(far=(60, 165)),
    "pushing": Pose(near=(62, 84), far=(80, 92), front=(30, -8), back=(-32, -44), lean=20),
    "pulling": Pose(near=(-72, -84), far=(-84, -90), front=(38, 2), back=(-14, -46), lean=16),
    "painting": Pose(far=(78, 112)),
    "photographing": Pose(near=(70, 140), far=(82, 150)),
    "feeding": Pose(near=(55, 80), far=(58, 84), front=(24, -40), back=(0, -60), lean=24),
    "chasing": Pose(near=(72, 88), far=(96, 100), front=(58, 0), back=(-40, -88), lean=22, lift=3),
}

SKINS: Final[dict[str, Color]] = {
    "man": (236, 188, 150),
    "woman": (205, 150, 112),
    "boy": (247, 208, 172),
    "girl": (163, 112, 80),
}
HAIR: Final[dict[str, Color]] = {
    "man": (78, 54, 40),
    "woman": (44, 34, 36),
    "boy": (196, 128, 56),
    "girl": (38, 28, 28),
}
TROUSERS: Final[Color] = (112, 122, 142)


def draw_person(kind: str, color: str, pose: str, scale: float) -> Drawing:
    """Return the drawing of a person who faces right.

    Args:
        kind (`str`): `man`, `woman`, `boy` or `girl`.
        color (`str`): color of the clothes, a name of `kinds.COLORS`.
        pose (`str`): an action, a verb of `kinds.VERBS`, or empty for standing.
        scale (`float`): size, 1.0 for the size of `Pen` coordinates.
    """
    pen = Pen(128, 136, scale=scale)
    if pose == "sleeping":
        _draw_lying(pen, kind, COLORS[color])
    else:
        _draw_upright(pen, kind, COLORS[color], pose)
    return pen.to_drawing()


def person_badge_point(kind: str, pose: str) -> Point:
    """Return the middle of the badge, relative to the middle of the feet."""
    small = kind in ("boy", "girl")
    if pose == "sleeping":
        # Towards the legs. In the middle it would hide the clothes of the sleeping person, and further right it would
        # cover the badge of the thing in the next slot.
        return (16, 13) if small else (18, 13)
    hip = _hip_point(kind, pose)
    lean = math.radians(POSES[pose].lean)
    height = 6 if small else 9
    return hip[0] + height * math.sin(lean), hip[1] + height * math.cos(lean)


def _hip_point(kind: str, pose: str) -> Point:
    """Return the position of the hip, whose height follows from the angles of the legs."""
    leg_length = 30 if kind in ("boy", "girl") else 38
    stance = POSES[pose]
    # The leg that reaches further down carries the person.
    reach = max(_reach(stance.front), _reach(stance.back))
    height = 21 if pose == "sitting" else leg_length * reach
    # x: a leaning person moves back, so that the trunk remains above the origin.
    return -stance.lean * 0.5, height + stance.lift


def _reach(leg: tuple[int, int]) -> float:
    """Return the vertical extent of a leg as a share of its length."""
    return (math.cos(math.radians(leg[0])) + math.cos(math.radians(leg[1]))) / 2


def _limb_points(start: Point, angles: tuple[int, int], length: float) -> list[Point]:
    """Return the two ends and the joint of a limb whose parts have equal length."""
    points = [start]
    for angle in angles:
        # 0 degrees is straight down, positive angles are towards +x.
        x, y = points[-1]
        theta = math.radians(angle)
        points.append((x + length / 2 * math.sin(theta), y - length / 2 * math.cos(theta)))
    return points


def _draw_upright(pen: Pen, kind: str, color: Color, pose: str) -> None:
    """Draw a standing or sitting person, from the far limbs to the near ones."""
    small = kind in ("boy", "girl")
    stance = POSES[pose]
    # Pixels, first for children.
    leg_length, arm_length, trunk_length, width = (30, 32, 30, 22) if small else (38, 36, 38, 27)
    hip = _hip_point(kind, pose)
    lean = math.radians(stance.lean)
    neck = (hip[0] + trunk_length * math.sin(lean), hip[1] + trunk_length * math.cos(lean))
    shoulder = (neck[0] - 4 * math.sin(lean), neck[1] - 5)
    skin = SKINS[kind]
    # The stool.
    if pose == "sitting":
        pen.box(hip[0] - 16, 0, hip[0] + 10, hip[1] - 3, (188, 150, 108), radius=2)
    # From back to front: legs, long hair, trunk, arms, head, prop.
    for leg, dx in ((stance.back, -5), (stance.front, 5)):
        points = _limb_points((hip[0] + dx, hip[1] + 2), leg, leg_length)
        pen.limb(points, TROUSERS if kind in ("man", "boy") else skin, 8)
        foot = points[-1]
        pen.limb([foot, (foot[0] + 6, foot[1] + 0.5)], INK, 4)
    near = _limb_points((shoulder[0] - width / 2 + 3, shoulder[1] - 2), stance.near, arm_length)
    far = _limb_points((shoulder[0] + width / 2 - 3, shoulder[1] - 2), stance.far, arm_length)
    head = (neck[0] + 12 * math.sin(lean), neck[1] + (12 if small else 13))
    _draw_long_hair(pen, kind, head)
    _draw_trunk(pen, kind, color, hip, neck, width)
    for arm in (near, far):
        pen.limb(arm, skin, 6.5)
        pen.limb(arm[:2], color, 7.5)
    _draw_head(pen, kind, head)
    _draw_prop(pen, pose, far[-1], near[-1])


def _draw_trunk(pen: Pen, kind: str, color: Color, hip: Point, neck: Point, width: float) -> None:
    """Draw the trunk with its clothes."""
    half = width / 2
    # (half width of the hem, y): women and girls wear a dress that is wider below.
    hem = (half + 9, hip[1] - 9) if kind in ("woman", "girl") else (half, hip[1] - 1)
    pen.polygon(
        [
            (neck[0] - half + 3, neck[1]),
            (neck[0] + half - 3, neck[1]),
            (neck[0] + half, neck[1] - 5),
            (hip[0] + hem[0], hem[1]),
            (hip[0] - hem[0], hem[1]),
            (neck[0] - half, neck[1] - 5),
        ],
        color,
    )


def _draw_long_hair(pen: Pen, kind: str, center: Point) -> None:
    """Draw the part of long hair that is behind the shoulders."""
    x, y = center
    if kind == "woman":
        pen.polygon(
            [(x - 14, y + 4), (x - 17, y - 22), (x - 6, y - 26), (x + 10, y - 26), (x + 14, y - 20), (x + 12, y + 4)],
            HAIR[kind],
        )
    if kind == "girl":
        pen.ellipse((x - 16, y - 3), 6, 9, HAIR[kind])
        pen.ellipse((x + 14, y - 3), 6, 9, HAIR[kind])


def _draw_head(pen: Pen, kind: str, center: Point) -> None:
    """Draw the head with face and hair."""
    x, y = center
    hair, skin = HAIR[kind], SKINS[kind]
    pen.ellipse((x - 1, y + 3), 13, 13, hair)
    pen.ellipse((x + 1, y - 1), 11.5, 12, skin)
    if kind == "man":
        # A beard around the mouth.
        pen.ellipse((x + 3, y - 8), 8, 5.5, hair, edge=0)
        pen.ellipse((x + 4, y - 5.5), 6.5, 3, skin, edge=0)
    elif kind == "boy":
        # A cap with its peak.
        pen.polygon([(x - 12, y + 5), (x - 9, y + 14), (x + 6, y + 15), (x + 12, y + 6)], (236, 236, 236))
        pen.line([(x + 8, y + 6), (x + 19, y + 5)], (170, 170, 170), 4)
    else:
        pen.polygon([(x - 10, y + 5), (x - 4, y + 13), (x + 8, y + 12), (x + 12, y + 4), (x + 3, y + 8)], hair, edge=0)
    pen.ellipse((x + 1, y + 1), 1.5, 2, INK, edge=0)
    pen.ellipse((x + 8, y + 1), 1.5, 2, INK, edge=0)
    pen.arc((x + 4.5, y - 3), 4, 20, 160, INK, 1.4)


def _draw_prop(pen: Pen, pose: str, hand: Point, other_hand: Point) -> None:
    """Draw what the person holds or uses in a pose, such as a book or a camera."""
    x, y = hand
    if pose == "reading":
        pen.polygon([(x - 11, y + 17), (x - 11, y - 3), (x + 2, y - 7), (x + 2, y + 13)], PAPER)
        pen.polygon([(x + 2, y + 13), (x + 2, y - 7), (x + 15, y - 3), (x + 15, y + 17)], PAPER)
        for dy in (2, 7):
            pen.line([(x - 8, y + dy), (x - 1, y + dy - 2)], INK, 1.2)
            pen.line([(x + 5, y + dy - 2), (x + 12, y + dy)], INK, 1.2)
    elif pose == "drinking":
        pen.polygon([(x - 5, y + 12), (x + 8, y + 12), (x + 6, y - 5), (x - 3, y - 5)], (240, 246, 250))
        pen.polygon([(x - 4, y + 5), (x + 7, y + 5), (x + 6, y - 5), (x - 3, y - 5)], (244, 164, 72), edge=0)
        pen.line([(x + 2, y + 6), (x - 3, y + 19)], (220, 60, 60), 2)
    elif pose == "photographing":
        pen.box(x - 9, y - 6, x + 9, y + 9, (60, 62, 70), radius=2)
        pen.ellipse((x + 10, y + 1), 4.5, 6, (150, 190, 220))
        pen.polygon([(x + 15, y + 10), (x + 26, y + 19), (x + 19, y + 7), (x + 30, y + 6)], (255, 240, 120), edge=1)
    elif pose == "painting":
        pen.line([(x - 5, y - 3), (x + 12, y + 5)], (150, 104, 62), 3.4)
        pen.ellipse((x + 15, y + 6), 6, 4.5, (90, 200, 210))
        pen.box(other_hand[0] - 8, other_hand[1] - 15, other_hand[0] + 8, other_hand[1] - 1, (180, 186, 194))
        pen.ellipse((other_hand[0], other_hand[1] - 1), 8, 3, (90, 200, 210))
    elif pose == "chasing":
        for height, length in ((66, 12), (54, 17), (42, 12)):
            pen.line([(-30, height), (-30 - length, height)], INK, 2)
    elif pose == "feeding":
        pen.polygon([(x - 7, y + 4), (x + 9, y + 4), (x + 6, y - 4), (x - 4, y - 4)], (232, 232, 238))
        pen.ellipse((x + 1, y + 5), 6, 3, (176, 118, 60))


def _draw_lying(pen: Pen, kind: str, color: Color) -> None:
    """Draw a person who sleeps on the ground."""
    small = kind in ("boy", "girl")
    skin = SKINS[kind]
    end = 32 if small else 38
    pen.limb([(end - 14, 8), (end, 7)], TROUSERS if kind in ("man", "boy") else skin, 9)
    pen.limb([(end, 7), (end + 1, 13)], INK, 4)
    pen.box(-17, 2, end - 11, 21 if small else 23, color, radius=8)
    pen.limb([(-8, 14), (2, 8), (9, 8)], skin, 6)
    pen.ellipse((-30, 8), 15, 7, (246, 246, 250))
    pen.ellipse((-28, 16), 13, 13, HAIR[kind])
    pen.ellipse((-25, 15), 10.5, 11, skin)
    for x in (-29, -22):
        pen.arc((x, 17), 2.5, 10, 170, INK, 1.3)
    for x, y, size in ((-12, 36, 12), (-2, 46, 15)):
        pen.text((x, y), "z", size, INK)
