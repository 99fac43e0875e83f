"""Teachers by name, as `--teacher NAME[:MODEL]` gives them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from compact_hf.errors import UsageError, did_you_mean
from compact_hf.teachers.base import Teacher, TeacherInfo

BATCH_TEACHERS: Final = ("gemini-batch",)
NAMES: Final = ("gemini", "gemini-batch", "local", "openai", "scenes")


def open_teacher(
    spec: str,
    *,
    url: str | None = None,
    fault_rate: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    state_dir: Path,
    on_wait: Callable[[str], None] = lambda line: None,
) -> Teacher:
    """Return the teacher that `spec` names.

    Args:
        spec (`str`): `NAME` or `NAME:MODEL`.
        url (`str`, *optional*): the server to ask instead of the service's own (gemini, gemini-batch, openai).
        fault_rate, seed (*optional*): the faults that the scenes teacher plants, and where.
        batch_size (`int`, *optional*, defaults to 16): requests in flight, which local answers at the same time.
        state_dir (`Path`): the run folder, where gemini-batch remembers what it has sent.
        on_wait (`Callable[[str], None]`, *optional*): told in a line what gemini-batch waits for.

    Raises:
        UsageError: no such teacher, or a setting that it does not have.
    """
    name, _, model = spec.partition(":")
    if fault_rate and name != "scenes" and name in NAMES:
        raise UsageError(f"only the teacher scenes plants noise; leave --noise out for {name}")
    if url and name in ("local", "scenes"):
        raise UsageError(f"the teacher {name} asks no server; leave its URL out")
    match name:
        case "gemini":
            from compact_hf.teachers.gemini import DEFAULT_MODEL, Gemini

            return Gemini(model or DEFAULT_MODEL, url=url)
        case "gemini-batch":
            from compact_hf.teachers.gemini import DEFAULT_MODEL
            from compact_hf.teachers.gemini_batch.teacher import GeminiBatch

            return GeminiBatch(model or DEFAULT_MODEL, state_dir=state_dir, url=url, on_wait=on_wait)
        case "local":
            from compact_hf.teachers.local import Local

            return Local(model, batch_size=batch_size)
        case "openai":
            from compact_hf.teachers.openai import OpenAI

            return OpenAI(model, url=url)
        case "scenes":
            from compact_hf.teachers.scenes import ScenesTeacher

            if model:
                raise UsageError("the teacher scenes has no models; write --teacher scenes")
            return ScenesTeacher(fault_rate=fault_rate, seed=seed)
    raise _unknown_teacher_error(spec)


def describe_teacher(spec: str) -> TeacherInfo:
    """Return what is known of the teacher that `spec` names, without opening it: no key is needed.

    Raises:
        UsageError: no such teacher.
    """
    name, _, model = spec.partition(":")
    if name not in NAMES:
        raise _unknown_teacher_error(spec)
    if name in ("gemini", "gemini-batch") and not model:
        from compact_hf.teachers.gemini import DEFAULT_MODEL

        spec = f"{name}:{DEFAULT_MODEL}"
    is_scenes = name == "scenes"
    return TeacherInfo(
        spec, range(1, 6) if is_scenes else range(1, 11), "scenes" if is_scenes else None, name in BATCH_TEACHERS
    )


def _unknown_teacher_error(spec: str) -> UsageError:
    suggestion = did_you_mean(spec.partition(":")[0], NAMES)
    return UsageError(f"got the teacher {spec!r}; there are {', '.join(NAMES)}{suggestion}")
