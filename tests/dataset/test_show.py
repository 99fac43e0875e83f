"""Tests contact sheets of runs, releases and repositories: they match the query, are deterministic, and read little."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image

from compact_hf import show
from compact_hf.cli.main import main
from compact_hf.dataset.assemble import assemble
from compact_hf.dataset.examples import Candidate, Reservoir, SampleQuery
from compact_hf.dataset.reader import open_dataset
from compact_hf.dataset.show import read_dataset_samples, read_run_samples
from compact_hf.dataset.writer import write_dataset
from compact_hf.errors import CompactError, JournalError, ReleaseError, UsageError
from compact_hf.methods.compact.conversation import Outcome, parse_outcome
from compact_hf.methods.compact.samples import make_question_sample, make_reject_sample
from compact_hf.methods.generate import generate
from compact_hf.records import Message, Reject, Row, Turn
from compact_hf.reports import contact_sheet
from compact_hf.reports.contact_sheet import QuestionItem
from compact_hf.runs.journal import Journal
from tests.doubles.hub.server import HubServer
from tests.hub.clients import run as run_client
from tests.hub.clients import run_source

from .samples import contents, make_row, make_rows

TEXT_ROW: Final = Row(
    id="a" * 32, messages=(Message("user", "Hi"), Message("assistant", "Hello")), source="instruction"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run over 60 drawn scenes, with planted faults so that drafts are rejected."""
    run = tmp_path_factory.mktemp("runs") / "run"
    generate("scenes:60", run, noise=0.3)
    return run


@pytest.fixture(scope="module")
def release(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("releases") / "release"
    assemble([run], out, version="1.0.0", max_similarity=1)
    return out


def captions(items: tuple[QuestionItem, ...]) -> list[str]:
    return [item.caption for item in items]


def test_a_sheet_holds_pictures_questions_answers_and_capabilities(run: Path, tmp_path: Path) -> None:
    sheet = show(run, tmp_path / "sheet", n=6)
    page = sheet.page.read_text()
    samples = read_run_samples(run, SampleQuery(count=6), rejects=False)
    assert (sheet.count, page.count("<article"), page.count("data:image/webp;base64,")) == (6, 6, 6)
    for item in samples.items:
        for turn in item.turns:
            assert f"<strong>{turn.answer}</strong>" in page
            assert all(f">{name.replace('_', ' ')}</li>" in page for name in turn.capabilities)
    assert "Written by scenes:noise=0.3; checked by scenes." in page
    with Image.open(sheet.image) as image:
        assert (image.format, image.width) == ("PNG", 3 * 400 + 4 * 20)
    assert sheet._repr_png_() == sheet.image.read_bytes()
    assert sorted(contents(tmp_path / "sheet")) == ["contact_sheet.html", "contact_sheet.png"]


def test_the_page_needs_nothing_beside_it_and_names_no_folder(run: Path, tmp_path: Path) -> None:
    page = show(run, tmp_path / "sheet", n=3).page.read_text()
    assert all(link.startswith("data:") for link in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "<script" not in page
    assert "http" not in page
    assert str(tmp_path) not in page
    assert str(run.parent) not in page


@pytest.mark.parametrize("where", ["run", "release"])
def test_the_same_call_shows_the_same_and_another_seed_others(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(where)
    sheets = [show(source, tmp_path / name, n=3, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    pages = [sheet.page.read_text() for sheet in sheets]
    assert pages[0] == pages[1] != pages[2]
    assert sheets[0].image.read_bytes() == sheets[1].image.read_bytes() != sheets[2].image.read_bytes()


def test_pictures_are_even_over_k_and_not_the_first_ones(run: Path) -> None:
    samples = read_run_samples(run, SampleQuery(count=9), rejects=False)
    assert Counter(entry.k for entry in samples.items) == {1: 3, 2: 3, 3: 3}
    with Journal.read(run) as journal:
        accepted = [(parse_outcome(entry.body).k, entry.ref) for entry in journal.outcomes() if entry.accepted]
    firsts = {ref for k in (1, 2, 3) for ref in [ref for image_k, ref in accepted if image_k == k][:3]}
    assert set(captions(samples.items)) != firsts


@pytest.mark.parametrize("where", ["run", "release"])
def test_only_what_is_asked_for_is_shown(where: str, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(where)
    query = SampleQuery({"k": 2, "capability": "counting"}, count=120)
    samples = (
        read_run_samples(source, query, rejects=False)
        if where == "run"
        else read_dataset_samples(open_dataset(source), query)
    )
    full_query = SampleQuery(count=120)
    all_samples = (
        read_run_samples(source, full_query, rejects=False)
        if where == "run"
        else read_dataset_samples(open_dataset(source), full_query)
    )
    matching = [
        turn for item in all_samples.items if item.k == 2 for turn in item.turns if "counting" in turn.capabilities
    ]
    assert [turn for item in samples.items for turn in item.turns] != []
    assert sorted(turn.question for item in samples.items for turn in item.turns) == sorted(
        turn.question for turn in matching
    )


def test_a_release_shows_what_lies_in_it(run: Path, release: Path) -> None:
    both_samples = [
        read_run_samples(run, SampleQuery(count=120), rejects=False),
        read_dataset_samples(open_dataset(release), SampleQuery(count=120)),
    ]
    assert both_samples[0].items != ()
    turns = [sorted(turn.question for item in samples.items for turn in item.turns) for samples in both_samples]
    assert turns[0] == turns[1]
    assert captions(both_samples[1].items)[0].startswith("scenes, CC0-1.0, row ")


def test_dropped_drafts_are_shown_with_their_reasons_and_nothing_that_was_kept(run: Path) -> None:
    page = contact_sheet.render_fragment(read_run_samples(run, SampleQuery(count=120), rejects=True).items)
    with Journal.read(run) as journal:
        outcomes = [parse_outcome(entry.body) for entry in journal.outcomes()]
    reasons = {
        entry.reason
        for outcome in outcomes
        for entry in outcome.rejects
        if entry.subject and entry.stage != "conversation"
    }
    assert {"low confidence", "needs fewer capabilities", "needs more capabilities"} <= reasons
    assert all(f"rejected: {reason}</strong>" in page for reason in reasons)
    assert "requested capabilities" in page
    assert page.count("<strong>") == 0
    assert page.count('class="dropped"') <= 4 * page.count("<article")


def test_each_reason_of_a_picture_comes_before_another_s_second() -> None:
    rejects = [Reject("generation", reason, f"{index}?", "", ("color",)) for index, reason in enumerate("aaaaab")]
    silent = [
        Reject("generation", "declined", "", "", ("color",)),
        Reject("conversation", "too few questions", "id", "", ("color",)),
    ]
    outcome = Outcome(1, None, (*silent, *rejects), (), "writer", "judge")
    sample = make_reject_sample(outcome, caption="", teacher="writer", verifier="judge", filters={})
    assert sample is not None
    assert [entry.question for entry in sample.make_item(b"").entries()] == ["0?", "5?", "1?", "2?"]


def test_the_shards_of_a_run_are_shown_as_one(tmp_path: Path) -> None:
    for index in (1, 2):
        generate("scenes:16", tmp_path / "parts" / f"shard-{index}-of-2", shard=f"{index}/2")
    generate("scenes:16", tmp_path / "whole")
    query = SampleQuery(count=8)
    assert captions(read_run_samples(tmp_path / "parts", query, rejects=False).items) == captions(
        read_run_samples(tmp_path / "whole", query, rejects=False).items
    )
    (tmp_path / "parts" / "shard-2-of-2").rename(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="lacks shard-2-of-2"):
        show(tmp_path / "parts", tmp_path / "sheet")


def test_a_run_is_shown_while_it_is_written_to(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    with Journal.read(run) as journal:
        identity = journal.identity
    with Journal.open(tmp_path / "run", identity):
        assert show(tmp_path / "run", tmp_path / "sheet", n=3).count == 3


def test_it_works_in_a_running_event_loop(run: Path, tmp_path: Path) -> None:
    async def cell() -> int:
        return show(run, tmp_path / "sheet", n=2).count

    assert asyncio.run(cell()) == 2


def test_what_is_kept_while_samples_stream_by_does_not_grow() -> None:
    reservoir = Reservoir(SampleQuery(count=5))
    turn = Turn("?", "!", ("color",), ("color",), 90)
    for number in range(3000):
        caption, k = str(number), 1 + number % 3
        sample = make_question_sample(k, [turn], caption=caption, teacher="t", verifier="v", filters={})
        assert sample is not None
        reservoir.add(reservoir.query.rank(number), Candidate(sample, caption.encode), k)
    assert sum(map(len, reservoir._by_group.values())) == 15
    best = sorted(range(0, 3000, 3), key=reservoir.query.rank)[:2]
    assert captions(reservoir.read_samples().items)[:2] == [str(number) for number in best]


def make_noise_image(number: int) -> bytes:
    out = BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (120, 120, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


SHOW: Final = """
import sys
from compact_hf import show
from compact_hf.errors import CompactError
told = []
for where, k in (("org/compact", 3), ("hf://datasets/org/compact@v1.0.0", None), ("org/compact@v9.9.9", None)):
    try:
        sheet = show(where, f"{sys.argv[1]}/{len(told)}", k=k, n=6)
        told.append([sheet.count, sheet.page.read_text()])
    except CompactError as error:
        told.append(str(error))
"""
UPLOAD: Final = """
import sys
from huggingface_hub import HfApi
place = {"repo_id": "org/compact", "repo_type": "dataset"}
HfApi().create_repo(**place)
HfApi().upload_folder(**place, folder_path=sys.argv[1])
HfApi().create_tag(**place, tag="v1.0.0")
told = True
"""


def test_of_a_repository_only_what_is_shown_is_fetched(tmp_path: Path) -> None:
    """500 images of 43 KB with k = 3 are in five row groups. Only one of these is read, and nothing of k = 1 and 2."""
    ks = [3] * 500 + [1] * 20 + [2] * 20
    write_dataset(
        (make_row(number, k=k, data=make_noise_image(number)) for number, k in enumerate(ks)),
        tmp_path / "compact",
        sources=("compact",),
        version="1.0.0",
    )
    sizes = {path.relative_to(tmp_path / "compact").as_posix(): path.stat().st_size
             for path in (tmp_path / "compact").rglob("*.parquet")}  # fmt: skip
    with HubServer() as server:
        run_source(server, UPLOAD, tmp_path / "compact", home=tmp_path / "home")
        server.bytes_sent.clear()
        source = SHOW.replace(', ("hf://datasets/org/compact@v1.0.0", None), ("org/compact@v9.9.9", None))', ",)")
        ((k3_count, page),) = run_source(server, source, tmp_path / "sheets", home=tmp_path / "home")
        served = {path.partition("/resolve/")[2].partition("/")[2]: count for path, count in server.bytes_sent.items()}
        _, (all_count, _), error = run_source(server, SHOW, tmp_path / "sheets", home=tmp_path / "home")
    assert (k3_count, all_count) == (6, 6)
    assert "org/compact@v9.9.9" in error
    bytes_read = {path: count for path, count in served.items() if path in sizes and count}
    assert [path.split("/")[1] for path in bytes_read] == ["k3"]
    ((path, count),) = bytes_read.items()
    assert count < 0.35 * sizes[path]
    local_page = show(tmp_path / "compact", tmp_path / "here", k=3, n=6).page.read_text()
    assert page.split("<main>")[1] == local_page.split("<main>")[1]
    assert not list((tmp_path / "home").rglob("*.parquet"))


def test_the_command_prints_where_the_files_are(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", str(run), "--k", "2", "--capability", "Object-Recognition", "--n", "2"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["run-sheet/contact_sheet.html", "run-sheet/contact_sheet.png"]
    assert "2 images" in err
    assert "2 images with questions of k = 2 for the capability object recognition" in Path(out.split()[0]).read_text()
    assert main(["show", str(run), "--rejects", "--out", str(tmp_path / "sheet")]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "sheet" / f"contact_sheet.{suffix}") for suffix in ("html", "png")
    ]


BAD_ARGUMENTS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no capability": ({"capability": "countin"}, "did you mean counting?"),
    "k of nothing": ({"k": 5}, "has no accepted questions of k = 5; there are some for k = 1, 2, 3"),
    "no k": ({"k": 0}, "k = 0 is out of range: a question needs 1 to 10 capabilities"),
    "no pictures": ({"n": 0}, "n is 0: it must be 1 to 120 images"),
    "too many": ({"n": 121}, "n is 121: it must be 1 to 120 images"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_what_cannot_be_shown_is_one_clear_line(case: str, run: Path, tmp_path: Path) -> None:
    arguments, line = BAD_ARGUMENTS[case]
    with pytest.raises(UsageError, match=re.escape(line)) as excinfo:
        show(run, tmp_path / "sheet", **arguments)
    assert "\n" not in str(excinfo.value)
    assert not (tmp_path / "sheet").exists()


def test_a_release_keeps_no_rejects_and_says_where_they_are(release: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only runs contain rejected drafts: give a run directory"):
        show(release, tmp_path / "sheet", rejects=True)


def test_a_release_without_what_is_wanted_says_what_there_is(release: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no questions of k = 5; it has k1, k2, k3"):
        show(release, tmp_path / "sheet", k=5)
    write_dataset([TEXT_ROW], tmp_path / "text", sources=("compact",), version="1.0.0")
    with pytest.raises(UsageError, match="only an instruction part, which has no k"):
        show(tmp_path / "text", tmp_path / "sheet")
    write_dataset(
        [replace(make_row(1), turns=make_row(1).turns[:1])], tmp_path / "one", sources=("compact",), version="1.0.0"
    )
    with pytest.raises(UsageError, match="has no questions for the capability counting"):
        show(tmp_path / "one", tmp_path / "sheet", capability="counting")


def test_what_is_neither_run_nor_release_is_told(tmp_path: Path, run: Path) -> None:
    cases: dict[str | Path, str] = {
        tmp_path: "is neither a run (no journal.sqlite) nor a dataset release (no directory data)",
        tmp_path / "missing": "is not a directory: give a run, a dataset release, or org/name",
        run / "journal.sqlite": "is not a directory: give a run, a dataset release, or org/name",
        "nowhere": "is not a directory: give a run, a dataset release, or org/name",
    }
    for source, line in cases.items():
        with pytest.raises(UsageError, match=re.escape(line)):
            show(source, tmp_path / "sheet")
    (tmp_path / "data").mkdir()
    with pytest.raises(ReleaseError, match="has no data files of a dataset release"):
        show(tmp_path, tmp_path / "sheet")


def test_a_damaged_or_foreign_file_is_told(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_dataset(make_rows(3), tmp_path / "release", sources=("compact",), version="1.0.0")
    file = next((tmp_path / "release").rglob("k1/*.parquet"))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ReleaseError, match="cannot be read"):
        show(tmp_path / "release", tmp_path / "sheet", k=1)
    pq.write_table(pa.table({"text": ["hi"]}), file)
    with pytest.raises(ReleaseError, match=r"no column capabilities|no column id"):
        show(tmp_path / "release", tmp_path / "sheet", k=1)


def test_pictures_that_are_gone_are_told(tmp_path: Path) -> None:
    directory = tmp_path / "pictures"
    directory.mkdir()
    generate("scenes:4", tmp_path / "run")
    with Journal.read(tmp_path / "run") as journal:
        identity = journal.identity
        finished = [outcome for outcome in journal.outcomes() if outcome.accepted]
    with Journal.open(tmp_path / "gone", identity | {"source": str(directory)}) as journal:
        for outcome in finished:
            journal.record_outcome(replace(outcome, ref="gone.png"))
    with pytest.raises(CompactError, match=r"gone\.png in .* can no longer be read"):
        show(tmp_path / "gone", tmp_path / "sheet")


def test_a_run_of_another_method_has_nothing_to_show(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "run", {"method": "annotate", "source": "scenes"}):
        pass
    with pytest.raises(UsageError, match="is a run of annotate, which makes no questions"):
        show(tmp_path / "run", tmp_path / "sheet")


def test_a_place_that_cannot_be_written_is_told(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReleaseError, match=r"cannot be written .*; give another --out"):
        show(run, tmp_path / "file", n=1)
    assert os.listdir(tmp_path) == ["file"]


def test_a_hub_that_is_away_is_one_line(tmp_path: Path) -> None:
    with HubServer() as server:
        source = "import sys; from compact_hf.cli.main import main; sys.exit(main(sys.argv[1:]))"
        process = run_client(
            server, source, "show", "org/compact", home=tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9"
        )
    assert (process.returncode, process.stdout) == (1, "")
    assert "the Hub cannot be reached" in process.stderr.strip().splitlines()[-1]
