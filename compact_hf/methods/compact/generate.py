"""`compact generate`: images in, a run folder out; the same call goes on where it stopped (paper, steps 1 to 3).

compact generate PICTURES --out RUN
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from compact_hf.images.codec import MAX_EDGE
from compact_hf.images.source import ImageSource
from compact_hf.methods.compact.conversation import generate_conversation
from compact_hf.methods.compact.preset import METHOD, Preset, get_preset
from compact_hf.methods.compact.prompts import prompts_version
from compact_hf.records import ImageInfo
from compact_hf.runs.image_index import reread_verified
from compact_hf.runs.process import Process
from compact_hf.runs.run import DEFAULT_CONCURRENCY, Run, RunLimits, RunProgress
from compact_hf.runs.shards import Shard
from compact_hf.runs.sources import open_source, open_teachers
from compact_hf.teachers.base import EncodedImage


def generate(
    source: str,
    out: str | Path,
    *,
    teacher: str | None = None,
    teacher_url: str | None = None,
    verifier: str | None = None,
    verifier_url: str | None = None,
    ks: tuple[int, ...] | None = None,
    preset: str = "paper",
    strict: bool = False,
    max_edge: int = MAX_EDGE,
    seed: int = 0,
    shard: str | None = None,
    noise: float = 0.0,
    limit: int | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    rpm: float | None = None,
    tpm: float | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    on_progress: Callable[[RunProgress], None] = lambda progress: None,
    on_wait: Callable[[str], None] = lambda line: None,
) -> RunProgress:
    """Ask a teacher about images and have every question verified; all goes into the run folder `out`.

    Works in a notebook too. Ctrl-C finishes what is in flight and stops; the same call goes on.

    Args:
        source (`str`): a folder, `scenes:N`, or a dataset on the Hub.
        out (`str | Path`): the run folder: new, empty, or this same run's.
        teacher, verifier (`str`, *optional*): `NAME[:MODEL]`. The teacher defaults to `scenes` for scenes and to
            `gemini` otherwise; the verifier to the teacher, without its noise.
        teacher_url, verifier_url (`str`, *optional*): other servers; the verifier's defaults to the teacher's.
        ks (`tuple[int, ...]`, *optional*, defaults to the preset's): each image's k is drawn uniformly from these.
        preset (`str`, *optional*, defaults to `paper`): `paper` asks for one question a request, `efficient` for
            several, and has them verified together; the checks are the same.
        strict (`bool`, *optional*, defaults to False): two checks more: the verifier's own answer must agree, and the
            question must not be answered rightly without the image (one request more per round).
        max_edge (`int`, *optional*, defaults to 1024): pixels on the longer edge of the image that is sent.
        seed (`int`, *optional*, defaults to 0): decides every draw.
        shard (`str`, *optional*): `I/N`: work on the I-th of N parts of the images only; `limit`, `rpm`, `tpm`,
            `max_requests` and `max_cost` are those of all parts together.
        noise (`float`, *optional*, defaults to 0.0): share of faulty drafts that the scenes teacher plants.
        limit (`int`, *optional*): work on so many images, drawn at random by the seed; a larger limit adds to them.
        concurrency (`int`, *optional*, defaults to 16): requests in flight.
        rpm, tpm (`float`, *optional*): at most so many requests, and tokens, a minute.
        max_requests, max_cost (`int`, `float`, *optional*): stop after so many answered requests, or US dollars, over
            all sessions.
        price_in, price_out (`float`, *optional*): US dollars per million tokens, where genai-prices does not know them.
        on_progress (`Callable[[RunProgress], None]`, *optional*): called as work proceeds.
        on_wait (`Callable[[str], None]`, *optional*): told in a line what is waited for: a teacher that answers in
            batches, or a dataset that has to be loaded first.

    Returns:
        Where the run stands at its end.

    Raises:
        UsageError: an argument cannot be carried out, or `out` holds another run.
        SourceError: there are no images to work on.
        TeacherError: the teacher refuses, or cannot be reached.
        JournalError: the run folder cannot be used.
        StoppedEarly: Ctrl-C, a budget, or images that could not be finished; the same call goes on.
    """
    limits = RunLimits(limit, concurrency, rpm, tpm, max_requests, max_cost, price_in, price_out)
    parsed_shard = None if shard is None else Shard.parse(shard)
    images = open_source(source, on_wait=on_wait)
    teachers = open_teachers(
        images,
        teacher=teacher,
        teacher_url=teacher_url,
        verifier=verifier,
        verifier_url=verifier_url,
        fault_rate=noise,
        seed=seed,
        batch_size=concurrency,
        state_dir=Path(out),
        on_wait=on_wait,
    )
    run_preset = get_preset(preset, strict=strict, is_batch=any(backend.is_batch for backend in teachers.values()))
    run_preset = run_preset.with_overrides(
        ks, max_edge=max_edge, teacher=teachers["teacher"].name, supported_ks=teachers["teacher"].ks
    )
    return Run(
        images,
        teachers,
        partial(_process_image, images, seed, run_preset),
        {
            "k": list(run_preset.ks),
            "method": METHOD,
            "preset": run_preset.preset_version,
            "prompts": prompts_version(run_preset.combinations_per_request),
            "max_edge": run_preset.max_edge,
        },
        seed,
        parsed_shard,
        limits,
        on_progress,
    ).run(Path(out))


def _process_image(source: ImageSource, seed: int, preset: Preset, image: ImageInfo) -> Process:
    encoded_image = EncodedImage(partial(reread_verified, source, image), ref=image.ref, max_edge=preset.max_edge)
    return generate_conversation(image.image_id, encoded_image, seed=seed, ks=preset.ks, preset=preset)
