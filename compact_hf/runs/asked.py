"""Who is asked about a source's pictures: the teacher and the verifier, opened from their names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from compact_hf.errors import UsageError
from compact_hf.images.source import Source
from compact_hf.teachers.registry import open_teacher
from compact_hf.teachers.base import Role, Teacher


def default_teacher(pictures: Source) -> str:
    """Return who is asked about pictures where nobody was named."""
    return "scenes" if pictures.identity == "scenes" else "gemini"


def open_both(
    pictures: Source,
    *,
    teacher: str | None,
    teacher_url: str | None,
    verifier: str | None,
    verifier_url: str | None,
    noise: float = 0.0,
    seed: int,
    batch_size: int,
    state_dir: Path,
    on_wait: Callable[[str], None],
) -> dict[Role, Teacher]:
    """Return who is asked in each role: one teacher in both where they are the same, which then slows down in both.

    Args:
        teacher, verifier (`str | None`): `NAME[:MODEL]`; the verifier defaults to the teacher, without its noise.
        teacher_url, verifier_url (`str | None`): other servers; the verifier's defaults to the teacher's where both
            speak the same protocol: who named a server of their own does not want another model's pictures elsewhere.
        noise, seed, batch_size, state_dir, on_wait: as for `open_teacher`.

    Raises:
        UsageError: no such teacher, a setting that it does not have, or one that does not know these pictures.
    """
    opened = partial(open_teacher, seed=seed, batch_size=batch_size, state_dir=state_dir, on_wait=on_wait)
    teacher = teacher or default_teacher(pictures)
    writer = opened(teacher, url=teacher_url, noise=noise)
    same = verifier in (None, teacher)
    judging_url = verifier_url or (teacher_url if _protocol(verifier or teacher) == _protocol(teacher) else None)
    one_for_both = same and judging_url == teacher_url and not noise
    judge = writer if one_for_both else opened(verifier or teacher, url=judging_url)
    for one in (writer, judge):
        check_pictures(one.name, one.sources, pictures)
    return {"teacher": writer, "verifier": judge}


def _protocol(teacher: str) -> str:
    """Return what the server behind a teacher speaks: Gemini and its batches are at the same address."""
    return teacher.partition(":")[0].removesuffix("-batch")


def check_pictures(teacher: str, sources: str | None, pictures: Source) -> None:
    """Refuse a teacher that only knows other pictures; `sources` is what it knows.

    Raises:
        UsageError: it does not know these.
    """
    if sources not in (None, pictures.identity):
        raise UsageError(f"{teacher} only knows drawn scenes; name another teacher or verifier, such as gemini")
