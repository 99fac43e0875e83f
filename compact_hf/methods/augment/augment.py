"""`compact augment`: a data set in, its questions out, rewritten to need one capability more (the paper's k + 1).

compact augment DATASET --out RUN

The run folder is one as that of `compact generate`: the same call goes on where it stopped, `compact status` shows it,
and `compact assemble` makes a release of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from compact_hf.images.codec import MAX_EDGE, checked_edge
from compact_hf.images.questions import QuestionedPictures
from compact_hf.methods.augment.prompts import rewriting_version
from compact_hf.methods.augment.rewriting import BATCHED, METHOD, PRESET, augment_picture
from compact_hf.methods.compact.preset import Preset
from compact_hf.methods.compact.sampling import MAX_K
from compact_hf.methods.verification import judging_version
from compact_hf.records import Picture
from compact_hf.runs.asked import open_both
from compact_hf.runs.image_index import read_again
from compact_hf.runs.process import Process
from compact_hf.runs.run import DEFAULT_CONCURRENCY, Run, Terms
from compact_hf.runs.sources import open_dataset
from compact_hf.runs.standing import Standing
from compact_hf.teachers.base import Exposure


def augment(
    dataset: str,
    out: str | Path,
    *,
    split: str | None = None,
    image_root: str | None = None,
    teacher: str | None = None,
    teacher_url: str | None = None,
    verifier: str | None = None,
    verifier_url: str | None = None,
    strict: bool = False,
    max_edge: int = MAX_EDGE,
    seed: int = 0,
    limit: int | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    rpm: float | None = None,
    tpm: float | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    on_progress: Callable[[Standing], None] = lambda standing: None,
    on_wait: Callable[[str], None] = lambda line: None,
) -> Standing:
    """Have a teacher rewrite the questions of a data set so that they need one capability more, and verify each.

    The verifier first says what every question needs, as in `annotate`. Of each picture those questions are rewritten
    that need as many capabilities as most of them, so that its conversation has one k. Works in a notebook too. Ctrl-C
    finishes what is in flight and stops; the same call goes on.

    Args:
        dataset (`str`): `org/name[@revision][/config]` on the Hub, a folder such as a release, or a JSON file in
            LLaVA's format.
        out (`str | Path`): the run folder: new, empty, or this same run's.
        split (`str`, *optional*): one split of it; all of them by default.
        image_root (`str`, *optional*, defaults to the JSON file's folder): where its image paths start.
        teacher, verifier (`str`, *optional*): `NAME[:MODEL]`. The teacher defaults to `scenes` for drawn scenes and to
            `gemini` otherwise; the verifier to the teacher.
        teacher_url, verifier_url (`str`, *optional*): other servers; the verifier's defaults to the teacher's.
        strict (`bool`, *optional*, defaults to False): check answers too, as for `generate`.
        max_edge (`int`, *optional*, defaults to 1024): pixels on the longer edge of the picture that is sent.
        seed (`int`, *optional*, defaults to 0): decides every draw.
        limit (`int`, *optional*): work on so many pictures, drawn at random by the seed; a larger limit adds to them.
        concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out (*optional*): as for `generate`.
        on_progress (`Callable[[Standing], None]`, *optional*): called as work proceeds.
        on_wait (`Callable[[str], None]`, *optional*): told in a line what is waited for: a teacher that answers in
            batches, or a data set that has to be loaded first.

    Returns:
        Where the run stands at its end.

    Raises:
        UsageError: an argument cannot be carried out, or `out` holds another run.
        SourceError: there is no such data set, or it has no pictures or no questions.
        TeacherError: the teacher refuses, or cannot be reached.
        JournalError: the run folder cannot be used.
        StoppedEarly: Ctrl-C, a budget, or pictures that could not be finished; the same call goes on.
    """
    terms = Terms(limit, concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out)
    checked_edge(max_edge)
    asked = open_dataset(dataset, split=split, image_root=image_root, on_wait=on_wait)
    teachers = open_both(
        asked,
        teacher=teacher,
        teacher_url=teacher_url,
        verifier=verifier,
        verifier_url=verifier_url,
        seed=seed,
        batch_size=concurrency,
        state_dir=Path(out),
        on_wait=on_wait,
    )
    writer = teachers["teacher"]
    in_batches = any(one.in_batches for one in teachers.values())
    preset = replace(BATCHED if in_batches else PRESET, strict=strict, max_edge=max_edge)
    ks = range(writer.ks.start, min(writer.ks.stop, MAX_K + 1))
    return Run(
        asked,
        teachers,
        partial(_process, asked, seed, ks, preset),
        {
            "k": ["k+1"],
            "method": METHOD,
            "rows": asked.content,
            "preset": preset.preset_version,
            "prompts": f"{judging_version()}-{rewriting_version()}",
            "max_edge": max_edge,
        },
        seed,
        None,
        terms,
        on_progress,
    ).to_end(Path(out))


def _process(asked: QuestionedPictures, seed: int, ks: range, preset: Preset, picture: Picture) -> Process:
    exposure = Exposure(partial(read_again, asked, picture), ref=picture.ref, max_edge=preset.max_edge)
    rows = asked.asked(picture.ref)
    return augment_picture(picture.image_id, exposure, rows, seed=seed, ks=ks, preset=preset)
