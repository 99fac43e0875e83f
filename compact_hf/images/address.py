"""Parses and writes dataset addresses: a repository of the Hub at a revision or a local directory, and a row selection.

The text forms are `hf://datasets/org/name@revision[/config][?split=NAME]` and `dataset:/path[?config=...]`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode

from compact_hf.errors import UsageError

HUB_PREFIX: Final = "hf://datasets/"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
LOCAL_PREFIX: Final = "dataset:"
# Names that the Hub gives to pull requests and to its automatic Parquet conversions; they contain slashes.
_HUB_REF: Final = r"refs/(?:convert|pr)/[^/?]+"
# org/name, then @revision and /config. A glob (*) is refused as a config: it belongs after `?files=`.
_HUB_PATTERN: Final = re.compile(
    rf"(?P<path>[\w.-]+/[\w.-]+)(?:@(?P<revision>{_HUB_REF}|[^/?]+))?(?:/(?P<config>[^/?*]+))?"
)
_OPTIONS: Final = ("config", "split", "files")
_ADDRESS_SYNTAX: Final = "hf://datasets/org/name@revision[/config][?split=NAME]"


def is_url(text: str) -> bool:
    """Return whether a text begins with a scheme such as `hf://` or `https://`, so that it is not meant as a path.

    Args:
        text (`str`): what a user gave as a source or a dataset.
    """
    return _URL.match(text) is not None


@dataclass(frozen=True, slots=True)
class Address:
    """The location of a dataset and a selection of its rows.

    Attributes:
        path (`str`): repository id `org/name`, or the absolute path of a local directory.
        on_hub (`bool`): True for a repository of the Hub, False for a local directory.
        revision (`str`, *optional*, defaults to ""): branch, tag or commit of a repository; empty for the main branch.
        config (`str`, *optional*, defaults to ""): name of a config; empty for the default config.
        split (`str`, *optional*, defaults to ""): name of a split; empty for all splits of the config.
        files (`str`, *optional*, defaults to ""): glob over the files of the repository or directory; empty for the
            files of the config.
    """

    path: str
    on_hub: bool
    revision: str = ""
    config: str = ""
    split: str = ""
    files: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form of an address.

        Args:
            text (`str`): `hf://datasets/...` or `dataset:/path...`; the latter is what `str` returns for a directory.

        Raises:
            UsageError: `text` has neither form, has an unknown option after the `?`, or names two configs.
        """
        location, _, query = text.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        if unknown := options.keys() - set(_OPTIONS):
            raise UsageError(f"{text!r} has the unknown option {sorted(unknown)[0]!r}: use {', '.join(_OPTIONS)}")
        if location.startswith(LOCAL_PREFIX):
            return cls(unquote(location.removeprefix(LOCAL_PREFIX)), on_hub=False, **options)
        match = _HUB_PATTERN.fullmatch(location.removeprefix(HUB_PREFIX))
        if match is None or not location.startswith(HUB_PREFIX):
            raise UsageError(f"{text!r} is not the address of a dataset: write {_ADDRESS_SYNTAX}")
        if match["config"] and "config" in options:
            raise UsageError(f"{text!r} names two configs: remove one of them")
        parts = {"revision": unquote(match["revision"] or ""), "config": match["config"] or ""}
        # Options come last: a config after the `?` replaces the empty one of the path.
        return cls(match["path"], on_hub=True, **parts | options)

    @property
    def display_name(self) -> str:
        """The address as messages show it: `hf://datasets/...`, or the plain path of a local directory."""
        return str(self) if self.on_hub else self.path

    def __str__(self) -> str:
        # Slashes too: `refs/pr/1` becomes one part of the path, which `parse` unquotes.
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        location = f"{HUB_PREFIX}{self.path}{revision}" if self.on_hub else f"{LOCAL_PREFIX}{quote(self.path)}"
        options = {name: value for name in _OPTIONS if (value := getattr(self, name))}
        return f"{location}?{urlencode(options, safe='/*')}" if options else location
