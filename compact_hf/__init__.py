"""Makes compositional visual instruction data from your own images, tunes models on it, and evaluates them by k.

    from compact_hf import assemble, generate
    generate("photos", "run")                          # needs GEMINI_API_KEY
    assemble(["run"], "release", version="1.0.0")

Each function does the same as the command of that name, or reads or compares the files that a command wrote. The
classes are return types; a notebook shows their tables. The fields of `RunOptions` are keyword arguments of the
functions that ask a teacher. Modules are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

# For type checkers and editors only. At run time nothing is imported here, so that `import compact_hf` is fast.
if TYPE_CHECKING:
    from compact_hf.dataset.assemble import assemble
    from compact_hf.dataset.diff import Difference, diff
    from compact_hf.dataset.export import export
    from compact_hf.dataset.publish import PublishedDataset, publish
    from compact_hf.dataset.show import Sheet, show
    from compact_hf.dataset.stats import DatasetStats
    from compact_hf.dataset.validate import ValidationReport, validate
    from compact_hf.demo.run import DemoOutput, run_demo
    from compact_hf.errors import CompactError
    from compact_hf.evaluation.ablation.results import Ablation
    from compact_hf.evaluation.ablation.run import ablate
    from compact_hf.evaluation.analysis.analyze import AnalysisResult, analyze
    from compact_hf.evaluation.benchmarks.lmms_eval import BenchmarkCommands, benchmark_command, benchmark_tasks
    from compact_hf.evaluation.benchmarks.paper_scores import relative_performance
    from compact_hf.evaluation.benchmarks.table import BenchmarkTable, benchmark_table
    from compact_hf.evaluation.evaluate import evaluate
    from compact_hf.evaluation.predict import read_predictions
    from compact_hf.evaluation.questions import Prediction
    from compact_hf.evaluation.results_directory import Evaluation
    from compact_hf.evaluation.significance import Comparison, compare
    from compact_hf.methods.annotate.annotate import AnnotationSummary, annotate
    from compact_hf.methods.augment.augment import augment
    from compact_hf.methods.compact.selection import Selection
    from compact_hf.methods.generate import generate
    from compact_hf.methods.status import RunStatus, status
    from compact_hf.models.llava.assemble import AssemblyResult, assemble_base
    from compact_hf.models.llava.shipped import copy_student
    from compact_hf.runs.options import RunOptions
    from compact_hf.runs.run import RunProgress
    from compact_hf.training.merge_adapter import merge_adapter
    from compact_hf.training.publish import PublishedModel, publish_model
    from compact_hf.training.recipes import RecipeCopy, copy_recipe
    from compact_hf.training.train import TrainingResult, tune

    # Only declared: `__getattr__` reads the version from the metadata of the installed package.
    __version__: str

# Sorted (checked by a test); docs/reference/api.md lists exactly these names.
__all__ = [
    "Ablation",
    "AnalysisResult",
    "AnnotationSummary",
    "AssemblyResult",
    "BenchmarkCommands",
    "BenchmarkTable",
    "CompactError",
    "Comparison",
    "DatasetStats",
    "DemoOutput",
    "Difference",
    "Evaluation",
    "Prediction",
    "PublishedDataset",
    "PublishedModel",
    "RecipeCopy",
    "RunOptions",
    "RunProgress",
    "RunStatus",
    "Selection",
    "Sheet",
    "TrainingResult",
    "ValidationReport",
    "ablate",
    "analyze",
    "annotate",
    "assemble",
    "assemble_base",
    "augment",
    "benchmark_command",
    "benchmark_table",
    "benchmark_tasks",
    "compare",
    "copy_recipe",
    "copy_student",
    "diff",
    "evaluate",
    "export",
    "generate",
    "merge_adapter",
    "publish",
    "publish_model",
    "read_predictions",
    "relative_performance",
    "run_demo",
    "show",
    "status",
    "tune",
    "validate",
]

# Public name -> the module that defines it; imported by `__getattr__` on first use.
# Every name in `__all__` has an entry.
_HOME: Final = {
    "Ablation": "compact_hf.evaluation.ablation.results",
    "AnalysisResult": "compact_hf.evaluation.analysis.analyze",
    "AnnotationSummary": "compact_hf.methods.annotate.annotate",
    "AssemblyResult": "compact_hf.models.llava.assemble",
    "BenchmarkCommands": "compact_hf.evaluation.benchmarks.lmms_eval",
    "BenchmarkTable": "compact_hf.evaluation.benchmarks.table",
    "CompactError": "compact_hf.errors",
    "Comparison": "compact_hf.evaluation.significance",
    "DatasetStats": "compact_hf.dataset.stats",
    "DemoOutput": "compact_hf.demo.run",
    "Difference": "compact_hf.dataset.diff",
    "Evaluation": "compact_hf.evaluation.results_directory",
    "Prediction": "compact_hf.evaluation.questions",
    "PublishedDataset": "compact_hf.dataset.publish",
    "PublishedModel": "compact_hf.training.publish",
    "RecipeCopy": "compact_hf.training.recipes",
    "RunOptions": "compact_hf.runs.options",
    "RunProgress": "compact_hf.runs.run",
    "RunStatus": "compact_hf.methods.status",
    "Selection": "compact_hf.methods.compact.selection",
    "Sheet": "compact_hf.dataset.show",
    "TrainingResult": "compact_hf.training.train",
    "ValidationReport": "compact_hf.dataset.validate",
    # No submodule of this package may have the name of a function: importing it would replace the function.
    "ablate": "compact_hf.evaluation.ablation.run",
    "analyze": "compact_hf.evaluation.analysis.analyze",
    "annotate": "compact_hf.methods.annotate.annotate",
    "assemble": "compact_hf.dataset.assemble",
    "assemble_base": "compact_hf.models.llava.assemble",
    "augment": "compact_hf.methods.augment.augment",
    "benchmark_command": "compact_hf.evaluation.benchmarks.lmms_eval",
    "benchmark_table": "compact_hf.evaluation.benchmarks.table",
    "benchmark_tasks": "compact_hf.evaluation.benchmarks.lmms_eval",
    "compare": "compact_hf.evaluation.significance",
    "copy_recipe": "compact_hf.training.recipes",
    "copy_student": "compact_hf.models.llava.shipped",
    "diff": "compact_hf.dataset.diff",
    "evaluate": "compact_hf.evaluation.evaluate",
    "export": "compact_hf.dataset.export",
    "generate": "compact_hf.methods.generate",
    "merge_adapter": "compact_hf.training.merge_adapter",
    "publish": "compact_hf.dataset.publish",
    "publish_model": "compact_hf.training.publish",
    "read_predictions": "compact_hf.evaluation.predict",
    "relative_performance": "compact_hf.evaluation.benchmarks.paper_scores",
    "run_demo": "compact_hf.demo.run",
    "show": "compact_hf.dataset.show",
    "status": "compact_hf.methods.status",
    "tune": "compact_hf.training.train",
    "validate": "compact_hf.dataset.validate",
}


# Type checkers read the imports above. If they knew of this function, every misspelled name would be an `Any` to them.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            # Imported on request: importlib.metadata takes 30 ms.
            from importlib.metadata import version

            return version(__name__)
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    # For `dir()` and completion in notebooks, which otherwise show only names that were imported already.
    return sorted([*globals(), *__all__])
