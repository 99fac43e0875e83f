"""Open what people name: image sources and datasets of questions, and the teacher and the verifier.

SOURCE: a directory of images, `scenes:N`, or a dataset on the Hub. DATASET: a dataset on the Hub, a directory that
`load_dataset` takes, or a file in LLaVA's format.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
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
from compact_hf.runs.options import RunOptions
from compact_hf.scenes.source import SceneSource, parse_scenes
from compact_hf.teachers.base import Role, Teacher, TeacherInfo
from compact_hf.teachers.registry import check_settings, describe_teacher, open_teacher

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
    source: ImageSource, options: RunOptions, *, roles: Collection[Role], state_dir: Path
) -> dict[Role, Teacher]:
    """Return who is asked in each role: one teacher in both where they are the same, which then slows down in both.

    The verifier has the teacher's URL only where both speak the same protocol: who named a server of their own does not
    want another model's images elsewhere.

    Args:
        source (`ImageSource`): the images, which every teacher must know.
        options (`RunOptions`): names them; those of roles that a method does not have must not be named.
        roles (`Collection[Role]`): whom the method asks.
        state_dir (`Path`): as for `open_teacher`.

    Raises:
        UsageError: no such teacher, a setting that it does not have, or one that does not know these images.
    """
    names = name_teachers(source, options, roles)
    open_backend = partial(
        open_teacher,
        seed=options.seed,
        batch_size=options.concurrency,
        state_dir=state_dir,
        on_wait=options.on_wait,
    )
    backends: dict[Role, Teacher] = {}
    if "teacher" in names:
        backends["teacher"] = open_backend(names["teacher"], url=options.teacher_url, fault_rate=options.noise)
    if "verifier" in names:
        verifier, url = names["verifier"], options.verifier_url
        teacher = names.get("teacher", "")
        if teacher and not url and _protocol(verifier) == _protocol(teacher):
            url = options.teacher_url
        is_shared = verifier == teacher and url == options.teacher_url and not options.noise
        backends["verifier"] = backends["teacher"] if is_shared else open_backend(verifier, url=url)
    for backend in backends.values():
        check_source_type(backend.name, backend.source_type, source)
    return backends


def describe_teachers(source: ImageSource, options: RunOptions, *, roles: Collection[Role]) -> dict[Role, TeacherInfo]:
    """Return what is known of who would be asked in each role, without opening anything: no key is needed.

    Raises:
        UsageError: no such teacher, a setting that it does not have, or one that does not know these images.
    """
    names = name_teachers(source, options, roles)
    for role, name in names.items():
        is_teacher = role == "teacher"
        check_settings(
            name,
            url=options.teacher_url if is_teacher else options.verifier_url,
            fault_rate=options.noise if is_teacher else 0.0,
        )
    infos = {role: describe_teacher(name) for role, name in names.items()}
    for info in infos.values():
        check_source_type(info.name, info.source_type, source)
    return infos


def name_teachers(source: ImageSource, options: RunOptions, roles: Collection[Role]) -> dict[Role, str]:
    """Return who is asked in each role as `NAME[:MODEL]`: the verifier defaults to the teacher.

    Raises:
        UsageError: somebody is named for a role that there is not.
    """
    named: dict[Role, str | None] = {"teacher": options.teacher, "verifier": options.verifier}
    for role, name in named.items():
        if name is not None and role not in roles:
            raise UsageError(f"this method asks no {role}; leave --{role} out")
    if options.noise and "teacher" not in roles:
        raise UsageError("this method asks no teacher that could plant noise; leave --noise out")
    default = default_teacher(source)
    teacher = options.teacher or default
    defaults: dict[Role, str] = {"teacher": default, "verifier": teacher if "teacher" in roles else default}
    return {role: named[role] or defaults[role] for role in defaults if role in roles}


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
