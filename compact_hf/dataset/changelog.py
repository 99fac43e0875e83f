"""CHANGELOG.md of a release: in go its facts, or what changed since the version before, out comes its text.

`write` puts the entry of the release's own version into the folder. `publish` gives it a date and what changed since
the version before, and puts the entries that the repository holds below it: those are never written anew.
"""

from __future__ import annotations

import re
from typing import Final

from compact_hf.dataset.diff import KINDS, Difference
from compact_hf.dataset.schema import DEFAULT_CONFIG
from compact_hf.dataset.stats import Facts

_TITLE: Final = "# Changelog\n"
_ENTRY: Final = re.compile(r"^## (?P<version>\d+\.\d+\.\d+)(?: \((?P<date>[\d-]+)\))?$", re.MULTILINE)
_SINCE: Final = "\n\n### Since "


def first_entry(facts: Facts) -> str:
    """Return CHANGELOG.md of a release that no one has published yet: its own entry, without a date."""
    made = (("preset", facts.presets), ("teacher", facts.teachers), ("verifier", facts.verifiers))
    leaves = facts.configs[DEFAULT_CONFIG]
    lines = [f"- {facts.rows():,} rows: {', '.join(f'{leaf} {facts.rows(leaf):,}' for leaf in leaves)}"]
    lines += [f"- {name}: {', '.join(names)}" for name, names in made if names]
    left_out = sorted((reason, count) for (stage, reason), count in facts.rejects.items() if stage == "assembly")
    if left_out:
        lines.append(f"- left out in assembly: {', '.join(f'{reason} {count:,}' for reason, count in left_out)}")
    return _text({facts.version: "\n".join([f"## {facts.version}", "", *lines])})


def published_text(own: str, history: str, *, version: str, date: str, difference: Difference | None) -> str:
    """Return CHANGELOG.md as it shall stand in the repository.

    An entry that stands there already, of a release that was merged and not yet tagged, keeps its day: the same release
    gives the same text whenever it is published to its end.

    Args:
        own (`str`): that of the folder, from which the entry of `version` is taken; empty where there is none.
        history (`str`): that of the repository, empty where there is none.
        version (`str`): X.Y.Z.
        date (`str`): YYYY-MM-DD.
        difference (`Difference`, *optional*): to the version before; None for the first one.
    """
    earlier = _entries(history)
    if (begun := _ENTRY.match(earlier.pop(version, ""))) and begun["date"]:
        date = begun["date"]
    # What an earlier attempt to publish has written about another day or another repository is written anew.
    body = _entries(own).get(version, "").partition(_SINCE)[0].partition("\n")[2]
    entry = f"## {version} ({date})\n{body}".strip("\n")
    return _text({version: entry + (_since(difference) if difference else "")} | earlier)


def _text(entries: dict[str, str]) -> str:
    return _TITLE + "".join(f"\n{entry}\n" for entry in entries.values())


def _entries(text: str) -> dict[str, str]:
    """Return version -> its entry with its heading, in the order of the text."""
    starts = list(_ENTRY.finditer(text))
    ends = [*(match.start() for match in starts[1:]), len(text)]
    return {match["version"]: text[match.start() : end].strip("\n") for match, end in zip(starts, ends, strict=False)}


def _since(difference: Difference) -> str:
    """Return the part of an entry that says what changed."""
    lines = [f"- {reason}" for reason in difference.reasons()] or ["- nothing changed"]
    head = ("config", "split", "rows before", "rows now", *KINDS)
    table = [
        (
            config,
            split,
            *map("{:,}".format, (changes.before, changes.after, *(getattr(changes, kind) for kind in KINDS))),
        )
        for (config, split), changes in difference.rows.items()
        if any(getattr(changes, kind) for kind in KINDS)
    ]
    if table:
        rows = (head, ("---", "---", *["---:"] * (len(head) - 2)), *table)
        lines += ["", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join([f"{_SINCE}{difference.versions[0]}", "", *lines])
