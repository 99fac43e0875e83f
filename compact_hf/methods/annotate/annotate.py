"""`compact annotate`: a data set in, and what each of its questions needs out (the paper's analysis of LLaVA-665K).

compact annotate DATASET --out RUN

The run folder is one as that of `compact generate`: the same call goes on where it stopped, and nothing that was
answered is asked again. Beside the journal lies annotations.parquet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from compact_hf.errors import StoppedEarly, TeacherError
from compact_hf.images.codec import MAX_EDGE, checked_edge
from compact_hf.images.questions import QuestionedPictures
from compact_hf.methods.annotate.annotation import METHOD, annotate_picture
from compact_hf.methods.annotate.parquet import write_table
from compact_hf.methods.annotate.summary import Summary, summary
from compact_hf.methods.verification import judging_version
from compact_hf.records import Picture
from compact_hf.runs.asked import check_pictures, default_teacher
from compact_hf.runs.image_index import read_again
from compact_hf.runs.process import Process
from compact_hf.runs.run import DEFAULT_CONCURRENCY, Run, Terms
from compact_hf.runs.sources import open_dataset
from compact_hf.runs.standing import Standing
from compact_hf.teachers.base import Exposure
from compact_hf.teachers.registry import open_teacher


def annotate(
    dataset: str,
    out: str | Path,
    *,
    split: str | None = None,
    image_root: str | None = None,
    verifier: str | None = None,
    verifier_url: str | None = None,
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
) -> Summary:
    """Ask a verifier which capabilities the questions of a data set need; it sees neither answers nor any expectation.

    Works in a notebook too. Ctrl-C finishes what is in flight and stops; the same call goes on. What is there by then
    is in `out`/annotations.parquet.

    Args:
        dataset (`str`): `org/name[@revision][/config]` on the Hub, a folder such as a release, or a JSON file in
            LLaVA's format. Rows about one picture are asked about together.
        out (`str | Path`): the run folder: new, empty, or this same run's.
        split (`str`, *optional*): one split of it; all of them by default.
        image_root (`str`, *optional*, defaults to the JSON file's folder): where its image paths start.
        verifier (`str`, *optional*): `NAME[:MODEL]`; defaults to `scenes` for drawn scenes and to `gemini` otherwise.
        verifier_url (`str`, *optional*): another server.
        max_edge (`int`, *optional*, defaults to 1024): pixels on the longer edge of the picture that is sent.
        seed (`int`, *optional*, defaults to 0): decides which pictures come first.
        limit (`int`, *optional*): work on so many pictures, drawn at random by the seed; a larger limit adds to them.
        concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out (*optional*): as for `generate`.
        on_progress (`Callable[[Standing], None]`, *optional*): called as work proceeds.
        on_wait (`Callable[[str], None]`, *optional*): told in a line what is waited for: a verifier that answers in
            batches, or a data set that has to be loaded first.

    Returns:
        What the questions need, in numbers.

    Raises:
        UsageError: an argument cannot be carried out, or `out` holds another run.
        SourceError: there is no such data set, or it has no pictures or no questions.
        TeacherError: the verifier refuses, or cannot be reached.
        JournalError: the run folder cannot be used.
        StoppedEarly: Ctrl-C, a budget, or pictures that could not be finished; the same call goes on.
    """
    terms = Terms(limit, concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out)
    checked_edge(max_edge)
    asked = open_dataset(dataset, split=split, image_root=image_root, on_wait=on_wait)
    judge = open_teacher(
        verifier or default_teacher(asked),
        url=verifier_url,
        seed=seed,
        batch_size=concurrency,
        state_dir=Path(out),
        on_wait=on_wait,
    )
    check_pictures(judge.name, judge.sources, asked)
    run = Run(
        asked,
        {"verifier": judge},
        partial(_process, asked, max_edge),
        {"method": METHOD, "rows": asked.content, "prompts": judging_version(), "max_edge": max_edge},
        seed,
        None,
        terms,
        on_progress,
    )
    try:
        run.to_end(Path(out))
    except (StoppedEarly, TeacherError, KeyboardInterrupt):
        write_table(Path(out))
        raise
    write_table(Path(out))
    return summary(out)


def _process(asked: QuestionedPictures, max_edge: int, picture: Picture) -> Process:
    exposure = Exposure(partial(read_again, asked, picture), ref=picture.ref, max_edge=max_edge)
    return annotate_picture(picture.image_id, exposure, asked.asked(picture.ref))
