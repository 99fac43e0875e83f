"""Questions about a scene, with answers computed from its truth; and their verifier.

`ask` turns a combination of capabilities into a question that needs exactly these; `understand` is the other
side: it reads nothing but the question's text and the truth.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from compact_hf.capabilities import canonical
from compact_hf.scenes.program import answer, needed
from compact_hf.scenes.scene import Scene
from compact_hf.scenes.search import find, supports
from compact_hf.scenes.wording import read_question, write_question

UNANSWERABLE = "unknown"
"""What `understand` answers where the question speaks of something that is not there, or not exactly once."""


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A question, its answer, and the capabilities it needs, in canonical order."""

    question: str
    answer: str
    capabilities: tuple[str, ...]


def supported(scene: Scene, k: int) -> tuple[tuple[str, ...], ...]:
    """Return the combinations of exactly `k` capabilities that `scene` has a question for, each canonical."""
    return supports(scene, k)


def ask(scene: Scene, capabilities: tuple[str, ...], rng: random.Random) -> SceneQuestion | None:
    """Return a question about `scene` that needs exactly `capabilities`; None where the scene has none.

    Args:
        capabilities (`tuple[str, ...]`): in any order.
        rng (`random.Random`): draws the question and its wording.

    Raises:
        UnknownCapabilityError: a name is not one of the ten.
    """
    wanted = canonical(capabilities)
    program = find(scene, wanted, rng)
    if program is None:
        return None
    found = answer(scene, program)
    return None if found is None else SceneQuestion(write_question(program, rng), found, wanted)


def understand(scene: Scene, question: str) -> SceneQuestion | None:
    """Return what `question` needs in `scene`, by the drop test, and its answer; None where it is no scene question.

    A superfluous phrase is not needed. The answer is `UNANSWERABLE` where the question presupposes what is not so.
    """
    program = read_question(question)
    if program is None:
        return None
    return SceneQuestion(question, answer(scene, program) or UNANSWERABLE, needed(scene, program))
