"""The paper's eight benchmarks as lmms-eval knows them: its task, the metric that the paper has, and its unit. Pure.

Read in the task files of the version named here, and run through it in tests/evaluation/test_benchmarks_harness.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from compact_hf.evaluation.benchmarks.paper_scores import BENCHMARKS

HARNESS: Final = "0.7.3"
"""The version of lmms-eval whose calls are written and whose results files are read. Some on PyPI (0.6.1, 0.7.0, 0.7.2)
lack the files of these very tasks."""
JUDGE: Final = "gpt-4o-2024-11-20"
"""The model that lmms-eval has judge where MODEL_VERSION names no other."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark in lmms-eval.

    Attributes:
        name (`str`): as the paper has it, one of `paper.BENCHMARKS`.
        task (`str`): lmms-eval's.
        metric (`str`): that of the task's metrics which the paper reports.
        scale (`float`): what brings the metric to the paper's unit: 100 where lmms-eval writes a share.
        judged (`bool`): a model of OpenAI's grades the answers, which takes a key and costs money.
    """

    name: str
    task: str
    metric: str
    scale: float = 1.0
    judged: bool = False


_HOW: Final = {
    "InfoVQA": ("infovqa_val", "anls", 100.0, False),
    "SEED-Bench-2-Plus": ("seedbench_2_plus", "seedbench_2_plus_all", 100.0, False),
    # Perception alone: LLaVA-665K's 1478 is out of its 2000 points; cognition would add 800 more.
    "MME": ("mme", "mme_perception_score", 1.0, False),
    "TextVQA": ("textvqa_val", "exact_match", 100.0, False),
    "MM-Vet": ("mmvet", "gpt_eval_score", 1.0, True),
    "CV-Bench": ("cv_bench", "cv_bench_acc", 100.0, False),
    "MMStar": ("mmstar", "average", 100.0, False),
    "LLaVA-in-the-Wild": ("llava_in_the_wild", "gpt_eval_llava_all", 1.0, True),
}
EIGHT: Final = tuple(Benchmark(name, *_HOW[name]) for name in BENCHMARKS)
"""In the order of the paper's columns."""

HELDOUT: Final = "compact_heldout"
"""The task of our own held-out questions; its metrics are `accuracy`, `accuracy_k1`, `accuracy_k2`, ..., as shares."""
