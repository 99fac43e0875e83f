"""Lists the available teachers with their properties, and opens a teacher by its name (`--teacher NAME[:MODEL]`).

A teacher is one module in this directory and one entry in `BACKENDS`. Prices, forecasts, cards, help texts and runs on
Ray read the properties of the entry.
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
    """Settings with which a teacher is opened; each teacher uses those that apply to it.

    Attributes:
        url (`str | None`): URL of the server to ask instead of the default one.
        fault_rate (`float`): share of drafts, 0 to 1, in which the teacher `scenes` plants a fault.
        seed (`int`): random seed of the teacher `scenes`.
        batch_size (`int`): maximum number of requests in a batch of the teacher `local`.
        state_dir (`Path`): run directory, in which a teacher that answers in batches stores its jobs.
        on_wait (`Callable[[str], None]`): called with a line that says what the teacher waits for.
    """

    url: str | None
    fault_rate: float
    seed: int
    batch_size: int
    state_dir: Path
    on_wait: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Backend:
    """Properties of a teacher that are known from its name, without opening it.

    Attributes:
        opener (`str`): `package.module:function`, imported on use. The function takes the model and `TeacherSettings`,
            and returns the `Teacher`.
        default_model (`str`, *optional*): model to use if none is named; empty if the teacher has no models, or if one
            must be named.
        provider (`str`, *optional*): provider whose prices apply, as genai-prices calls it; None if it lists none.
        is_free (`bool`, *optional*, defaults to False): whether it runs on this machine and costs nothing. Its model
            names may be directories.
        is_batch (`bool`, *optional*, defaults to False): whether it answers in batches, each of which may take a day.
        is_instant (`bool`, *optional*, defaults to False): whether it computes replies, without a model: it uses no
            tokens and answers at once.
        plants_faults (`bool`, *optional*, defaults to False): whether it can plant faults in its replies, which it
            labels in `Reply.planted`.
        has_models (`bool`, *optional*, defaults to True): whether it has models to choose from.
        uses_gpu (`bool`, *optional*, defaults to False): whether its model runs on this machine, so that its speed
            cannot be forecast.
        has_server (`bool`, *optional*, defaults to True): whether it asks a server, whose URL can be changed.
        source_type (`str`, *optional*): the only kind of source that it supports; None for any.
        ks (`range`, *optional*, defaults to `range(1, 11)`): values of k that it supports.
        terms (`str`, *optional*): paragraph for cards about the terms that apply to its output.
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
- Text by Gemini: the terms of Google's Gemini API on the dates above apply (its additional terms of service and its
  policy on prohibited use, at ai.google.dev). Before you train with this text, check there what generated text may be
  used for, and which models may be trained with it."""

# In the order of help texts and messages.
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
- Text by a model that ran on the machine of the dataset's author: the model's license, on its card, says whether terms
  apply to its output.""",
    ),
    "openai": Backend(
        "compact_hf.teachers.openai:open_openai",
        # Prices apply if the model has the name of one of OpenAI's, whatever server is asked.
        provider="openai",
        terms="""\
- Text from a server with OpenAI's protocol: the terms of its operator and of the model in the table above apply, which
  are OpenAI's terms of use for OpenAI's own models, and the model's license for a model that someone else served. Check
  there what generated text may be used for, and which models may be trained with it.""",
    ),
    "scenes": Backend(
        "compact_hf.teachers.scenes:open_scenes",
        is_free=True,
        is_instant=True,
        plants_faults=True,
        has_models=False,
        has_server=False,
        source_type="scenes",
        # No question about a drawn scene needs more than five capabilities.
        ks=range(1, 6),
        terms="""\
- Text and checks by `scenes`: a program wrote them from the description from which the scene was drawn, so no terms of
  a model or a provider apply. The program is part of compact_hf (Apache 2.0).""",
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
    """Open a teacher.

    Args:
        spec (`str`): `NAME` or `NAME:MODEL`.
        url (`str`, *optional*): as for `TeacherSettings`.
        fault_rate (`float`, *optional*, defaults to 0.0): as for `TeacherSettings`.
        seed (`int`, *optional*, defaults to 0): as for `TeacherSettings`.
        batch_size (`int`, *optional*, defaults to 16): as for `TeacherSettings`.
        state_dir (`Path`): as for `TeacherSettings`.
        on_wait (`Callable[[str], None]`, *optional*): as for `TeacherSettings`.

    Raises:
        UsageError: the teacher does not exist, or does not have a setting that is given.
    """
    model = spec.partition(":")[2]
    backend = get_backend(spec)
    check_settings(spec, url=url, fault_rate=fault_rate)
    settings = TeacherSettings(url, fault_rate, seed, batch_size, state_dir, on_wait)
    module_name, _, function_name = backend.opener.partition(":")
    # Imported on use, because each teacher needs other libraries.
    open_backend: Callable[[str, TeacherSettings], Teacher] = getattr(import_module(module_name), function_name)
    return open_backend(model or backend.default_model, settings)


def check_settings(spec: str, *, url: str | None, fault_rate: float) -> None:
    """Check that a teacher has the settings that are given.

    Args:
        spec (`str`): `NAME` or `NAME:MODEL`.
        url (`str | None`): as for `TeacherSettings`.
        fault_rate (`float`): as for `TeacherSettings`.

    Raises:
        UsageError: the teacher does not exist, or it has no models, faults or server.
    """
    name, _, model = spec.partition(":")
    backend = get_backend(spec)
    if model and not backend.has_models:
        raise UsageError(f"the teacher {name} has no models: give --teacher {name}")
    if fault_rate and not backend.plants_faults:
        planters = ", ".join(other for other, known in BACKENDS.items() if known.plants_faults)
        raise UsageError(f"only the teacher {planters} can plant faults: omit --noise for {name}")
    if url and not backend.has_server:
        raise UsageError(f"the teacher {name} uses no server: omit its URL")


def describe_teacher(spec: str) -> TeacherInfo:
    """Return information about a teacher without opening it, so that no key is needed.

    Args:
        spec (`str`): `NAME` or `NAME:MODEL`.

    Raises:
        UsageError: the teacher does not exist.
    """
    from compact_hf.teachers.base import TeacherInfo

    name, _, model = spec.partition(":")
    backend = get_backend(spec)
    model = model or backend.default_model
    return TeacherInfo(f"{name}:{model}" if model else name, backend.ks, backend.source_type, backend.is_batch)


def get_backend(spec: str) -> Backend:
    """Return the entry of a teacher in `BACKENDS`.

    Args:
        spec (`str`): `NAME` or `NAME:MODEL`.

    Raises:
        UsageError: the teacher does not exist.
    """
    name = spec.partition(":")[0]
    if name not in BACKENDS:
        raise UsageError(f"got the teacher {spec!r}: use one of {', '.join(BACKENDS)}{did_you_mean(name, BACKENDS)}")
    return BACKENDS[name]
