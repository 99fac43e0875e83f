"""Fixture: a made-up report with every section, for the tests in this directory."""

from __future__ import annotations

from itertools import combinations

import pytest

from compact_hf.capabilities import CAPABILITIES
from compact_hf.reports.dataset_charts import RejectCount
from compact_hf.reports.demo_page import AccuracySection, DemoReport, ReleaseSection, TrainingSection
from compact_hf.reports.page_parts import Example, Fact

from .samples import HOSTILE, make_answered_question, make_score, make_sheet_item


@pytest.fixture(scope="session")
def accepted() -> dict[tuple[str, ...], int]:
    """Return all combinations of one to three capabilities, except object_interaction alone or in a pair."""
    return {
        combination: 1 + len(combination) + len(combination[0]) % 4
        for k in (1, 2, 3)
        for combination in combinations(CAPABILITIES, k)
        if k == 3 or "object_interaction" not in combination
    }


@pytest.fixture(scope="session")
def report(accepted: dict[tuple[str, ...], int]) -> DemoReport:
    """Return a report with every section and with HTML markup in its texts."""
    return DemoReport(
        title="A run",
        summary=f"Made up, with {HOSTILE}.",
        facts=(Fact("right after tuning", "60.0%", "95% interval 50.0% to 70.0%"),),
        data_facts=(Fact("images", "200"), Fact("questions", "612", "2 or 3 per image")),
        combination_counts=accepted,
        images=[make_sheet_item(seed, 1 + seed % 3, question=f"Is it {HOSTILE}?") for seed in range(200)],
        rejects=[
            RejectCount(f"a {HOSTILE} reason", 9),
            RejectCount("confidence below 70", 12, injected_faults=13, caught_faults=12),
        ],
        release=ReleaseSection((Fact("rows", "612"),), Example("Load it:", "load_dataset(DIR)", HOSTILE)),
        training=TrainingSection((Fact("steps", "600"),), tuple((step, 3 / step) for step in range(1, 61))),
        accuracy=AccuracySection(
            models=("before", "after"),
            overall=make_score("all"),
            by_k=tuple(make_score(f"k = {k}") for k in (1, 2, 3)),
            by_capability=tuple(make_score(name) for name in CAPABILITIES),
            questions="Reserved scenes.",
            caveat="Nothing about photographs.",
            examples=[make_answered_question(number, ("before", "after"), (False, True)) for number in range(8)],
            selection_rule="The first eight.",
        ),
        next_steps=(Example("Continue:", "compact status RUN"),),
    )
