"""Tests CHANGELOG.md: the entry of a release directory, and the history that publishing keeps."""

from __future__ import annotations

import re
import warnings
from datetime import UTC, datetime
from pathlib import Path

from compact_hf.dataset.changelog import published_changelog
from compact_hf.dataset.diff import diff
from compact_hf.dataset.validate import validate
from compact_hf.dataset.writer import write_dataset
from compact_hf.records import Reject, Row
from tests.doubles.hub.server import HubServer
from tests.hub.clients import run_source

from .samples import contents, make_rows

PUBLISH = """
import sys
from compact_hf import publish
for folder in sys.argv[1:]:
    told = publish(folder, "org/compact").tag
"""


def write_release(path: Path, *, version: str = "1.0.0", rejects: int = 0, count: int = 12) -> str:
    """Write a release and return its changelog."""
    excluded = [Reject("assembly", "excluded by id", f"{number:032x}") for number in range(rejects)]
    rows: list[Row | Reject] = [*make_rows(count), Reject("verification", "needs another k", "?"), *excluded]
    write_dataset(rows, path, sources=("compact",), version=version)
    return (path / "CHANGELOG.md").read_text()


def test_a_folder_says_what_its_own_version_is(tmp_path: Path) -> None:
    assert write_release(tmp_path / "out", rejects=2) == (
        "# Changelog\n\n"
        "## 1.0.0\n\n"
        "- 12 rows: k1 4, k2 4, k3 4\n"
        "- preset: paper-1\n"
        "- teacher: scenes\n"
        "- verifier: scenes\n"
        "- excluded during assembly: excluded by id 2\n"
    )
    assert "excluded during assembly" not in write_release(tmp_path / "none")


def test_a_release_with_a_changelog_is_valid_and_loads_without_a_warning(tmp_path: Path) -> None:
    from datasets import load_dataset

    write_release(tmp_path / "out")
    assert validate(tmp_path / "out").is_valid
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(map(len, load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")).values())) == 12


def test_a_first_version_gets_its_day_only(tmp_path: Path) -> None:
    changelog = write_release(tmp_path / "out")
    text = published_changelog(changelog, "", version="1.0.0", date="2026-01-02", difference=None)
    assert text == changelog.replace("## 1.0.0\n", "## 1.0.0 (2026-01-02)\n")


def test_a_later_version_stands_on_top_with_what_changed_and_the_history_stays_as_it_was(tmp_path: Path) -> None:
    write_release(tmp_path / "a")
    changelog = write_release(tmp_path / "b", version="1.1.0", count=15)
    history = "# Changelog\n\n## 1.0.0 (2025-05-05)\n\n- a line by hand\n\n### Since 0.9.0\n\n- 3 rows added\n"
    difference = diff(tmp_path / "a", tmp_path / "b")
    text = published_changelog(changelog, history, version="1.1.0", date="2026-01-02", difference=difference)
    assert text.startswith("# Changelog\n\n## 1.1.0 (2026-01-02)\n\n- 15 rows: k1 5, k2 5, k3 5\n")
    assert text.endswith(history.removeprefix("# Changelog\n"))
    changes = text[text.index("### Since 1.0.0") : text.index("## 1.0.0 (")]
    assert "- 3 rows added\n" in changes
    assert "| config | split | rows before | rows now | added | removed | changed | corrected |" in changes
    assert "| k1 | train | 4 | 5 | 1 | 0 | 0 | 0 |" in changes


def test_publishing_again_does_not_pile_up_what_was_written_before(tmp_path: Path) -> None:
    write_release(tmp_path / "a")
    changelog = write_release(tmp_path / "b", version="1.1.0", count=15)
    difference = diff(tmp_path / "a", tmp_path / "b")
    earlier, later = (
        published_changelog(text, "", version="1.1.0", date=date, difference=difference)
        for text, date in ((changelog, "2026-01-02"), (changelog, "2026-01-03"))
    )
    assert published_changelog(earlier, "", version="1.1.0", date="2026-01-03", difference=difference) == later
    assert published_changelog(changelog, earlier, version="1.1.0", date="2026-02-02", difference=difference) == earlier
    larger = write_release(tmp_path / "c", version="1.1.0", count=18)
    republished = published_changelog(larger, earlier, version="1.1.0", date="2026-02-02", difference=difference)
    assert republished == earlier.replace("15 rows: k1 5, k2 5, k3 5", "18 rows: k1 6, k2 6, k3 6")


def test_a_folder_without_an_entry_gets_one(tmp_path: Path) -> None:
    text = published_changelog("", "", version="1.0.0", date="2026-01-02", difference=None)
    assert text == "# Changelog\n\n## 1.0.0 (2026-01-02)\n"


def test_the_repository_keeps_what_every_version_wrote(tmp_path: Path) -> None:
    directories = [tmp_path / name for name in ("first", "second", "third")]
    write_release(directories[0])
    write_release(directories[1], version="1.1.0", count=15)
    write_release(directories[2], version="1.2.0", count=15, rejects=4)
    with HubServer() as server:
        run_source(server, PUBLISH, *directories, home=tmp_path / "home")
        repository = server.store.repository("dataset", "org/compact")
        changelogs = {
            tag: repository.get_commit(tag).files["CHANGELOG.md"].data.decode()
            for tag in ("v1.0.0", "v1.1.0", "v1.2.0")
        }
    today = datetime.now(UTC).date()
    headings = re.findall(r"^## (\S+) \((\S+)\)$", changelogs["v1.2.0"], re.MULTILINE)
    assert [version for version, _ in headings] == ["1.2.0", "1.1.0", "1.0.0"]
    assert all(abs((datetime.fromisoformat(date).date() - today).days) <= 1 for _, date in headings)
    for later, earlier in (("v1.2.0", "v1.1.0"), ("v1.1.0", "v1.0.0")):
        assert changelogs[later].endswith(changelogs[earlier].removeprefix("# Changelog\n"))
    assert contents(directories[2])["CHANGELOG.md"].decode() == changelogs["v1.2.0"]
    assert "excluded during assembly: excluded by id 4" in changelogs["v1.2.0"]
    assert "### Since 1.1.0\n\n- the card differs\n" in changelogs["v1.2.0"]
