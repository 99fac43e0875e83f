"""Defines the task `compact`: accuracy by the number of capabilities a question needs (k), and by capability.

scenes:N                             N scenes that are never used for training data
org/name, org/name@v1.0.0            a dataset on the Hub, at a revision or the current one
a directory; a .parquet, .jsonl, .json or .csv file
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from compact_hf.capabilities import CAPABILITIES
from compact_hf.evaluation.questions import DataOptions, Prediction, QuestionSet
from compact_hf.evaluation.scoring import build_score_row
from compact_hf.evaluation.task import EvaluationTask
from compact_hf.evaluation.tasks.compact.reader import read_dataset
from compact_hf.evaluation.tasks.compact.records import CompactPrediction, CompactQuestion
from compact_hf.evaluation.tasks.compact.scenes import SCENES_PREFIX, read_scenes
from compact_hf.evaluation.tasks.compact.scoring import CompactResults, get_stratum, iter_parts, score_by_k
from compact_hf.reports.answered_questions import Tag
from compact_hf.reports.evaluation_page import Section
from compact_hf.reports.figure import Plot
from compact_hf.reports.pair_charts import MIN_N, PAIRS, plot_accuracy_by_pair
from compact_hf.reports.score_charts import Interval, plot_accuracy_in_handfuls
from compact_hf.reports.theme import get_label, group_of, k_tone

_K_TEXT = (
    "k is the number of capabilities, of ten, that a question needs at once. A point is a model's share of right "
    "answers, and the line through it the 95% interval. The bar behind it is the share that the most frequent answer "
    "of each k gets right."
)
_CAPABILITY_TEXT = (
    "A question that needs several capabilities counts under each of them, so the lines overlap in their questions."
)
_PAIR_TEXT = (
    "Each cell shows the questions that need both capabilities. A stronger color means a higher accuracy; all "
    f"triangles have the same scale. Cells with fewer than {MIN_N} questions show the accuracy as a number, without "
    "color."
)


class Compact(EvaluationTask):
    """Scores short answers to questions whose capabilities are known."""

    prediction_type: ClassVar[type[Prediction]] = CompactPrediction
    lead: ClassVar[str] = (
        "the share of right answers, by the number of capabilities a question needs (k) and by capability"
    )
    stratum_name: ClassVar[str] = "k"

    def read(self, dataset: str, options: DataOptions) -> QuestionSet:
        """Return the questions of reserved scenes, of one of our datasets, or of any with one question per row."""
        if dataset.startswith(SCENES_PREFIX):
            # Scenes are drawn together with their questions: there is nothing to choose by config, split or columns.
            options.refuse(dataset)
            return read_scenes(dataset)
        return read_dataset(dataset, options)

    def score(
        self, predictions: Sequence[CompactPrediction], *, model: str, dataset: str, matching: str
    ) -> CompactResults:
        """Return the scores of `predictions`, which may be in any order."""
        overall, parts = score_by_k(predictions, self.rules[matching])
        return CompactResults(
            task=self.name,
            task_version=self.version,
            model=model,
            dataset=dataset,
            matching=matching,
            matching_version=self.get_rule_version(matching),
            overall=overall,
            parts=parts,
        )

    def iter_parts(self, prediction: CompactPrediction) -> Iterator[tuple[str, str]]:
        """Yield the prediction's k, its capabilities and its pairs of capabilities."""
        return iter_parts(prediction)

    def get_stratum(self, prediction: CompactPrediction) -> tuple[bool, int]:
        """Return the prediction's k."""
        return get_stratum(prediction)

    def count_parts(self, questions: Iterable[CompactQuestion | CompactPrediction]) -> dict[str, dict[str, int]]:
        """Return the number of questions for each k."""
        counts = Counter(question.k for question in questions if question.k is not None)
        return {"k": {str(k): counts[k] for k in sorted(counts)}}

    def get_label(self, grouping: str, part: str) -> str:
        """Return `k = 2`, or the display name of a capability."""
        return f"k = {part}" if grouping == "k" else get_label(part)

    def iter_sections(self, results: Sequence[CompactResults]) -> Iterator[Section]:
        """Yield accuracy by k, by capability and by pair, as far as the dataset has this information."""
        first, models = results[0], [item.model for item in results]
        if first.by_k:
            # All models answered the same questions, so the ks, capabilities and pairs of the first are those of all.
            rows = [build_score_row("all", *(item.overall for item in results))]
            rows += [build_score_row(f"k = {k}", *(item.by_k[k] for item in results)) for k in first.by_k]
            plots = plot_accuracy_in_handfuls(rows, models, name="accuracy-by-k", title="Accuracy by k")
            yield Section("by-k", "By k", "By k", _K_TEXT, tuple(plots))
        if first.by_capability:
            rows = [
                build_score_row(name, *(item.by_capability[name] for item in results)) for name in first.by_capability
            ]
            title = "Accuracy by capability"
            plots = plot_accuracy_in_handfuls(rows, models, name="accuracy-by-capability", title=title)
            yield Section("by-capability", "By capability", "By capability", _CAPABILITY_TEXT, tuple(plots))
        if first.by_pair:
            # One plot per model, because a cell shows a single accuracy.
            pair_plots = tuple(
                _plot_pairs(item, f"accuracy-by-pair-{number}") for number, item in enumerate(results, 1)
            )
            heading = "By pair of capabilities"
            yield Section("by-pair", "By pair", heading, _PAIR_TEXT, pair_plots, is_grid=True)

    def iter_tags(self, prediction: CompactPrediction) -> Iterator[Tag]:
        """Yield the prediction's k, and its capabilities with their groups."""
        if prediction.k is not None:
            yield Tag(f"k = {prediction.k}", tone=k_tone(prediction.k))
        for name in prediction.capabilities:
            yield Tag(get_label(name), title=CAPABILITIES[name].definition, group=group_of(name))


def _plot_pairs(results: CompactResults, name: str) -> Plot:
    scores = {
        pair: (score.n, Interval(score.accuracy, score.low, score.high))
        for pair in PAIRS
        if (score := results.by_pair.get("+".join(pair))) is not None
    }
    return plot_accuracy_by_pair(scores, model=results.model, name=name)
