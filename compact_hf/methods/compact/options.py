"""Defines the options of COMPACT, in addition to the options of all runs.

They are keywords of `generate` and flags of `compact generate`.
"""

from __future__ import annotations

from dataclasses import dataclass

from compact_hf.runs.options import option, parse_numbers


@dataclass(frozen=True, kw_only=True)
class CompactOptions:
    """The options of COMPACT.

    Attributes:
        ks (`tuple[int, ...]`, *optional*): the k of each image is drawn uniformly from these; defaults to the preset's.
        preset (`str`, *optional*, defaults to `paper`): `paper` requests one question at a time; `efficient` requests
            several at once, and has them verified together. The checks are the same.
        strict (`bool`, *optional*, defaults to False): whether to do two more checks: the verifier's own answer must
            agree, and the question must not be answered correctly without the image (one more request per round).
    """

    ks: tuple[int, ...] | None = option(
        None, "draw the k of each image from these (default: 1,2,3)", name="k", metavar="1,2,3", parse=parse_numbers
    )
    preset: str = option(
        "paper", "paper (default): one question per request; efficient: several, so a quarter of the requests"
    )
    strict: bool = option(
        False, "check answers too: the verifier must confirm them, and they must not be guessable without the image"
    )
