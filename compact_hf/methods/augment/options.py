"""Defines the options of augment, in addition to the options of all runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from compact_hf.methods.base import DatasetOptions
from compact_hf.runs.options import option

METHOD: Final = "augment"


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(DatasetOptions):
    """The options of augment, in addition to those of `DatasetOptions`.

    Attributes:
        strict (`bool`, *optional*, defaults to False): whether to check answers too, like COMPACT's `strict`.
    """

    strict: bool = option(
        False, "check answers too: the verifier must confirm them, and they must not be guessable without the image"
    )
