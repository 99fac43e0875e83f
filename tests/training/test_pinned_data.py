"""Checks that training uses and records the requested version of a dataset and a base on the Hub."""

from __future__ import annotations

from pathlib import Path

from compact_hf.models.llava.tiny import build_tiny
from tests.doubles.hub.server import HubServer
from tests.hub.clients import run_source
from tests.training.samples import MODEL_SIZE, texts, write_release

PUBLISH_SOURCE = """
import sys
from compact_hf.hub.push import push
for version in ("v1.0.0", "v1.1.0"):
    push(f"{sys.argv[1]}/{version}", "org/things", repo_type="dataset", message=version, tag=version)
told = None
"""
PLAN_SOURCE = """
import sys
from compact_hf.errors import HubError
from compact_hf.training.dry_run import dry_run
from compact_hf.training.train import build_job

def plan(name, revision=None):
    given = {"model_name_or_path": f"{sys.argv[1]}/tiny", "dataset_name": name, "dataset_config": "all"}
    found = dry_run("tiny-cpu", overrides=given, revision=revision)
    return [found.rows, found.dataset_revision]

told = [plan("org/things@v1.0.0"), plan("org/things", "v1.0.0"), plan("org/things")]
try:
    build_job("tiny-cpu", overrides={"dataset_name": "org/things@v9.9.9"})
except HubError as error:
    told.append(str(error))
"""

BASE_SOURCE = """
import sys
from huggingface_hub import HfApi
from compact_hf.hub.push import push
from compact_hf.errors import SettingsMismatchError
from compact_hf.training.arguments import Arguments, check_base, make_parser
from compact_hf.training.checkpoints import init_output_dir
from compact_hf.training.train import build_job

push(f"{sys.argv[1]}/tiny", "org/base", repo_type="model", message="first", tag="v1.0.0")

def check(name, *options):
    required = ["--dataset_name", "any", "--output_dir", "out", "--use_cpu", "true"]
    args = Arguments(*make_parser("x").parse_args_and_config(["--model_name_or_path", name, *required, *options]))
    check_base(args)
    return args.model.model_revision

told = [
    HfApi().model_info("org/base").sha,
    check("org/base"),
    check("org/base", "--model_revision", "v1.0.0"),
    check(f"{sys.argv[1]}/tiny"),
]

def start(base="org/base", **revision):
    given = {"model_name_or_path": base, "dataset_name": "any", "output_dir": f"{sys.argv[1]}/out", **revision}
    job = build_job("tiny-cpu", overrides=given)
    init_output_dir(job.output_dir, job.settings)
    return job.options[job.options.index("--model_revision") + 1]

started = start()
HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="other.json", repo_id="org/base")
try:
    start()
except SettingsMismatchError as error:
    told += [started, str(error), start(model_revision=started), start(model_revision="v1.0.0")]
missing = {"model_name_or_path": "org/nothing", "dataset_name": "any"}
told.append(build_job("tiny-cpu", overrides=missing).settings.get("model_revision"))
"""


def test_a_tag_is_taken_at_its_commit_and_main_where_none_is_asked_for(tmp_path: Path) -> None:
    build_tiny(tmp_path / "tiny", texts(8), seed=0, size=MODEL_SIZE)
    write_release(tmp_path / "v1.0.0", rows=0, text_rows=8)
    write_release(tmp_path / "v1.1.0", rows=0, text_rows=12)
    with HubServer() as server:
        run_source(server, PUBLISH_SOURCE, tmp_path, home=tmp_path / "home")
        tagged, by_option, main, missing = run_source(server, PLAN_SOURCE, tmp_path, home=tmp_path / "home")
        *offline, not_cached = run_source(server, PLAN_SOURCE, tmp_path, home=tmp_path / "home", HF_HUB_OFFLINE="1")
    assert [tagged[0], main[0]] == [8, 12]
    assert by_option == tagged
    assert len(tagged[1]) == len(main[1]) == 40
    assert tagged[1] != main[1]
    assert "v9.9.9" in missing
    assert offline == [tagged, by_option, main]  # although main was cached last, which is what `load_dataset` takes
    assert "org/things@v9.9.9 is not in the cache, and HF_HUB_OFFLINE is set" in not_cached


def test_a_run_is_bound_to_the_commit_of_its_base(tmp_path: Path) -> None:
    build_tiny(tmp_path / "tiny", texts(8), seed=0, size=MODEL_SIZE)
    with HubServer() as server:
        told = run_source(server, BASE_SOURCE, tmp_path, home=tmp_path / "home", HF_HUB_OFFLINE="0")
    commit, from_main, from_tag, of_directory, *told = told
    assert len(commit) == 40
    assert (from_main, from_tag, of_directory) == (commit, commit, None)
    started, moved, again, by_tag, missing = told
    assert started == again == by_tag == commit
    assert f"(model_revision was '{commit}', now '" in moved
    assert missing is None  # the training script says that it was not found
