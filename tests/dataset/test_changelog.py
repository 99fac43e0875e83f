"""CHANGELOG.md: what a folder says of its own version, and the history that publishing keeps."""

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
from tests.hub.clients import told

from .samples import contents, rows

PUBLISH = """
import sys
from compact_hf import publish
for folder in sys.argv[1:]:
    told = publish(folder, "org/compact").tag
"""


def release(path: Path, *, version: str = "1.0.0", rejects: int = 0, count: int = 12) -> str:
    """Write a release and return its changelog."""
    excluded = [Reject("assembly", "excluded by id", f"{number:032x}") for number in range(rejects)]
    of: list[Row | Reject] = [*rows(count), Reject("verification", "needs another k", "?"), *excluded]
    write_dataset(of, path, version=version)
    return (path / "CHANGELOG.md").read_text()


def test_a_folder_says_what_its_own_version_is(tmp_path: Path) -> None:
    assert release(tmp_path / "out", rejects=2) == (
        "# Changelog\n\n"
        "## 1.0.0\n\n"
        "- 12 rows: k1 4, k2 4, k3 4\n"
        "- preset: paper-1\n"
        "- teacher: scenes\n"
        "- verifier: scenes\n"
        "- left out in assembly: excluded by id 2\n"
    )
    assert "left out" not in release(tmp_path / "none")


def test_a_release_with_a_changelog_is_valid_and_loads_without_a_warning(tmp_path: Path) -> None:
    from datasets import load_dataset

    release(tmp_path / "out")
    assert validate(tmp_path / "out").is_valid
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(map(len, load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")).values())) == 12


def test_a_first_version_gets_its_day_only(tmp_path: Path) -> None:
    own = release(tmp_path / "out")
    text = published_changelog(own, "", version="1.0.0", date="2026-01-02", difference=None)
    assert text == own.replace("## 1.0.0\n", "## 1.0.0 (2026-01-02)\n")


def test_a_later_version_stands_on_top_with_what_changed_and_the_history_stays_as_it_was(tmp_path: Path) -> None:
    release(tmp_path / "a")
    own = release(tmp_path / "b", version="1.1.0", count=15)
    history = "# Changelog\n\n## 1.0.0 (2025-05-05)\n\n- a line by hand\n\n### Since 0.9.0\n\n- 3 rows added\n"
    difference = diff(tmp_path / "a", tmp_path / "b")
    text = published_changelog(own, history, version="1.1.0", date="2026-01-02", difference=difference)
    assert text.startswith("# Changelog\n\n## 1.1.0 (2026-01-02)\n\n- 15 rows: k1 5, k2 5, k3 5\n")
    assert text.endswith(history.removeprefix("# Changelog\n"))
    since = text[text.index("### Since 1.0.0") : text.index("## 1.0.0 (")]
    assert "- 3 rows added\n" in since
    assert "| config | split | rows before | rows now | added | removed | changed | corrected |" in since
    assert "| k1 | train | 4 | 5 | 1 | 0 | 0 | 0 |" in since


def test_publishing_again_does_not_pile_up_what_was_written_before(tmp_path: Path) -> None:
    release(tmp_path / "a")
    own = release(tmp_path / "b", version="1.1.0", count=15)
    difference = diff(tmp_path / "a", tmp_path / "b")
    once, later = (
        published_changelog(text, "", version="1.1.0", date=date, difference=difference)
        for text, date in ((own, "2026-01-02"), (own, "2026-01-03"))
    )
    assert published_changelog(once, "", version="1.1.0", date="2026-01-03", difference=difference) == later
    assert published_changelog(own, once, version="1.1.0", date="2026-02-02", difference=difference) == once
    other = release(tmp_path / "c", version="1.1.0", count=18)
    mended = published_changelog(other, once, version="1.1.0", date="2026-02-02", difference=difference)
    assert mended == once.replace("15 rows: k1 5, k2 5, k3 5", "18 rows: k1 6, k2 6, k3 6")


def test_a_folder_without_an_entry_gets_one(tmp_path: Path) -> None:
    text = published_changelog("", "", version="1.0.0", date="2026-01-02", difference=None)
    assert text == "# Changelog\n\n## 1.0.0 (2026-01-02)\n"


def test_the_repository_keeps_what_every_version_wrote(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second", "third")]
    release(folders[0])
    release(folders[1], version="1.1.0", count=15)
    release(folders[2], version="1.2.0", count=15, rejects=4)
    with HubServer() as server:
        told(server, PUBLISH, *folders, home=tmp_path / "home")
        repository = server.store.repository("dataset", "org/compact")
        at = {tag: repository.at(tag).files["CHANGELOG.md"].data.decode() for tag in ("v1.0.0", "v1.1.0", "v1.2.0")}
    today = datetime.now(UTC).date()
    found = re.findall(r"^## (\S+) \((\S+)\)$", at["v1.2.0"], re.MULTILINE)
    assert [version for version, _ in found] == ["1.2.0", "1.1.0", "1.0.0"]
    assert all(abs((datetime.fromisoformat(date).date() - today).days) <= 1 for _, date in found)
    for later, earlier in (("v1.2.0", "v1.1.0"), ("v1.1.0", "v1.0.0")):
        assert at[later].endswith(at[earlier].removeprefix("# Changelog\n"))
    assert contents(folders[2])["CHANGELOG.md"].decode() == at["v1.2.0"]
    assert "left out in assembly: excluded by id 4" in at["v1.2.0"]
    assert "### Since 1.1.0\n\n- the card differs\n" in at["v1.2.0"]
