"""Teachers by name, as `--teacher NAME[:MODEL]` gives them, and all that is known of one before it is opened.

A teacher is one file in this directory and one entry in `BACKENDS`: prices, forecasts, cards, help texts and runs on
Ray go by what stands there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compact_hf.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from compact_hf.teachers.base import Teacher, TeacherInfo


@dataclass(frozen=True, slots=True)
class TeacherSettings:
    """What a teacher can be told when it is opened.

    Attributes:
        url (`str`, *optional*): the server to ask instead of the service's own.
        fault_rate, seed: the faults that a teacher plants that computes its replies, 0 to 1, and where.
        batch_size (`int`): requests in flight, which a model that runs here answers at the same time.
        state_dir (`Path`): the run directory, where a teacher that answers in batches remembers what it has sent.
        on_wait (`Callable[[str], None]`): told in a line what is waited for.
    """

    url: str | None
    fault_rate: float
    seed: int
    batch_size: int
    state_dir: Path
    on_wait: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Backend:
    """What is known of a teacher by its name alone.

    Attributes:
        opener (`str`): `package.module:function`, imported when it is used; it takes the model and `TeacherSettings`
            and returns the `Teacher`.
        default_model (`str`): the model where none is named; empty where one has to be, or where there are none.
        provider (`str`, *optional*): whose prices hold, as genai-prices calls it; None where nobody lists any.
        is_free (`bool`): it runs here and charges nothing; its names may be those of directories.
        is_batch (`bool`): it answers in batches, each of which may take a day.
        is_instant (`bool`): it computes instead of reading: no tokens, no waiting.
        plants_faults (`bool`): it can plant faults in its replies, and labels them in `Reply.planted`.
        has_models (`bool`): it has models to choose from.
        uses_gpu (`bool`): its model runs here, so that nobody knows beforehand how long it takes.
        has_server (`bool`): it asks a server, so that it may be given another one's address.
        source_type (`str`, *optional*): the one kind of source it can speak about, None for any.
        ks (`range`): the values of k that it can be asked for.
        terms (`str`): for cards: whose terms hold for what it writes.
    """

    opener: str
    default_model: str = ""
    provider: str | None = None
    is_free: bool = False
    is_batch: bool = False
    is_instant: bool = False
    plants_faults: bool = False
    has_models: bool = True
    uses_gpu: bool = False
    has_server: bool = True
    source_type: str | None = None
    ks: range = range(1, 11)
    terms: str = ""


GEMINI_MODEL: Final = "gemini-3.8-flash"
_GEMINI_TERMS: Final = """\
- Text by Gemini: the terms are those of Google's Gemini API as they stood on the dates above (its additional terms of
  service and its policy on prohibited use, at ai.google.dev). Look up there what generated text may be used for, such
  as training which models, before you train with it."""

BACKENDS: Final[dict[str, Backend]] = {
    "gemini": Backend(
        "compact_hf.teachers.gemini:open_gemini", default_model=GEMINI_MODEL, provider="google", terms=_GEMINI_TERMS
    ),
    "gemini-batch": Backend(
        "compact_hf.teachers.gemini_batch.teacher:open_gemini_batch",
        default_model=GEMINI_MODEL,
        provider="google",
        is_batch=True,
        terms=_GEMINI_TERMS,
    ),
    "local": Backend(
        "compact_hf.teachers.local:open_local",
        is_free=True,
        uses_gpu=True,
        has_server=False,
        terms="""\
- Text by a model that ran on its maker's machine: the model's licence, on its card, says whether its output comes under
  any terms.""",
    ),
    "openai": Backend(
        "compact_hf.teachers.openai:open_openai",
        provider="openai",
        terms="""\
- Text from a server of OpenAI's protocol: the terms are those of whoever ran it, and of the model that the table above
  names: OpenAI's terms of use for OpenAI's own models, the model's own licence for one that was served by someone else.
  Look up there what generated text may be used for, such as training which models.""",
    ),
    "scenes": Backend(
        "compact_hf.teachers.scenes:open_scenes",
        is_free=True,
        is_instant=True,
        plants_faults=True,
        has_models=False,
        has_server=False,
        source_type="scenes",
        ks=range(1, 6),
        terms="""\
- Text and checks by `scenes`: a program wrote them from the drawing's own plan, so there is no model and no provider
  whose terms could hold. The program is that of compact_hf (Apache 2.0).""",
    ),
}


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
        url, fault_rate, seed, batch_size, state_dir, on_wait: as for `TeacherSettings`.

    Raises:
        UsageError: no such teacher, or a setting that it does not have.
    """
    model = spec.partition(":")[2]
    backend = get_backend(spec)
    check_settings(spec, url=url, fault_rate=fault_rate)
    settings = TeacherSettings(url, fault_rate, seed, batch_size, state_dir, on_wait)
    module_name, _, function_name = backend.opener.partition(":")
    open_backend: Callable[[str, TeacherSettings], Teacher] = getattr(import_module(module_name), function_name)
    return open_backend(model or backend.default_model, settings)


def check_settings(spec: str, *, url: str | None, fault_rate: float) -> None:
    """Do nothing if the teacher that `spec` names can be told this.

    Raises:
        UsageError: no such teacher, or it has no models, faults or server.
    """
    name, _, model = spec.partition(":")
    backend = get_backend(spec)
    if model and not backend.has_models:
        raise UsageError(f"the teacher {name} has no models; write --teacher {name}")
    if fault_rate and not backend.plants_faults:
        planters = ", ".join(other for other, known in BACKENDS.items() if known.plants_faults)
        raise UsageError(f"only the teacher {planters} plants noise; leave --noise out for {name}")
    if url and not backend.has_server:
        raise UsageError(f"the teacher {name} asks no server; leave its URL out")


def describe_teacher(spec: str) -> TeacherInfo:
    """Return what is known of the teacher that `spec` names, without opening it: no key is needed.

    Raises:
        UsageError: no such teacher.
    """
    from compact_hf.teachers.base import TeacherInfo

    name, _, model = spec.partition(":")
    backend = get_backend(spec)
    model = model or backend.default_model
    return TeacherInfo(f"{name}:{model}" if model else name, backend.ks, backend.source_type, backend.is_batch)


def get_backend(spec: str) -> Backend:
    """Return what is known of the teacher that `NAME[:MODEL]` names.

    Raises:
        UsageError: no such teacher.
    """
    name = spec.partition(":")[0]
    if name not in BACKENDS:
        raise UsageError(f"got the teacher {spec!r}; there are {', '.join(BACKENDS)}{did_you_mean(name, BACKENDS)}")
    return BACKENDS[name]
