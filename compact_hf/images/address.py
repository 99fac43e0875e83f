"""Where a dataset lies, in one line of text: on the Hub at a revision, or in a folder; and which of its rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode

from compact_hf.errors import UsageError

HUB_PREFIX: Final = "hf://datasets/"
LOCAL_PREFIX: Final = "dataset:"
# As the Hub names pull requests and the Parquet files that it makes of other formats, slashes and all.
_HUB_REF: Final = r"refs/(?:convert|pr)/[^/?]+"
_HUB_PATTERN: Final = re.compile(
    rf"(?P<path>[\w.-]+/[\w.-]+)(?:@(?P<revision>{_HUB_REF}|[^/?]+))?(?:/(?P<config>[^/?*]+))?"
)
_OPTIONS: Final = ("config", "split", "files")
_ADDRESS_SYNTAX: Final = "hf://datasets/org/name@revision[/config][?split=NAME]"


@dataclass(frozen=True, slots=True)
class Address:
    """Which rows of which dataset.

    Attributes:
        path (`str`): `org/name`, or the absolute path of a folder.
        on_hub (`bool`): which of the two.
        revision (`str`): a branch, a tag or a commit of a repository; empty for its main branch.
        config, split (`str`): empty for the default config, and for all its splits.
        files (`str`): a glob over a repository's or a folder's files; empty for those that belong to the config.
    """

    path: str
    on_hub: bool
    revision: str = ""
    config: str = ""
    split: str = ""
    files: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address in `hf://datasets/...` or in what `str` makes of an address.

        Raises:
            UsageError: it is no such text.
        """
        location, _, query = text.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        if unknown := options.keys() - set(_OPTIONS):
            raise UsageError(f"{text!r} has {sorted(unknown)[0]!r}; after the ? may stand {', '.join(_OPTIONS)}")
        if location.startswith(LOCAL_PREFIX):
            return cls(unquote(location.removeprefix(LOCAL_PREFIX)), on_hub=False, **options)
        match = _HUB_PATTERN.fullmatch(location.removeprefix(HUB_PREFIX))
        if match is None or not location.startswith(HUB_PREFIX):
            raise UsageError(f"{text!r} is not the address of a data set; write {_ADDRESS_SYNTAX}")
        if match["config"] and "config" in options:
            raise UsageError(f"{text!r} names two configs; leave one out")
        parts = {"revision": unquote(match["revision"] or ""), "config": match["config"] or ""}
        return cls(match["path"], on_hub=True, **parts | options)

    @property
    def display_name(self) -> str:
        """As people would say it."""
        return str(self) if self.on_hub else self.path

    def __str__(self) -> str:
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        location = f"{HUB_PREFIX}{self.path}{revision}" if self.on_hub else f"{LOCAL_PREFIX}{quote(self.path)}"
        options = {name: value for name in _OPTIONS if (value := getattr(self, name))}
        return f"{location}?{urlencode(options, safe='/*')}" if options else location
