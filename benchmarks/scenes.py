"""Measures the speed of drawing scenes and writing three questions about each, on one core.

    python benchmarks/scenes.py [--json] [--images N] [--repetitions R]

Prints milliseconds per step and images per second (median and range of the repetitions). Each repetition uses new
scenes. Times are CPU time, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

from compact_hf.capabilities import CAPABILITIES
from compact_hf.scenes.questions import analyze_question, make_question, supported_combinations
from compact_hf.scenes.render import render_png
from compact_hf.scenes.scene import build_scene

T = TypeVar("T")
QUESTIONS_PER_IMAGE = 3
TARGET_RATE = 100


def measure(seeds: range) -> dict[str, float]:
    """Return the mean milliseconds per scene of each step."""
    milliseconds: dict[str, float] = {}
    rng = random.Random(seeds.start)

    def time_step(step: str, work: Callable[[], T]) -> T:
        start = time.process_time()
        result = work()
        milliseconds[step] = milliseconds.get(step, 0.0) + (time.process_time() - start) * 1000 / len(seeds)
        return result

    for seed in seeds:
        scene = time_step("scene", lambda: build_scene(seed))  # noqa: B023 (called at once)
        time_step("picture and PNG", lambda: render_png(scene))  # noqa: B023
        for _ in range(QUESTIONS_PER_IMAGE):
            combination = tuple(rng.sample(list(CAPABILITIES), rng.choice((1, 2, 3))))
            question = time_step("3 questions", lambda: make_question(scene, combination, rng))  # noqa: B023
            if question is not None:
                time_step("3 verdicts", lambda: analyze_question(scene, question.question))  # noqa: B023
        time_step("supported, k = 3", lambda: supported_combinations(scene, 3))  # noqa: B023
    return milliseconds


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--images", type=int, default=200, help="number of images per repetition (default: 200)")
    parser.add_argument("--repetitions", type=int, default=5, help="number of repetitions (default: 5)")
    args = parser.parse_args()
    # The first scenes of a process are slower, because no sprites are cached yet. They are measured separately.
    cold = measure(range(2_000_000, 2_000_000 + args.images))
    starts = [3_000_000 + i * args.images for i in range(args.repetitions)]
    runs = [measure(range(start, start + args.images)) for start in starts]
    image_steps = ("scene", "picture and PNG", "3 questions")
    rates = [1000 / sum(run[step] for step in image_steps) for run in runs]
    result = {
        "pictures": args.images,
        "repetitions": args.repetitions,
        "milliseconds": {step: statistics.median(run[step] for run in runs) for step in runs[0]},
        "pictures_per_second": {"median": statistics.median(rates), "least": min(rates), "most": max(rates)},
        "pictures_per_second_cold": 1000 / sum(cold[step] for step in image_steps),
        "wanted_per_second": TARGET_RATE,
    }
    if args.json:
        print(json.dumps(result))
        return
    print("| step | ms per image |\n|---|---|")
    for step in runs[0]:
        print(f"| {step} | {result['milliseconds'][step]:.2f} |")
    print(
        f"\n{statistics.median(rates):.0f} images with {QUESTIONS_PER_IMAGE} questions each per second and core "
        f"({min(rates):.0f} to {max(rates):.0f}; the first {args.images} of a process: "
        f"{result['pictures_per_second_cold']:.0f}; target: {TARGET_RATE})"
    )


if __name__ == "__main__":
    main()
