"""Opens the sources, datasets and teachers that users name on the command line.

SOURCE is a directory of images, `scenes:N`, or a dataset on the Hub. DATASET is a dataset on the Hub, a directory that
`load_dataset` accepts, or a JSON file: a JSON list or JSON lines, in the formats of images/question_rows.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from compact_hf.errors import UsageError
from compact_hf.images.address import HUB_PREFIX, LOCAL_PREFIX, Address, is_url
from compact_hf.images.folder import ImageFolder
from compact_hf.images.hub_dataset import DatasetSource
from compact_hf.images.json_rows import SUFFIXES
from compact_hf.images.questions import VqaSource, read_dataset_questions, read_llava_questions
from compact_hf.images.source import ImageSource
from compact_hf.runs.options import RunOptions
from compact_hf.scenes.source import SceneSource, parse_scenes
from compact_hf.teachers.base import Role, Teacher, TeacherInfo
from compact_hf.teachers.registry import check_settings, describe_teacher, open_teacher

SCENES: Final = "scenes"
"""Identity of all sources of drawn scenes."""


def open_source(text: str, *, on_wait: Callable[[str], None] = lambda line: None) -> ImageSource:
    """Return the image source that `text` names.

    Args:
        text (`str`): `scenes:N`, `scenes:A-B`, `hf://datasets/org/name[@revision][/config][?split=NAME]`, or the path
            of a directory.
        on_wait (`Callable[[str], None]`, *optional*): called with a line if a whole dataset has to be loaded first.

    Raises:
        UsageError: the number of scenes is invalid, the scenes are reserved for evaluation, or the text is not a valid
            dataset address.
        SourceError: the directory or the dataset does not exist.
    """
    if is_url(text):
        return DatasetSource(Address.parse(text), on_wait=on_wait)
    # `scenes:...`; any other text is a path.
    return parse_scenes(text) if text.partition(":")[0] == SCENES else ImageFolder(text)


def reopen_source(identity: str) -> ImageSource:
    """Return the image source that a journal names, to read its images again.

    Args:
        identity (`str`): `ImageSource.identity` of the source.

    Raises:
        SourceError: the directory or the dataset no longer exists.
    """
    if identity.startswith((HUB_PREFIX, LOCAL_PREFIX)):
        return DatasetSource(Address.parse(identity))
    # The range does not matter, because a reference contains the seed of its scene.
    return SceneSource(0, 1) if identity == SCENES else ImageFolder(identity)


def open_dataset_source(
    text: str,
    *,
    split: str | None = None,
    image_root: str | None = None,
    on_wait: Callable[[str], None] = lambda line: None,
) -> VqaSource:
    """Return the images and questions of the dataset that `text` names.

    Args:
        text (`str`): `org/name[@revision][/config]`, with or without the prefix `hf://datasets/`; a directory; or a
            JSON file (.json or .jsonl).
        split (`str`, *optional*): name of the split to read; defaults to all splits.
        image_root (`str`, *optional*, defaults to the directory of the JSON file): the image source, such as a
            directory, in which the image paths of the JSON file are looked up.
        on_wait (`Callable[[str], None]`, *optional*): called with a line if a whole dataset has to be loaded first.

    Raises:
        UsageError: the arguments contradict each other, or `text` names nothing that exists.
        SourceError: the dataset does not exist, or has no images or no questions.
    """
    path = Path(text)
    if path.suffix.lower() in SUFFIXES:
        if split is not None:
            raise UsageError(f"got the split {split!r}, but {text} has no splits: omit --split")
        # A JSON file has only paths: the images come from a source of their own.
        return read_llava_questions(path, open_source(image_root or str(path.parent), on_wait=on_wait))
    if image_root is not None:
        raise UsageError(f"--image-root applies only to a JSON file, and {text} is not one: omit it")
    if path.is_file():
        raise UsageError(f"{text} is not a JSON file: give a .json or .jsonl file, or a directory")
    if path.is_dir():
        # An existing directory takes precedence over a repository of the same name.
        address = Address(str(path.resolve()), on_hub=False)
    elif is_url(text):
        address = Address.parse(text)
    elif "/" in text and not path.is_absolute():
        address = Address.parse(f"{HUB_PREFIX}{text}")
    else:
        raise UsageError(
            f"{text} was not found: give a directory, a JSON file, or the org/name of a dataset on the Hub"
        )
    # The address may name a split too (`?split=NAME`).
    if split is not None and address.split not in ("", split):
        raise UsageError(f"{text!r} and --split {split} name different splits: omit one of them")
    return read_dataset_questions(DatasetSource(replace(address, split=split or address.split), on_wait=on_wait))


def default_teacher(source: ImageSource) -> str:
    """Return the name of the teacher that is used by default for a source.

    Args:
        source (`ImageSource`): the images.
    """
    return "scenes" if source.identity == SCENES else "gemini"


def open_teachers(
    source: ImageSource, options: RunOptions, *, roles: Collection[Role], state_dir: Path
) -> dict[Role, Teacher]:
    """Open the teacher of each role. Roles with the same teacher share one object, and therefore its rate limits.

    By default, the verifier uses the teacher's URL if both speak the same protocol, so that images which are sent to a
    private server are not also sent to a public one.

    Args:
        source (`ImageSource`): the images, which every teacher must support.
        options (`RunOptions`): names the teachers; a role that the method does not use must not be named.
        roles (`Collection[Role]`): the roles that the method uses.
        state_dir (`Path`): as for `open_teacher`.

    Raises:
        UsageError: a teacher does not exist, lacks a given setting, or does not support these images.
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
        # Not shared with a teacher that plants faults, because the verifier must not plant any.
        is_shared = verifier == teacher and url == options.teacher_url and not options.noise
        backends["verifier"] = backends["teacher"] if is_shared else open_backend(verifier, url=url)
    for backend in backends.values():
        check_source_type(backend.name, backend.source_type, source)
    return backends


def describe_teachers(source: ImageSource, options: RunOptions, *, roles: Collection[Role]) -> dict[Role, TeacherInfo]:
    """Return information about the teacher of each role without opening it, so that no key is needed.

    Args:
        source (`ImageSource`): as for `open_teachers`.
        options (`RunOptions`): as for `open_teachers`.
        roles (`Collection[Role]`): as for `open_teachers`.

    Raises:
        UsageError: a teacher does not exist, lacks a given setting, or does not support these images.
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
    """Return the name of each role's teacher, `NAME[:MODEL]`; the verifier defaults to the teacher.

    Args:
        source (`ImageSource`): the images, which decide the default teacher.
        options (`RunOptions`): the names that users gave.
        roles (`Collection[Role]`): the roles that the method uses.

    Raises:
        UsageError: a teacher is named for a role that the method does not use.
    """
    named: dict[Role, str | None] = {"teacher": options.teacher, "verifier": options.verifier}
    for role, name in named.items():
        if name is not None and role not in roles:
            raise UsageError(f"this method uses no {role}: omit --{role}")
    if options.noise and "teacher" not in roles:
        raise UsageError("this method uses no teacher that could plant faults: omit --noise")
    default = default_teacher(source)
    teacher = options.teacher or default
    defaults: dict[Role, str] = {"teacher": default, "verifier": teacher if "teacher" in roles else default}
    return {role: named[role] or defaults[role] for role in defaults if role in roles}


def _protocol(teacher: str) -> str:
    """Return the protocol of a teacher's server: `gemini` and `gemini-batch` use the same one."""
    return teacher.partition(":")[0].removesuffix("-batch")


def check_source_type(teacher: str, source_type: str | None, source: ImageSource) -> None:
    """Check that a teacher supports the images of a source.

    Args:
        teacher (`str`): name of the teacher, for the error message.
        source_type (`str | None`): the only kind of source that it supports; None for any.
        source (`ImageSource`): the images.

    Raises:
        UsageError: the teacher does not support these images.
    """
    if source_type not in (None, source.identity):
        raise UsageError(f"{teacher} only supports drawn scenes: name another teacher or verifier, such as gemini")
