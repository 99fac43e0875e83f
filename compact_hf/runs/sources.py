"""Open what people name: image sources and datasets of questions, and the teacher and the verifier.

SOURCE: a directory of images, `scenes:N`, or a dataset on the Hub. DATASET: a dataset on the Hub, a directory that
`load_dataset` takes, or a file in LLaVA's format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from compact_hf.errors import UsageError
from compact_hf.images.address import HUB_PREFIX, LOCAL_PREFIX, Address
from compact_hf.images.folder import ImageFolder
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.images.questions import VqaSource, read_dataset_questions, read_llava_questions
from compact_hf.images.source import ImageSource
from compact_hf.scenes.source import SceneSource, parse_scenes
from compact_hf.teachers.base import Role, Teacher
from compact_hf.teachers.registry import open_teacher

_SCENES: Final = "scenes"


def open_source(text: str, *, on_wait: Callable[[str], None] = lambda line: None) -> ImageSource:
    """Return the source that `text` names.

    Args:
        text (`str`): `scenes:N`, `scenes:A-B`, `hf://datasets/org/name[@revision][/config][?split=NAME]`, or the path
            of a folder.
        on_wait (`Callable[[str], None]`, *optional*): told in a line that all of a dataset is loaded first.

    Raises:
        UsageError: not a number of scenes, scenes that are reserved for evaluation, or not a dataset's address.
        SourceError: no such folder or dataset.
    """
    if text.startswith(HUB_PREFIX):
        return DatasetSource(Address.parse(text), on_wait=on_wait)
    return parse_scenes(text) if text.partition(":")[0] == _SCENES else ImageFolder(text)


def reopen_source(identity: str) -> ImageSource:
    """Return the source that a journal names, to read its images again.

    Raises:
        SourceError: the folder or the dataset is gone.
    """
    if identity.startswith((HUB_PREFIX, LOCAL_PREFIX)):
        return DatasetSource(Address.parse(identity))
    return SceneSource(0, 1) if identity == _SCENES else ImageFolder(identity)


def open_dataset_source(
    text: str,
    *,
    split: str | None = None,
    image_root: str | None = None,
    on_wait: Callable[[str], None] = lambda line: None,
) -> VqaSource:
    """Return the images and questions of the dataset that `text` names.

    Args:
        text (`str`): `org/name[@revision][/config]`, with or without `hf://datasets/` before it; a folder; or a JSON
            file in LLaVA's format.
        split (`str`, *optional*): one split; all of them by default.
        image_root (`str`, *optional*, defaults to the JSON file's folder): the source, such as a folder, in which its
            image paths are references.
        on_wait (`Callable[[str], None]`, *optional*): told in a line that all of a dataset is loaded first.

    Raises:
        UsageError: arguments that do not fit together, or a name of nothing.
        SourceError: no such dataset, or one without images or questions.
    """
    path = Path(text)
    if path.suffix == ".json":
        if split is not None:
            raise UsageError(f"got the split {split!r}, and {text} has none; leave --split out")
        return read_llava_questions(path, open_source(image_root or str(path.parent), on_wait=on_wait))
    if image_root is not None:
        raise UsageError(f"--image-root is for the paths in a JSON file, and {text} is none; leave it out")
    if path.is_file():
        raise UsageError(f"{text} is a file of another kind; give a .json file in LLaVA's format, or a folder")
    if path.is_dir():
        address = Address(str(path.resolve()), on_hub=False)
    elif text.startswith(HUB_PREFIX):
        address = Address.parse(text)
    elif "/" in text and not path.is_absolute():
        address = Address.parse(f"{HUB_PREFIX}{text}")
    else:
        raise UsageError(f"there is no {text}; give a folder, a JSON file, or org/name of a data set on the Hub")
    if split is not None and address.split not in ("", split):
        raise UsageError(f"{text!r} and --split {split} name two splits; leave one out")
    return read_dataset_questions(DatasetSource(replace(address, split=split or address.split), on_wait=on_wait))


def default_teacher(source: ImageSource) -> str:
    """Return who is asked about images where nobody was named."""
    return "scenes" if source.identity == "scenes" else "gemini"


def open_teachers(
    source: ImageSource,
    *,
    teacher: str | None,
    teacher_url: str | None,
    verifier: str | None,
    verifier_url: str | None,
    fault_rate: float = 0.0,
    seed: int,
    batch_size: int,
    state_dir: Path,
    on_wait: Callable[[str], None],
) -> dict[Role, Teacher]:
    """Return who is asked in each role: one teacher in both where they are the same, which then slows down in both.

    Args:
        teacher, verifier (`str | None`): `NAME[:MODEL]`; the verifier defaults to the teacher, without its noise.
        teacher_url, verifier_url (`str | None`): other servers; the verifier's defaults to the teacher's where both
            speak the same protocol: who named a server of their own does not want another model's images elsewhere.
        fault_rate, seed, batch_size, state_dir, on_wait: as for `open_teacher`.

    Raises:
        UsageError: no such teacher, a setting that it does not have, or one that does not know these images.
    """
    open_backend = partial(open_teacher, seed=seed, batch_size=batch_size, state_dir=state_dir, on_wait=on_wait)
    teacher = teacher or default_teacher(source)
    teacher_backend = open_backend(teacher, url=teacher_url, fault_rate=fault_rate)
    is_same = verifier in (None, teacher)
    final_verifier_url = verifier_url or (teacher_url if _protocol(verifier or teacher) == _protocol(teacher) else None)
    is_shared = is_same and final_verifier_url == teacher_url and not fault_rate
    verifier_backend = teacher_backend if is_shared else open_backend(verifier or teacher, url=final_verifier_url)
    for backend in (teacher_backend, verifier_backend):
        check_source_type(backend.name, backend.source_type, source)
    return {"teacher": teacher_backend, "verifier": verifier_backend}


def _protocol(teacher: str) -> str:
    """Return what the server behind a teacher speaks: Gemini and its batches are at the same address."""
    return teacher.partition(":")[0].removesuffix("-batch")


def check_source_type(teacher: str, source_type: str | None, source: ImageSource) -> None:
    """Refuse a teacher that only knows other images; `source_type` is what it knows.

    Raises:
        UsageError: it does not know these.
    """
    if source_type not in (None, source.identity):
        raise UsageError(f"{teacher} only knows drawn scenes; name another teacher or verifier, such as gemini")
