"""Tests the lmms-eval commands, the task of our held-out questions, and the table of lmms-eval's results files.

lmms_eval_results.json is from a real run (lmms-eval 0.7.3, all eight tasks and ours, as test_benchmarks_harness.py
makes it), reduced to the fields that every results file has.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from compact_hf.answers import ANSWER_RULES_VERSION
from compact_hf.cli.main import main
from compact_hf.errors import CompactError, EvaluationError, UsageError
from compact_hf.evaluation.benchmarks.lmms_eval import (
    HARNESS_BENCHMARKS,
    HELDOUT_TASK,
    INSTALL_COMMAND,
    benchmark_command,
    benchmark_tasks,
)
from compact_hf.evaluation.benchmarks.paper_scores import BENCHMARKS, REFERENCE, TABLE, relative_performance
from compact_hf.evaluation.benchmarks.table import benchmark_table
from compact_hf.models.llava.shipped import CHECKPOINTS_DIRECTORY
from tests.doubles.hub.server import HubServer
from tests.hub.clients import run_source
from tests.training.samples import write_release

REAL_RESULTS: Final = json.loads((Path(__file__).parent / "lmms_eval_results.json").read_text(encoding="utf-8"))
BY_NAME: Final = {one.name: one for one in HARNESS_BENCHMARKS}
COMPACT_ROW: Final = TABLE[-1]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a copy of the real results file with another model and only the given scores.

    Scores are in the paper's units.
    """

    def write(
        scores: dict[str, float] = COMPACT_ROW.scores,
        *,
        model: str = "out/mine",
        date: str = "20261122_100000",
        **extra: Any,
    ) -> Path:
        tasks = {BY_NAME[name].task for name in scores} | {HELDOUT_TASK}
        results = {task: dict(metrics) for task, metrics in REAL_RESULTS["results"].items() if task in tasks}
        for name, score in scores.items():
            benchmark = BY_NAME[name]
            assert f"{benchmark.metric},none" in results[benchmark.task]
            results[benchmark.task][f"{benchmark.metric},none"] = score / benchmark.scale
        path = tmp_path / "results" / model.replace("/", "__") / f"{date}_results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        changed = {"results": results, "model_name": model, "date": date, "versions": {HELDOUT_TASK: 2}}
        path.write_text(json.dumps(REAL_RESULTS | changed | extra))
        return path

    return write


def read_own_row(path: Path, **options: Any) -> Any:
    [row] = [row for row in benchmark_table([path], **options).rows if row.own]
    return row


def test_a_real_results_file_has_every_benchmark_and_the_held_out_questions() -> None:
    row = read_own_row(Path(__file__).parent / "lmms_eval_results.json")
    assert tuple(row.scores) == BENCHMARKS
    assert row.heldout is not None
    assert set(row.heldout.by_k) == {1, 2, 3}
    assert (row.scores["InfoVQA"], row.scores["MM-Vet"]) == (pytest.approx(50), pytest.approx(50))
    assert row.heldout.accuracy == pytest.approx(sum(row.heldout.by_k.values()) / 3)  # six questions per k


def test_scores_in_the_papers_units_give_the_papers_relative_performance(write: Write) -> None:
    table = benchmark_table([write()])
    row = table.rows[-1]
    assert row.scores == {name: pytest.approx(score) for name, score in COMPACT_ROW.scores.items()}
    assert row.relative == pytest.approx(COMPACT_ROW.relative)
    assert (table.shared_benchmarks, table.reference, table.notes) == (BENCHMARKS, "LLaVA-665K", ())
    head, *lines = table.cells()
    assert head == ["training data", *BENCHMARKS, "rel. %"]
    assert {line[0]: line[-1] for line in lines} == {
        "LLaVA-665K": "100.0",
        "random": "95.4",
        "EL2N": "96.1 (printed: 97.1)",
        "D2-Pruning": "96.1 (printed: 97.1)",
        "ICONS": "97.5",
        "COMPACT": "100.2",
        "mine": "100.2",
    }
    assert lines[-1][1:] == lines[-2][1:]


def test_where_a_benchmark_is_missing_every_row_is_over_those_that_are_there(write: Write) -> None:
    fewer = {name: score for name, score in COMPACT_ROW.scores.items() if not BY_NAME[name].needs_judge}
    table = benchmark_table([write(fewer)])
    assert table.shared_benchmarks == tuple(fewer)
    reference = {name: REFERENCE.scores[name] for name in fewer}
    icons, compact, mine = table.rows[-3:]
    assert mine.relative == compact.relative == pytest.approx(relative_performance(fewer, reference))
    assert icons.relative == pytest.approx(
        relative_performance({name: TABLE[4].scores[name] for name in fewer}, reference)
    )
    assert icons.printed is None
    assert [line.count("-") for line in table.cells()[1:]] == [0] * 6 + [2]
    assert table.notes == (
        "mine has no score on MM-Vet, LLaVA-in-the-Wild",
        "relative performance is over the 6 of 8 benchmarks that every row has",
    )


def test_runs_of_one_model_are_one_row_and_the_last_run_of_a_task_counts(write: Write, tmp_path: Path) -> None:
    write({name: 1.0 for name in BENCHMARKS if not BY_NAME[name].needs_judge}, date="20261122_090000")
    write({name: 2.0 for name in BENCHMARKS if BY_NAME[name].needs_judge}, date="20261122_095000")
    write({"MME": 1400.0}, date="20261122_100000")
    table = benchmark_table(tmp_path / "results")
    assert {name: table.rows[-1].scores[name] for name in ("MME", "TextVQA", "MM-Vet")} == {
        "MME": 1400.0,
        "TextVQA": pytest.approx(1.0),
        "MM-Vet": 2.0,
    }
    assert "out/mine: mme was run more than once; the last run counts" in table.notes


def test_models_are_rows_and_ones_own_reference_counts_as_100_in_ones_own_rows(write: Write) -> None:
    half = {name: score / 2 for name, score in COMPACT_ROW.scores.items()}
    student_file, reference_file = write(model="a/student"), write(half, model="b/student")
    table = benchmark_table([student_file], reference=reference_file)
    rows = {row.name: row for row in table.rows}
    assert table.reference == "b/student"
    assert rows["b/student"].relative == pytest.approx(100)
    assert rows["a/student"].relative == pytest.approx(200)
    assert rows["COMPACT"].relative == pytest.approx(COMPACT_ROW.relative)


def rename_metrics(results: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """Return the results with other names of metrics."""
    return {
        task: {name if name == "alias" else rename(name): value for name, value in metrics.items()}
        for task, metrics in results.items()
    }


@pytest.mark.parametrize(
    ("rename", "counts"),
    [
        (lambda name: name, lambda count: count["effective"]),
        (lambda name: name.removesuffix(",none"), lambda count: {"original": count["original"]}),
        (lambda name: name, lambda count: count | {"original": str(count["original"])}),
        (lambda name: name.replace(",none", ",strict-match"), lambda count: count),
    ],
    ids=["counts as integers", "no filters", "a count as text", "another filter"],
)
def test_other_spellings_of_lmms_eval_give_the_same_scores(
    rename: Callable[[str], str], counts: Callable[[Any], Any], write: Write
) -> None:
    file = write()
    row = read_own_row(file)
    data = json.loads(file.read_text(encoding="utf-8"))
    data["results"] = {**rename_metrics(data["results"], rename), "a group": " "}
    data["n-samples"] = {task: counts(count) for task, count in data["n-samples"].items()}
    # PowerShell and some editors write a byte order mark.
    file.write_text(json.dumps(data), encoding="utf-8-sig")
    assert read_own_row(file) == row
    assert row.heldout.n == 18


def test_the_unfiltered_score_counts_and_several_filters_are_refused(write: Write) -> None:
    file = write()
    row = read_own_row(file)
    data = json.loads(file.read_text(encoding="utf-8"))
    data["results"]["textvqa_val"]["exact_match,flexible"] = 0.9
    file.write_text(json.dumps(data), encoding="utf-8")
    assert read_own_row(file) == row
    data["results"]["textvqa_val"]["exact_match,strict"] = data["results"]["textvqa_val"].pop("exact_match,none")
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"exact_match of textvqa_val after several filters \(flexible, strict\)"):
        read_own_row(file)


def test_a_k_without_a_number_is_left_out_and_an_older_rule_is_noted(write: Write) -> None:
    file = write()
    data = json.loads(file.read_text(encoding="utf-8"))
    del data["versions"]
    data["results"][HELDOUT_TASK] |= {"accuracy_k1,none": float("nan"), "accuracy_k2,none": "N/A"}
    del data["n-samples"][HELDOUT_TASK]
    file.write_text(json.dumps(data), encoding="utf-8")
    table = benchmark_table([file])
    assert table.rows[-1].heldout is not None
    assert (set(table.rows[-1].heldout.by_k), table.rows[-1].heldout.n) == ({3}, None)
    assert "compared by version 1 of the rules, not by version 2" in " ".join(table.notes)
    assert table.heldout_cells()[1] == ["mine", "-", "0.056", "0.000"]


@pytest.mark.parametrize(
    ("versions", "rules"),
    [
        ({HELDOUT_TASK: 2}, None),
        ({HELDOUT_TASK: 2.0}, None),
        ({HELDOUT_TASK: "Yaml"}, "an unknown version"),
        ({HELDOUT_TASK: None}, "an unknown version"),
        (["x"], "version 1"),
    ],
)
def test_only_a_whole_number_is_a_version_of_the_rules(versions: Any, rules: str | None, write: Write) -> None:
    counts = REAL_RESULTS["n-samples"] | {HELDOUT_TASK: {"original": 10, "effective": None}}
    file = write(versions=versions, **{"n-samples": counts})
    assert read_own_row(file).heldout.n is None
    notes = [note for note in benchmark_table([file]).notes if "of the rules" in note]
    assert [f"compared by {rules} of the rules" in note for note in notes] == ([True] if rules else [])


def test_what_lmms_eval_writes_without_its_judge_is_no_score(write: Write) -> None:
    silent = COMPACT_ROW.scores | {"MM-Vet": 0.0}
    results = json.loads(write(silent).read_text())["results"]
    results["llava_in_the_wild"] |= {
        f"gpt_eval_llava_{part},none": 100.0 for part in ("all", "conv", "detail", "complex")
    }
    table = benchmark_table([write(silent, results=results)])
    assert set(BENCHMARKS) - table.rows[-1].scores.keys() == {"MM-Vet", "LLaVA-in-the-Wild"}
    assert [note for note in table.notes if "the judge of" in note] == [
        f"out/mine: the judge of {name} did not answer (20261122_100000_results.json); score omitted"
        for name in ("MM-Vet", "LLaVA-in-the-Wild")
    ]


def test_answers_that_the_judge_did_not_grade_are_counted(write: Write) -> None:
    file = write()
    graded = {
        "mmvet": [{"gpt_eval_score": {"score": 0.5, "eval_model": model}} for model in ("judge", "")],
        "llava_in_the_wild": [{"gpt_eval_llava_all": {"scores": scores}} for scores in ([8, 6], [-1, -1], [-1, -1])],
    }
    for task, samples in graded.items():
        # A line separator within a string does not end a line.
        lines = "".join(f"{json.dumps(sample | {'doc': chr(0x2028)}, ensure_ascii=False)}\n" for sample in samples)
        samples_file = file.with_name(file.name.replace("_results.json", f"_samples_{task}.jsonl"))
        samples_file.write_text(lines, encoding="utf-8-sig")
    assert benchmark_table([file]).notes == (
        "out/mine: the judge of MM-Vet did not grade 1 answers, which lmms-eval still counts",
        "out/mine: the judge of LLaVA-in-the-Wild did not grade 2 answers, which lmms-eval still counts",
    )
    samples_file.write_text("null\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="does not contain samples of llava_in_the_wild"):
        benchmark_table([file])


def _real_results_without(name: str) -> dict[str, Any]:
    return {key: value for key, value in REAL_RESULTS.items() if key != name}


OLD_MME_RESULTS: Final = {
    "results": {"mme": {"alias": "mme", "mme_percetion_score,none": 1300.0}}
}  # lmms-eval 0.2 wrote the metric with this misspelling
BAD_FILES: Final = {
    "not JSON": ("{", "is not JSON"),
    "a list": ("[]", "is not a results file of lmms-eval ('results' is missing)"),
    "ours": ('{"schema": 2, "results": {}}', "is not a results file of lmms-eval ('config' is missing)"),
    "no model": (json.dumps(_real_results_without("model_name")), "'model_name' is missing"),
    "an older version": (
        json.dumps(REAL_RESULTS | {"config": {key: 1 for key in REAL_RESULTS["config"] if key != "model_backend"}}),
        "is from another version of lmms-eval",
    ),
    "no text for the model class": (
        json.dumps(REAL_RESULTS | {"config": REAL_RESULTS["config"] | {"model_backend": ["x"]}}),
        "is from another version of lmms-eval",
    ),
    "an older metric": (
        json.dumps(REAL_RESULTS | OLD_MME_RESULTS),
        "its mme has mme_percetion_score, not mme_perception_score",
    ),
    "no number": (
        json.dumps(REAL_RESULTS | {"results": {"mme": {"mme_perception_score,none": "N/A"}}}),
        "has no score for MME",
    ),
    "a part by its count": (
        json.dumps(REAL_RESULTS | {"n-samples": {"mme": {"original": 2374, "effective": 8}}}),
        "covers only part of the questions",
    ),
    "a part": (
        json.dumps(REAL_RESULTS | {"config": REAL_RESULTS["config"] | {"limit": 8.0}}),
        "covers only part of the questions",
    ),
    "other tasks": (
        json.dumps(REAL_RESULTS | {"results": {"gqa": {"exact_match,none": 0.6}}}),
        "none of the eight benchmarks",
    ),
}


@pytest.mark.parametrize(("text", "said"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_another_file_is_one_clear_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x_results.json"
    file.write_text(text)
    assert main(["benchmarks", "table", str(file)]) == 1
    line = capsys.readouterr().err
    assert said in line
    assert line.startswith(f"compact: {file}")
    assert line.count("\n") == 1


def test_folders_and_files_that_cannot_be_one_row_are_one_clear_line(write: Write, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"has no results of lmms-eval \(\*_results.json\)"):
        benchmark_table([tmp_path])
    with pytest.raises(UsageError, match="was not found"):
        benchmark_table([tmp_path / "none.json"])
    write(model="a")
    own_file = write(model="b")
    with pytest.raises(EvaluationError, match=r"has results of 2 models \(a, b\)"):
        benchmark_table([own_file], reference=tmp_path / "results")
    config = REAL_RESULTS["config"] | {"model_backend": "lmms_eval.models.chat.vllm.VLLM (chat)"}
    write({"MME": 1.0}, model="b", date="20261122_110000", config=config)
    with pytest.raises(EvaluationError, match=r"b was run by .*LlavaHf.* and by .*VLLM"):
        benchmark_table(tmp_path / "results")


def test_the_table_can_be_pasted_and_read_by_a_machine(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write())
    assert main(["benchmarks", "table", path, "--markdown"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[1] == "| --- |" + " ---: |" * 9
    assert lines[8].startswith("| mine | 23.68 | 43.13 | 1379.94 |")
    assert main(["benchmarks", "table", path, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"][-1]["relative"] == pytest.approx(COMPACT_ROW.relative)
    assert set(result["rows"][-1]["heldout"]["by_k"]) == {"1", "2", "3"}
    assert main(["benchmarks", "table", path, "--json", "--markdown"]) == 2


def test_an_adapter_is_merged_and_a_whole_model_is_not(tmp_path: Path) -> None:
    adapter = benchmark_command(CHECKPOINTS_DIRECTORY / "tuned", "out", heldout="org/compact@v1", device="cpu")
    assert shlex.join(adapter.merge) == f"compact adapter merge {CHECKPOINTS_DIRECTORY / 'tuned'} --out out/tuned"
    assert shlex.join(adapter.heldout) == "compact benchmarks tasks org/compact@v1 --out out/tasks"
    options = dict(zip(adapter.evaluate[1::2], adapter.evaluate[2::2], strict=False))
    assert options["--model_args"] == "pretrained=out/tuned,device=cpu,device_map=cpu"
    assert options["--tasks"] == ",".join([*(benchmark.task for benchmark in HARNESS_BENCHMARKS), HELDOUT_TASK])
    whole = benchmark_command(CHECKPOINTS_DIRECTORY / "aligned", with_judge=False, gpus=8)
    assert (whole.merge, whole.heldout) == ((), ())
    line = whole.lines()[1]
    assert line.startswith("accelerate launch --num_processes 8 -m lmms_eval --model llava_hf --model_args pretrained=")
    assert "device" not in line
    assert "mmvet" not in line
    assert whole.lines()[0] == shlex.join(INSTALL_COMMAND)


def test_repositories_are_asked_what_they_are(tmp_path: Path) -> None:
    source = """
from huggingface_hub import HfApi
from compact_hf.errors import CompactError
from compact_hf.evaluation.benchmarks.lmms_eval import benchmark_command
def add(name, **files):
    HfApi().create_repo(name)
    for file, text in files.items():
        HfApi().upload_file(path_or_fileobj=text, path_in_repo=f"{file}.json", repo_id=name)
add("org/lora", adapter_config=b"{}")
add("org/qwen", config=b'{"model_type": "qwen2_vl"}')
told = [benchmark_command("org/lora").merge]
for name in ("org/qwen", "org/none"):
    try:
        benchmark_command(name)
    except CompactError as error:
        told.append(str(error))
"""
    with HubServer() as server:
        merge, qwen, none = run_source(server, source, home=tmp_path)
    assert shlex.join(merge) == "compact adapter merge org/lora --out benchmarks/lora"
    assert qwen.startswith("org/qwen is a qwen2_vl model, but these commands support LLaVA")
    assert none.startswith("org/none was not found on the Hub")


def test_what_cannot_be_called_is_one_clear_line(tmp_path: Path) -> None:
    cases: list[tuple[type[CompactError], str, dict[str, Any]]] = [
        (UsageError, "got 0 GPUs", {"gpus": 0}),
        (UsageError, "got 2 GPUs and the device 'cpu'", {"gpus": 2, "device": "cpu"}),
        (UsageError, "contains a comma", {"out": "a,b"}),
    ]
    for error_type, message, options in cases:
        with pytest.raises(error_type, match=message):
            benchmark_command(CHECKPOINTS_DIRECTORY / "tuned", **options)
    with pytest.raises(
        EvaluationError, match=r"is not a model; give a directory with config.json or adapter_config.json"
    ):
        benchmark_command(tmp_path)


def test_the_command_prints_lines_for_a_shell_and_says_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmarks", "command", str(CHECKPOINTS_DIRECTORY / "aligned")]) == 0
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()] == ["pip", "lmms-eval", "compact"]
    assert (
        "MM-Vet and LLaVA-in-the-Wild are graded by gpt-4o-2024-11-20 at your cost: set OPENAI_API_KEY" in captured.err
    )
    assert main(["benchmarks", "command", str(CHECKPOINTS_DIRECTORY / "aligned"), "--without-judge", "--json"]) == 0
    captured = capsys.readouterr()
    assert "OPENAI_API_KEY" not in captured.err
    assert json.loads(captured.out)["benchmarks"]["MME"]["metric"] == "mme_perception_score"


def test_the_task_holds_our_own_comparison_and_the_path_of_the_questions(tmp_path: Path) -> None:
    dataset = write_release(tmp_path / "drawn", rows=60)
    out = benchmark_tasks(dataset, tmp_path / "tasks")
    answers = files("compact_hf") / "answers.py"
    assert (out / "compact_answers.py").read_text(encoding="utf-8") == answers.read_text(encoding="utf-8")
    assert _read_settings(out)["dataset_path"] == str(dataset.resolve())
    benchmark_tasks("org/compact@v1.0.0", out)  # replaces the task that is there
    settings = _read_settings(out)
    assert settings["dataset_path"] == "org/compact"
    assert settings["dataset_kwargs"]["revision"] == "v1.0.0"
    assert settings["task"] == HELDOUT_TASK
    assert str(settings["metadata"]["version"]) == ANSWER_RULES_VERSION  # which results files name
    assert {metric["metric"] for metric in settings["metric_list"]} == {
        "accuracy",
        *(f"accuracy_k{k}" for k in range(1, 11)),
    }


def _read_settings(tasks: Path) -> dict[str, Any]:
    text = (tasks / f"{HELDOUT_TASK}.yaml").read_text(encoding="utf-8").replace("!function ", "")
    settings: dict[str, Any] = yaml.safe_load(text)
    return settings


def test_each_turn_is_asked_alone_about_the_very_file_of_its_picture(tmp_path: Path) -> None:
    import runpy

    from datasets import Image, load_dataset

    dataset = write_release(tmp_path / "drawn", rows=60)
    out = benchmark_tasks(dataset, tmp_path / "tasks")
    settings = _read_settings(out)
    task = runpy.run_path(str(out / f"{HELDOUT_TASK}.py"))
    rows = load_dataset(settings["dataset_path"], **settings["dataset_kwargs"])["validation"]
    docs = task["process_docs"](rows)
    turns = [(row, turn) for row in rows for turn in row["turns"]]
    assert [(item["question"], item["answer"], item["k"]) for item in docs] == [
        (turn["question"], turn["answer"], row["k"]) for row, turn in turns
    ]
    assert {1, 2} == {item["k"] for item in docs}
    undecoded = rows.cast_column("images", [Image(decode=False)])
    first = docs.cast_column("image", Image(decode=False))[0]
    assert first["image"]["bytes"] == undecoded[0]["images"][0]["bytes"]
    doc = docs[0] | {"answer": "two dogs", "k": 3}
    assert task["doc_to_visual"](doc)[0].size == (60, 40)
    assert task["doc_to_text"](doc) == f"{doc['question']}\nAnswer the question using a single word or phrase."
    assert task["process_results"](doc, ["The 2 dogs."]) == {"accuracy": 1.0, "accuracy_k3": 1.0}
    assert task["process_results"](doc, ["2 cats"]) == {"accuracy": 0.0, "accuracy_k3": 0.0}


def test_no_task_is_written_over_other_things_or_without_questions(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"mine contains notes.txt"):
        benchmark_tasks("org/compact", tmp_path / "mine")
    with pytest.raises(EvaluationError, match="mine has no held-out questions"):
        benchmark_tasks(tmp_path / "mine", tmp_path / "tasks")
    with pytest.raises(UsageError, match="'scenes:9' is neither a local directory nor a repository"):
        benchmark_tasks("scenes:9", tmp_path / "tasks")
