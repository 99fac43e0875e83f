"""Finds the files of a model that is evaluated, and identifies it by their contents, and by those of its base."""

from __future__ import annotations

from pathlib import Path

from compact_hf.errors import EvaluationError, TuningError
from compact_hf.hub.ref import RepoRef
from compact_hf.models import loading
from compact_hf.models.adapter import find_base
from compact_hf.training.training_record import read_adapter_info


def locate_model(model: str) -> Path:
    """Return the directory with the files of a model, downloading them from the Hub if `model` is not a directory.

    Args:
        model (`str`): a directory, or a Hub repository with an optional `@revision`.

    Raises:
        UsageError: there is neither a directory nor a repository of this name, or the directory contains no model.
        EvaluationError: the repository cannot be downloaded, or the directory has other than regular files.
    """
    ref = None if Path(model).exists() else RepoRef.parse(model)
    try:
        return loading.resolve_model(ref.repo_id, revision=ref.revision) if ref else loading.resolve_model(model)
    except TuningError as error:
        raise EvaluationError(str(error)) from error


def model_identity(model: str) -> str:
    """Return a hash of a model's files, so that a model that was trained again in the same directory is a new model.

    Raises:
        UsageError, EvaluationError: as for `locate_model`.
    """
    return loading.hash_model(locate_model(model))


def base_identity(model: str, base: str | None = None) -> str | None:
    """Return a hash of the files of an adapter's base, whose weights decide the answers as well.

    Args:
        model (`str`): as for `locate_model`.
        base (`str`, *optional*): another base than the one in the adapter's config.

    Returns:
        `str`, *optional*: the hash; None for a whole model, and if the base in the config was not found, which loading
            it reports.

    Raises:
        EvaluationError: as for `locate_model`, or `base` cannot be downloaded.
        UsageError: `base` is neither a directory of a model nor the name of a repository.
    """
    directory = locate_model(model)
    if not loading.is_adapter(directory):
        return None
    try:
        return loading.hash_model(find_base(read_adapter_info(directory), base))
    except TuningError as error:
        if base is not None:
            raise EvaluationError(str(error)) from error
        return None
