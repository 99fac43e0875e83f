"""Parses JSON and YAML from outside with limits, so that no file of a megabyte fills the memory or takes minutes.

All functions raise `ValueError` with a one-line message. Deeply nested text is refused before it is parsed: parsers
need time, memory or stack for each level, and so does everything that later walks through the result.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from compact_hf.regular_files import read_regular

if TYPE_CHECKING:
    from yaml import Node, SafeLoader

MAX_DEPTH: Final = 100
"""Largest number of brackets, or levels of indentation, inside each other."""
_MAX_BYTES: Final = 2**26
_MAX_YAML_BYTES: Final = 2**20  # PyYAML parses a few hundred KB per second
_MAX_YAML_NODES: Final = 100_000
_MAX_NUMBER_CHARS: Final = 1000  # of a YAML number; a longer scalar is text

_TOO_DEEP: Final = f"it is nested more than {MAX_DEPTH} levels deep"
_TOO_MANY: Final = f"it has more than {_MAX_YAML_NODES} values, those that aliases repeat included"
_OTHER_BYTES: Final = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS: Final[Mapping[int, int]] = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class NestingGuard:
    """A binary file with JSON that raises `ValueError` when it is read beyond the maximum depth.

    Args:
        file (`BinaryIO`): the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._depth = 0
        self._is_in_string = False
        self._backslash = b""  # one at the end of a chunk, whose escaped character is in the next chunk

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, as `file.read` does.

        Args:
            size (`int`, *optional*): maximum number of bytes; by default all.

        Raises:
            ValueError: their JSON is nested too deeply.
        """
        chunk = self._file.read(size)
        self._check(self._backslash + chunk)
        return chunk

    def _check(self, text: bytes) -> None:
        text = text.replace(b"\\\\", b"")
        self._backslash = b"\\" if text.endswith(b"\\") else b""
        # Without escaped ones, each quotation mark starts or ends a string. Two without a bracket between them cancel.
        text = text.replace(b'\\"', b"").translate(None, _OTHER_BYTES).replace(b'""', b"")
        parts = text.split(b'"')
        brackets = b"".join(parts[self._is_in_string :: 2])
        self._is_in_string ^= len(parts) % 2 == 0
        unpaired, levels = _remove_pairs(brackets)
        opening = unpaired.count(b"[") + unpaired.count(b"{")
        if self._depth + opening + levels <= MAX_DEPTH:  # an upper bound, and almost always enough
            self._depth += 2 * opening - len(unpaired)
            return
        depths = list(accumulate(map(_STEPS.__getitem__, brackets), initial=self._depth))
        if max(depths) > MAX_DEPTH:
            raise ValueError(_TOO_DEEP)
        self._depth = depths[-1]


def _remove_pairs(brackets: bytes) -> tuple[bytes, int]:
    """Return brackets without pairs, and how deep the pairs are nested at most; `MAX_DEPTH` if that is not known."""
    for levels in range(0, 16, 2):  # two levels at a time, because a pair may be in a pair of the other kind
        shorter = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(shorter) == len(brackets):
            return brackets, levels
        brackets = shorter
    return brackets, MAX_DEPTH


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Args:
        text (`str | bytes`): the text.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    NestingGuard(BytesIO(data)).read()
    return json.loads(text)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Args:
        path (`Path`): the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, nested too deeply, or too large.
    """
    return parse_json(_read(path, _MAX_BYTES))


def parse_yaml(text: str | bytes) -> Any:
    """Return the value of a YAML text.

    Args:
        text (`str | bytes`): the text; the encoding of bytes is detected.

    Raises:
        ValueError: it is not YAML, nested too deeply, or too large, which includes what its aliases repeat.
    """
    import yaml

    if len(text) > _MAX_YAML_BYTES:
        raise ValueError(f"it is larger than {_MAX_YAML_BYTES / 2**20:g} MB")
    try:
        # A subclass of SafeLoader.
        return yaml.load(text, _make_loader())
    except (yaml.YAMLError, ValueError) as error:
        # PyYAML's messages have several lines; ValueError is that of a date such as 2026-13-01.
        raise ValueError(" ".join(str(error).split())) from error


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file.

    Args:
        path (`Path`): the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not YAML, nested too deeply, or too large.
    """
    return parse_yaml(_read(path, _MAX_YAML_BYTES))


def read_card_header(path: Path) -> dict[str, Any]:
    """Return the YAML header of a card on the Hub, an empty dict if the file has none.

    Args:
        path (`Path`): the card, README.md.

    Raises:
        OSError: the file cannot be read.
        ValueError: the header is not YAML, nested too deeply, too large, or not a mapping.
    """
    return parse_card_header(_read(path, _MAX_BYTES).decode("utf-8"))


def parse_card_header(text: str) -> dict[str, Any]:
    """Return the YAML header of a card's text, an empty dict if it has none.

    Args:
        text (`str`): text of the card.

    Raises:
        ValueError: the header is not YAML, nested too deeply, too large, or not a mapping.
    """
    # The Hub accepts Windows' line ends and byte order marks.
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return {}
    # The header is between the first two lines ---; 4 is the length of the first one.
    header = parse_yaml(f"{text}\n"[4:].split("\n---\n", 1)[0])
    if not isinstance(header, dict):
        raise ValueError("the header is not a mapping")
    return header


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        return read_regular(path, max_bytes=max_bytes)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ValueError(f"it is larger than {max_bytes / 2**20:g} MB") from None
        raise


def _make_loader() -> type[SafeLoader]:
    """Return PyYAML's safe loader with limits."""
    import yaml
    from yaml.composer import Composer

    # The C parser is 20 times faster, but its composer has no limits and can overflow the stack.
    bases = (Composer, yaml.CSafeLoader) if yaml.__with_libyaml__ else (yaml.SafeLoader,)

    class BoundedLoader(*bases):  # type: ignore[misc]  # the bases are chosen at run time
        """Counts levels and nodes while nodes are composed, before values are constructed from them."""

        def __init__(self, stream: str | bytes) -> None:
            bases[-1].__init__(self, stream)
            Composer.__init__(self)
            self._depth = 0
            self._sizes: dict[Node, int] = {}  # node -> number of nodes in it, those of aliases included

        def resolve(self, kind: type[Node], value: str | None, implicit: Any) -> str:
            if kind is yaml.ScalarNode and value is not None and len(value) > _MAX_NUMBER_CHARS:
                implicit = (
                    False,
                    True,
                )  # text: PyYAML's patterns for numbers can end the process with a stack overflow
            return str(super().resolve(kind, value, implicit))

        def compose_node(self, parent: Node | None, index: int) -> Node:
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise ValueError(_TOO_DEEP)
            if len(self._sizes) >= _MAX_YAML_NODES:
                raise ValueError(_TOO_MANY)
            is_alias = self.check_event(yaml.AliasEvent)
            node: Node = super().compose_node(parent, index)
            self._depth -= 1
            if not is_alias:
                self._sizes[node] = self._count(node)
            elif node not in self._sizes:
                raise ValueError("a value of it contains itself")
            return node

        def _count(self, node: Node) -> int:
            if isinstance(node, yaml.ScalarNode):
                # For some numbers PyYAML needs quadratic time.
                if node.tag.endswith((":int", ":float")) and len(node.value) > _MAX_NUMBER_CHARS:
                    raise ValueError(f"a number has more than {_MAX_NUMBER_CHARS} characters")
                return 1
            is_mapping = isinstance(node, yaml.MappingNode)
            children = [child for pair in node.value for child in pair] if is_mapping else node.value
            size = 1 + sum(self._sizes[child] for child in children)
            if size > _MAX_YAML_NODES:
                raise ValueError(_TOO_MANY)
            return size

    return BoundedLoader
