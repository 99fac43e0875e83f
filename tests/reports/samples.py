"""Makes images, turns and scores, and texts that would be markup if they were not escaped."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from functools import cache

from PIL import Image

from compact_hf.capabilities import CAPABILITIES
from compact_hf.records import Turn
from compact_hf.reports.answered_questions import AnsweredQuestion, ModelAnswer, Tag
from compact_hf.reports.contact_sheet import QuestionItem
from compact_hf.reports.evaluation_page import EvaluationReport, Section
from compact_hf.reports.figure import Plot
from compact_hf.reports.page_parts import Example, Fact
from compact_hf.reports.score_charts import Interval, ModelDifference, ScoreRow, plot_accuracy_in_handfuls
from compact_hf.reports.table import Table

LONG = "a_name_without_spaces/" * 8
HOSTILE = "<script>alert('1')</script> & \"quotes\""


@cache
def make_image(seed: int, size: tuple[int, int] = (336, 336)) -> bytes:
    """Return a PNG file of noise, which has the largest size in bytes for its pixels."""
    buffer = io.BytesIO()
    noise = random.Random(seed).randbytes(3 * size[0] * size[1])
    Image.frombytes("RGB", size, noise).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def make_sheet_item(seed: int, k: int, *, question: str = "What is the word on the sign?") -> QuestionItem:
    """Return an image with two turns of k capabilities."""
    names = tuple(CAPABILITIES)[:k]
    return QuestionItem(make_image(seed % 24), k, (Turn(question, "OPEN", names, names, 95),) * 2, f"scene:{seed}")


def make_score(label: str, n: int = 50, models: int = 2) -> ScoreRow:
    """Return made-up shares of several models, each better than the one before."""
    shares = (0.1 + 0.5 * index / max(models - 1, 1) for index in range(models))
    return ScoreRow(label, n, 0.3, tuple(Interval(share, share / 2, share + 0.1) for share in shares))


def make_plots(name: str, models: int) -> Iterator[Plot]:
    """Yield made-up plots of accuracy, each with at most `MAX_MODELS` models."""
    names = [f"org/a-model-with-a-long-name-v{index + 1}" for index in range(models)]
    return plot_accuracy_in_handfuls([make_score("k = 1", 60, models)], names, name=name, title="Accuracy")


def make_answered_question(
    number: int, models: Sequence[str], rights: Sequence[bool], *, text: str = HOSTILE
) -> AnsweredQuestion:
    """Return a question with `text` in all its texts, which each model answers correctly or not."""
    return AnsweredQuestion(
        make_image(number),
        (Tag(f"k = {1 + number}", tone=f"k{1 + number % 3}"), Tag(text, title=text, group="relation")),
        f"Is it {text}?",
        text,
        tuple(ModelAnswer(name, text, is_right) for name, is_right in zip(models, rights, strict=True)),
        f"scene:{number}",
    )


def make_evaluation(models: int, *, text: str = HOSTILE) -> EvaluationReport:
    """Return a report of several models with every section and with `text` in all its texts."""
    names = tuple(f"org/a-model-with-a-long-name-v{index + 1}" for index in range(models))
    answers = [(True,) * models, (False,) * models, (True,) + (False,) * (models - 1)]
    return EvaluationReport(
        dataset=f"questions {text}",
        questions=300,
        lead=f"the share of {text}",
        facts=(Fact("questions", "300"), Fact("images", "60", text)),
        models=names,
        headline=tuple(Fact(name, "10.0%", f"95% interval; {text}") for name in names),
        sections=(
            Section("by-k", "By k", f"By {text}", text, tuple(make_plots("accuracy-by-k", models))),
            Section("by-pair", "By pair", "By pair", "", tuple(make_plots("by-pair", models)), is_grid=True),
        ),
        published=Table(("model", "source"), [(text, text)]),
        comparisons=tuple(
            ModelDifference(names[0], name, 300, Interval(0.1 * index, 0.05, 0.9), 0.01)
            for index, name in enumerate(names)
        )[1:],
        examples=[make_answered_question(number, names, rights, text=text) for number, rights in enumerate(answers)],
        selection_rule="The first three.",
        matching="Exact.",
        notes=(f"Nothing about {text}.",),
        settings=(("compact_hf", text),),
        command=Example("Again:", "compact evaluate MODEL scenes:60 --out DIR"),
    )
