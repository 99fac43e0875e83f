"""Pictures that look alike and the two splits: in go hashes by picture, out come those that must not be trained on.

Which picture is for validation stays a matter of its own hash alone (layout.py), so that none changes its split when
others join in the next version. Of a group of pictures that look alike, those for training are left out where one is
for validation; that is how all that remain share a split.

Groups of many pictures are none: products on white all look alike. They are told, and nothing is left out for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from compact_hf.dataset.layout import split_of
from compact_hf.dataset.looks import Look
from compact_hf.errors import UsageError
from compact_hf.images.phash import MAX_DISTANCE, Hashes, groups, nearest
from compact_hf.records import Reject, Row

MAX_SHARE: Final = 0.01
"""Share of all pictures above which a group is not taken for copies of one picture."""
ALWAYS_A_GROUP: Final = 10
"""Pictures that may be a group whatever their share: in a small set one hundredth is less than a pair."""


@dataclass(frozen=True, slots=True)
class NearPictures:
    """Which pictures are like one of the validation split.

    Attributes:
        distance (`int`): bits in which neighbours' hashes may differ.
        pictures (`frozenset[str]`): ids of all pictures that were compared.
        left_out (`frozenset[str]`): ids of those for training in groups that have one for validation.
        validation (`Hashes`): of shape [n], hashes of the pictures for validation that are in no too large group.
        too_large (`tuple[int, ...]`): sizes of the groups that were left as they are, largest first.
    """

    distance: int
    pictures: frozenset[str]
    left_out: frozenset[str]
    validation: Hashes
    too_large: tuple[int, ...]

    def of(self, row: Row, look: Look | None) -> Reject | None:
        """Return why a row stays out, None if it does not; an instruction row is compared with each in validation."""
        reason = "picture is like one in the validation split"
        if row.k is not None:
            return Reject("assembly", reason, row.id, str(row.image_id)) if row.image_id in self.left_out else None
        if look is not None and look.hash is not None and nearest(look.hash, self.validation) <= self.distance:
            return Reject("instruction", reason, row.id, str(row.image_id))
        return None


def checked_distance(distance: int) -> int:
    """Return the distance as it is.

    Raises:
        UsageError: it is out of range.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise UsageError(f"got {distance} bits for similar pictures; it must be 0 to {MAX_DISTANCE}, 6 is usual")
    return distance


def near_pictures(hashes: Mapping[str, int | None], distance: int) -> NearPictures:
    """Group pictures; the order of `hashes` does not matter.

    Args:
        hashes (`Mapping[str, int | None]`): image id -> perceptual hash of the pictures of the compositional part, None
            where a picture looks like nothing.
        distance (`int`): 0 to 10 bits; two pictures are in one group if steps of at most so many lead across.
    """
    known = {image_id: hash for image_id, hash in hashes.items() if hash is not None}
    ids = list(known)
    group_of = dict(zip(ids, groups(list(known.values()), distance).tolist(), strict=True))
    sizes = Counter(group_of.values())
    limit = max(ALWAYS_A_GROUP, MAX_SHARE * len(hashes))
    held = [one for one in ids if split_of(0, one) == "validation" and sizes[group_of[one]] <= limit]
    straddling = {group_of[one] for one in held}
    return NearPictures(
        distance,
        pictures=frozenset(hashes),
        left_out=frozenset(one for one in ids if group_of[one] in straddling and split_of(0, one) != "validation"),
        validation=np.array(sorted({known[one] for one in held}), dtype=np.uint64),
        too_large=tuple(sorted((size for size in sizes.values() if size > limit), reverse=True)),
    )
