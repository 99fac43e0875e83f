"""The options of augment besides the options of all runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from compact_hf.methods.base import DatasetOptions
from compact_hf.runs.options import option

METHOD: Final = "augment"


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(DatasetOptions):
    """The options of augment.

    Attributes:
        strict (`bool`, *optional*, defaults to False): check answers too, as COMPACT's `strict` does.
    """

    strict: bool = option(False, "check answers too: confirmed by the verifier, not guessed blindly")
