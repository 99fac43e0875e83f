"""Writes CHANGELOG.md of a release.

`write_dataset` writes the entry of the release's own version. `publish` adds the date and the changes since the
previous version to it, and appends the entries that the repository already has, unchanged.
"""

from __future__ import annotations

import re
from typing import Final

from compact_hf.dataset.diff import CHANGE_KINDS, Difference
from compact_hf.dataset.schema import DEFAULT_CONFIG
from compact_hf.dataset.stats import DatasetStats
from compact_hf.reports.markdown import escape_markdown, format_row

_TITLE: Final = "# Changelog\n"
# A line `## 1.2.3`, or `## 1.2.3 (2026-11-21)` when it has been published.
_ENTRY: Final = re.compile(r"^## (?P<version>\d+\.\d+\.\d+)(?: \((?P<date>[\d-]+)\))?$", re.MULTILINE)
# Starts the part of an entry that `publish` adds; everything before it is from `write_dataset`.
_SINCE_HEADING: Final = "\n\n### Since "


def initial_changelog(stats: DatasetStats) -> str:
    """Return CHANGELOG.md of a release that is not published yet: the entry of its own version, without a date.

    Args:
        stats (`DatasetStats`): statistics of the release.
    """
    provenance = (("preset", stats.presets), ("teacher", stats.teachers), ("verifier", stats.verifiers))
    subsets = stats.configs[DEFAULT_CONFIG]
    lines = [f"- {stats.rows():,} rows: {', '.join(f'{subset} {stats.rows(subset):,}' for subset in subsets)}"]
    lines += [f"- {name}: {escape_markdown(', '.join(names))}" for name, names in provenance if names]
    exclusions = sorted((reason, count) for (stage, reason), count in stats.rejects.items() if stage == "assembly")
    if exclusions:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in exclusions)
        lines.append(f"- excluded during assembly: {escape_markdown(counts)}")
    return _join_entries({stats.version: "\n".join([f"## {stats.version}", "", *lines])})


def published_changelog(
    local_text: str, remote_text: str, *, version: str, date: str, difference: Difference | None
) -> str:
    """Return CHANGELOG.md for the repository.

    If the repository already has an entry for `version` (an interrupted publication that was merged but not tagged),
    its date is kept, so that resuming a publication gives the same text.

    Args:
        local_text (`str`): the changelog in the release directory, which has the entry of `version`; may be empty.
        remote_text (`str`): the changelog in the repository; empty if there is none.
        version (`str`): version of the release, X.Y.Z.
        date (`str`): date of publication, YYYY-MM-DD.
        difference (`Difference`, *optional*): the changes since the previous version; None for the first version.

    Returns:
        The text of the file.
    """
    remote_entries = _parse_entries(remote_text)
    # Removed from the published entries if it is there, so that this version is not listed twice.
    if (match := _ENTRY.match(remote_entries.pop(version, ""))) and match["date"]:
        date = match["date"]
    # An earlier attempt may have written the date and the changes for another day or repository: drop both.
    body = _parse_entries(local_text).get(version, "").partition(_SINCE_HEADING)[0].partition("\n")[2]
    entry = f"## {version} ({date})\n{body}".strip("\n")
    return _join_entries({version: entry + (_format_changes(difference) if difference else "")} | remote_entries)


def _join_entries(entries: dict[str, str]) -> str:
    return _TITLE + "".join(f"\n{entry}\n" for entry in entries.values())


def _parse_entries(text: str) -> dict[str, str]:
    """Return the entries by version, each with its heading, in the order of the text."""
    starts = list(_ENTRY.finditer(text))
    ends = [*(match.start() for match in starts[1:]), len(text)]
    return {match["version"]: text[match.start() : end].strip("\n") for match, end in zip(starts, ends, strict=False)}


def _format_changes(difference: Difference) -> str:
    """Return the part of an entry that lists the changes since the previous version."""
    lines = [f"- {escape_markdown(reason)}" for reason in difference.reasons()] or ["- nothing changed"]
    header = ("config", "split", "rows before", "rows now", *CHANGE_KINDS)
    table = [
        (
            config,
            split,
            *map("{:,}".format, (changes.before, changes.after, *(getattr(changes, kind) for kind in CHANGE_KINDS))),
        )
        for (config, split), changes in difference.rows.items()
        if any(getattr(changes, kind) for kind in CHANGE_KINDS)
    ]
    if table:
        rules = ("---", "---", *["---:"] * (len(header) - 2))
        lines += ["", *map(format_row, (header, rules, *table))]
    return "\n".join([f"{_SINCE_HEADING}{difference.versions[0]}", "", *lines])
