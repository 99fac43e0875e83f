"""Computes and writes the results of an ablation: ablation.json, ablation.md, ablation.png and ablation.html.

The 95% intervals account for two sources of variation: other images of the same kind, and other seeds. They come from a
bootstrap with two levels. Images are resampled with all of their questions, and the same resample is used for every
model, so that the difficulty of images cancels out of a difference. Seeds are resampled separately for each variant. A
bootstrap over n seeds underestimates their variance by the factor (n - 1) / n, which matters for few seeds, so the
result of every seed is also reported.

    {"schema": 1,
     "plan": PLAN,                    the contents of the YAML file
     "dataset": "...",                display name of the dataset that all models were evaluated on
     "base_identity": "0123...",      hash of the files of the base that all models were tuned from
     "matching_version": "2",         version of the rule `exact`, which marked the answers; 1 if it is missing
     "units": [UNIT, ...],            the fields of `variant.UnitResult`
     "lines": [LINE, ...]}            the fields of `ResultRow`: all questions first, then each k
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compact_hf.errors import EvaluationError
from compact_hf.evaluation.ablation.plan import Plan
from compact_hf.evaluation.ablation.variant import UnitResult
from compact_hf.evaluation.scoring import SHORT_ANSWER_RULES
from compact_hf.evaluation.significance import Comparison, compare
from compact_hf.evaluation.tasks.compact.records import CompactPrediction
from compact_hf.evaluation.tasks.compact.scoring import score_by_k
from compact_hf.records import FIRST_RULE_VERSION
from compact_hf.reports.ablation_page import (
    AblationReport,
    GroupScores,
    Spread,
    VariantData,
    plot_accuracy_by_variant,
    render_ablation,
)
from compact_hf.reports.markdown import format_table
from compact_hf.reports.table import NotebookSummary, Table
from compact_hf.storage import translate_disk_errors, write_atomically

if TYPE_CHECKING:
    from numpy import ndarray

    Array = ndarray[Any, Any]

PredictionsByVariant = Mapping[str, Mapping[int, Sequence[CompactPrediction]]]
"""Variant -> seed -> predictions of the model that was tuned on this variant with this seed."""

_RESAMPLES: Final = 4000
# Fixed, so that the same answers always give the same intervals.
_SEED: Final = 0
_PERCENTILES: Final = (2.5, 97.5)  # the ends of a 95% interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """An accuracy, 0 to 1, or a difference of two, -1 to 1.

    Attributes:
        mean (`float`): mean over the seeds.
        low (`float`): lower end of the 95% interval.
        high (`float`): upper end of the 95% interval.
        by_seed (`tuple[float, ...]`): value for each seed, in the order of the plan.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ResultRow:
    """The results of every variant on one set of questions.

    Attributes:
        label (`str`): `all`, or a k such as `k = 2`.
        n (`int`): number of questions.
        pictures (`int`): number of images that the questions are about.
        majority (`float`): accuracy of always giving the most frequent answer of each k, chosen in hindsight.
        accuracy (`dict[str, Estimate]`): variant -> accuracy.
        difference (`dict[str, Estimate]`): variant -> its accuracy minus that of the baseline, for all variants but the
            baseline. `by_seed` compares models of the same seed.
    """

    label: str
    n: int
    pictures: int
    majority: float
    accuracy: dict[str, Estimate]
    difference: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class SeedComparison:
    """The comparison of a variant's model with the baseline's model of the same seed, and of no other models.

    Attributes:
        variant (`str`): name of the variant.
        seed (`int`): seed of both models.
        comparison (`Comparison`): the variant's model against the baseline's.
    """

    variant: str
    seed: int
    comparison: Comparison


def compare_seeds(predictions: PredictionsByVariant, *, baseline: str) -> tuple[SeedComparison, ...]:
    """Compare each variant with the baseline, seed by seed.

    Raises:
        EvaluationError: the models were not asked the same questions.
    """
    return tuple(
        SeedComparison(variant, seed, compare(seed_predictions, predictions[baseline][seed]))
        for variant, predictions_by_seed in predictions.items()
        for seed, seed_predictions in predictions_by_seed.items()
        if variant != baseline
    )


def compare_variants(predictions: PredictionsByVariant, *, baseline: str) -> tuple[ResultRow, ...]:
    """Return one row for all questions and one for each k.

    Raises:
        EvaluationError: the models were not asked the same questions.
    """
    reference = _check_same_questions(predictions)
    # Label of a row -> indices of its questions, which are the same in all models.
    groups = {"all": list(range(len(reference)))}
    for k in sorted({prediction.k for prediction in reference if prediction.k is not None}):
        groups[f"k = {k}"] = [index for index, prediction in enumerate(reference) if prediction.k == k]
    return tuple(_build_row(label, index, predictions, reference, baseline) for label, index in groups.items())


def _check_same_questions(predictions: PredictionsByVariant) -> Sequence[CompactPrediction]:
    """Return the predictions of one model, after checking that all models have the same questions in the same order."""
    models = [
        (f"{variant}, seed {seed}", seed_predictions)
        for variant, predictions_by_seed in predictions.items()
        for seed, seed_predictions in predictions_by_seed.items()
    ]
    (reference_name, reference), *others = models
    for name, seed_predictions in others:
        if [prediction.id for prediction in seed_predictions] != [prediction.id for prediction in reference]:
            raise EvaluationError(
                f"{name} and {reference_name} were asked different questions and cannot be compared; "
                "evaluate both on the same dataset"
            )
    return reference


def _build_row(
    label: str,
    indices: Sequence[int],
    predictions: PredictionsByVariant,
    reference: Sequence[CompactPrediction],
    baseline: str,
) -> ResultRow:
    """Return the row for the questions at `indices`, with bootstrap intervals over images and seeds."""
    import numpy as np

    subset = [reference[index] for index in indices]
    # Sorted, so that the resamples do not depend on the order of the questions.
    images = sorted({item.picture for item in subset})
    index_by_image = {image: index for index, image in enumerate(images)}
    # (questions,): index of the image that each question is about.
    image_indices = np.array([index_by_image[item.picture] for item in subset])
    # (images,): number of questions about each image.
    question_counts = np.bincount(image_indices, minlength=len(images))
    # How often each resample contains each image: (resamples, images). All variants share these weights.
    rng = np.random.default_rng(_SEED)
    weights = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), size=_RESAMPLES)
    accuracies: dict[str, tuple[float, ...]] = {}
    # Variant -> (resamples,)
    resamples: dict[str, Array] = {}
    for variant, predictions_by_seed in predictions.items():
        # Whether each seed's model answered each question correctly: (seeds, questions).
        correct = np.array(
            [[seed_predictions[index].right for index in indices] for seed_predictions in predictions_by_seed.values()],
            dtype=float,
        )
        accuracies[variant] = tuple(float(value) for value in correct.mean(axis=1))
        # (seeds, images): number of right answers about each image.
        by_image = np.stack([np.bincount(image_indices, weights=item, minlength=len(images)) for item in correct])
        by_seed = weights @ by_image.T / (weights @ question_counts)[:, None]  # (resamples, seeds)
        # Second level: each resample averages as many seeds as there are, drawn with replacement.
        seed_indices = rng.integers(len(predictions_by_seed), size=(_RESAMPLES, len(predictions_by_seed)))
        resamples[variant] = np.take_along_axis(by_seed, seed_indices, axis=1).mean(axis=1)
    accuracy = {variant: _estimate(accuracies[variant], resamples[variant]) for variant in predictions}
    difference = {
        variant: _estimate(
            [
                variant_accuracy - baseline_accuracy
                for variant_accuracy, baseline_accuracy in zip(accuracies[variant], accuracies[baseline], strict=True)
            ],
            # Both use the same resample of images, so the difficulty of images cancels out.
            resamples[variant] - resamples[baseline],
        )
        for variant in predictions
        if variant != baseline
    }
    # Only the majority answers are used, which are the same for all models; `ablate` marks by the rule `exact`.
    overall, _ = score_by_k(subset, SHORT_ANSWER_RULES["exact"])
    majority = overall.majority.accuracy
    return ResultRow(label, len(subset), len(images), majority, accuracy, difference)


def _estimate(by_seed: Iterable[float], resamples: Array) -> Estimate:
    import numpy as np

    values = tuple(by_seed)
    low, high = (float(bound) for bound in np.percentile(resamples, _PERCENTILES))
    return Estimate(sum(values) / len(values), low, high, values)


SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Ablation(NotebookSummary):
    """The results of an ablation.

    Attributes:
        plan (`Plan`): the plan that was run.
        dataset (`str`): display name of the dataset that all models were evaluated on.
        base_identity (`str`): hash of the files of the base that all models were tuned from.
        units (`tuple[UnitResult, ...]`): one per variant and seed, in the plan's order.
        lines (`tuple[ResultRow, ...]`): the row for all questions, then one per k.
        pairs (`tuple[SeedComparison, ...]`): the comparison with the baseline, for each other variant and each seed.
        matching_version (`str`, *optional*, defaults to `"1"`): version of the rule `exact`, which marked the answers.
    """

    plan: Plan
    dataset: str
    base_identity: str
    units: tuple[UnitResult, ...]
    lines: tuple[ResultRow, ...]
    pairs: tuple[SeedComparison, ...]
    matching_version: str = FIRST_RULE_VERSION

    def get_units(self, variant: str) -> tuple[UnitResult, ...]:
        """Return the units of a variant, one per seed."""
        return tuple(unit for unit in self.units if unit.variant == variant)

    def summary(self) -> Iterator[str | Table]:
        """Yield a table with the accuracy of each variant by k."""
        yield Table(*accuracy_table(self))

    def to_json(self) -> dict[str, Any]:
        """Return the contents of ablation.json."""
        return {
            "schema": SCHEMA,
            "plan": self.plan.to_dict(),
            "dataset": self.dataset,
            "base_identity": self.base_identity,
            "matching_version": self.matching_version,
            "units": [asdict(unit) for unit in self.units],
            "lines": [asdict(line) for line in self.lines],
            "pairs": [asdict(pair) for pair in self.pairs],
        }


_MIN_P: Final = 0.001  # smaller p-values are shown as "< 0.001"

TableData = tuple[tuple[str, ...], list[tuple[str, ...]]]


def write_tables(ablation: Ablation, out: Path) -> None:
    """Write ablation.json, ablation.md, ablation.html and ablation.png into the directory `out`.

    Raises:
        EvaluationError: a file cannot be written.
    """
    report = build_report(ablation)
    with translate_disk_errors(EvaluationError, out, "run the same command again to resume"):
        write_atomically(out / "ablation.json", json.dumps(ablation.to_json(), indent=1, ensure_ascii=False) + "\n")
        write_atomically(out / "ablation.md", format_markdown(ablation))
        write_atomically(out / "ablation.html", render_ablation(report))
        (out / "ablation.png").write_bytes(plot_accuracy_by_variant(report).png())


def format_markdown(ablation: Ablation) -> str:
    """Return Markdown tables of the training data, the accuracy by k, and the differences from the baseline."""
    other_variants = [name for name in ablation.plan.variants if name != ablation.plan.baseline]
    variant_rows = [
        (arm.variant, arm.questions, arm.images, arm.rows, arm.steps, arm.loss)
        for arm in build_report(ablation).variants
    ]
    parts = [
        format_table(("variant", "training questions", "images", "rows", "steps", "last loss, by seed"), variant_rows),
        format_table(*accuracy_table(ablation)),
    ]
    if other_variants:
        difference_rows = [
            (
                row.label,
                *(_format_points(estimate.mean, estimate.low, estimate.high) for estimate in row.difference.values()),
            )
            for row in ablation.lines
        ]
        parts.append(
            format_table(
                ("points", *(f"{name} minus {ablation.plan.baseline}" for name in other_variants)), difference_rows
            )
        )
        seed_rows = [
            (
                f"{pair.variant} minus {ablation.plan.baseline}",
                str(pair.seed),
                _format_points(pair.comparison.difference, pair.comparison.low, pair.comparison.high),
                f"{pair.comparison.p:.3f}" if pair.comparison.p >= _MIN_P else f"< {_MIN_P}",
            )
            for pair in ablation.pairs
        ]
        parts.append(format_table(("on all questions", "seed", "points", "p (McNemar)"), seed_rows))
    return "\n".join(parts)


def accuracy_table(ablation: Ablation) -> TableData:
    """Return header and rows of a table: for each set of questions, each variant's mean accuracy and 95% interval."""
    rows = [
        (
            row.label,
            f"{row.n:,}",
            f"{row.majority:.3f}",
            *(_format_accuracy(estimate) for estimate in row.accuracy.values()),
        )
        for row in ablation.lines
    ]
    return ("questions", "n", "most frequent answer", *ablation.plan.variants), rows


def build_report(ablation: Ablation) -> AblationReport:
    """Return the contents of the page and the figure."""
    variants = []
    for name in ablation.plan.variants:
        units = ablation.get_units(name)
        losses = " / ".join("" if unit.loss is None else f"{unit.loss:.2f}" for unit in units)
        # Ranges over the seeds: each seed selects other images, which need not have as many questions.
        images, rows, steps = (
            _format_range(counts)
            for counts in zip(*((unit.data.pictures, unit.rows, unit.steps) for unit in units), strict=True)
        )
        variants.append(VariantData(name, _format_question_counts(units), images, rows, steps, losses))
    variant_rows = tuple(
        GroupScores(
            row.label,
            row.n,
            row.majority,
            {name: _to_spread(estimate) for name, estimate in row.accuracy.items()},
            {name: _to_spread(estimate) for name, estimate in row.difference.items()},
        )
        for row in ablation.lines
    )
    return AblationReport(
        dataset=ablation.dataset,
        base=ablation.plan.base,
        recipe=ablation.plan.recipe,
        matching_version=ablation.matching_version,
        # The first line is about all questions.
        images=ablation.lines[0].pictures,
        seeds=ablation.plan.seeds,
        baseline=ablation.plan.baseline,
        variants=tuple(variants),
        groups=variant_rows,
    )


def _to_spread(estimate: Estimate) -> Spread:
    return Spread(estimate.mean, estimate.low, estimate.high, estimate.by_seed)


def _format_question_counts(units: Sequence[UnitResult]) -> str:
    """Return the number of questions, in all and by k, as text; a range if it differs between seeds."""
    ks = sorted({k for unit in units for k in unit.data.questions})
    by_k = ", ".join(f"{_format_range(unit.data.questions.get(k, 0) for unit in units)} of k = {k}" for k in ks)
    return f"{_format_range(sum(unit.data.questions.values()) for unit in units)} ({by_k})"


def _format_range(counts: Iterable[int]) -> str:
    """Return a number as text, or a range such as `1,000 to 1,010` if it differs between seeds."""
    ordered = sorted(counts)
    lowest, highest = ordered[0], ordered[-1]
    return f"{lowest:,}" if lowest == highest else f"{lowest:,} to {highest:,}"


def _format_accuracy(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _format_points(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
