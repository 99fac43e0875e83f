"""What COMPACT can be told besides what every run can: keywords of `generate`, flags of `compact generate`."""

from __future__ import annotations

from dataclasses import dataclass

from compact_hf.runs.options import option, parse_numbers


@dataclass(frozen=True, kw_only=True)
class CompactOptions:
    """The options of COMPACT.

    Attributes:
        ks (`tuple[int, ...]`, *optional*, defaults to the preset's): each image's k is drawn uniformly from these.
        preset (`str`, *optional*, defaults to `paper`): `paper` asks for one question a request, `efficient` for
            several, and has them verified together; the checks are the same.
        strict (`bool`, *optional*, defaults to False): two checks more: the verifier's own answer must agree, and the
            question must not be answered rightly without the image (one request more per round).
    """

    ks: tuple[int, ...] | None = option(
        None, "draw each picture's k from these (default: 1,2,3)", name="k", metavar="1,2,3", parse=parse_numbers
    )
    preset: str = option(
        "paper", "paper (default): a question a request; efficient: several, a quarter of the requests"
    )
    strict: bool = option(False, "check answers too: confirmed by the verifier, not guessed blindly")
