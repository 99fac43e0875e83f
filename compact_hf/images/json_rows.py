"""Reads the rows of a JSON list or of JSON lines as a stream, one row in memory at a time.

    [{...}, {...}]          a JSON list, as in llava_v1_5_mix665k.json
    {...}\\n{...}\\n          JSON lines: one object per line

The first character of the file decides, and not its name. A byte order mark, which some editors on Windows write, is
skipped. An error names the file, and the line or row in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from compact_hf.errors import UsageError

SUFFIXES: Final = (".json", ".jsonl")
"""Extensions, in lower case, of the names of files with rows."""

_CHUNK_CHARS: Final = 2**14
_BYTE_ORDER_MARK: Final = "\ufeff"
_WHITESPACE: Final = re.compile(r"[ \t\r\n]*")
_MAX_TOKEN_CHARS: Final = 16
"""A token that the end of a buffer cut, other than a string, is shorter: `-Infinity`, an escape, a literal."""
_DECODER: Final = json.JSONDecoder()
_ADVICE: Final = "give a JSON list, or JSON lines with one object per line, in UTF-8"


def iter_json_rows(file: Path) -> Iterator[Any]:
    """Yield the rows of a JSON list or of JSON lines.

    Args:
        file (`Path`): the file.

    Raises:
        UsageError: the file cannot be read, or is not valid; the rows before the error have been yielded.
    """
    is_list = check_json_rows(file)
    try:
        if is_list:
            with file.open(encoding="utf-8-sig", newline="\n") as stream:
                yield from _iter_list(stream, file)
        else:
            with file.open("rb") as lines:
                yield from _iter_lines(lines, file)
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): {_ADVICE}") from None


def check_json_rows(file: Path) -> bool:
    """Return whether a file begins like a JSON list, and not like JSON lines.

    Args:
        file (`Path`): the file; only its beginning is read.

    Raises:
        UsageError: the file begins like neither, or cannot be read.
    """
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            start = stream.read(4096).removeprefix(_BYTE_ORDER_MARK).lstrip()[:1]
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): {_ADVICE}") from None
    if start not in ("[", "{"):
        problem = f"it begins with {start!r}" if start else "it is empty"
        raise UsageError(f"{file} has no rows that can be read ({problem}): {_ADVICE}")
    return start == "["


def _iter_lines(lines: IO[bytes], file: Path) -> Iterator[Any]:
    """Yield the row of each line that is not empty."""
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            row = _replace_surrogates(json.loads(text), text)
        except (ValueError, RecursionError) as error:
            raise _invalid(file, f"line {number}", error) from None
        yield row


def _iter_list(stream: IO[str], file: Path) -> Iterator[Any]:
    """Yield the items of a JSON list. The file is decoded in chunks, to which an item that was cut is extended."""
    buffer = _Buffer(stream)
    index = 0
    try:
        buffer.skip("[")
        while not buffer.skip("]"):
            if index and not buffer.skip(","):
                raise ValueError(
                    "expected a comma or ] after the row before" if buffer.peek() else "the list has no end"
                )
            row, text = buffer.decode()
            yield _replace_surrogates(row, text)
            index += 1
        if buffer.peek():
            raise ValueError("there is more text after the list")
    except (ValueError, RecursionError) as error:
        raise _invalid(file, f"row {index}, line {buffer.line}", error) from None


class _Buffer:
    """A part of a text, from the position that is read next.

    Args:
        stream (`IO[str]`): the text.

    Attributes:
        line (`int`): number of the line of that position, from 1.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._text = ""
        self._position = 0
        self._is_complete = False
        self.line = 1

    def peek(self) -> str:
        """Return the next character that is not white space, or an empty string at the end."""
        while True:
            self._advance(_WHITESPACE.match(self._text, self._position).end())  # type: ignore[union-attr]
            if self._position < len(self._text) or not self._extend():
                return self._text[self._position : self._position + 1]

    def skip(self, character: str) -> bool:
        """Skip a character if it is the next one, and return whether it is."""
        if self.peek() != character:
            return False
        self._advance(self._position + 1)
        return True

    def decode(self) -> tuple[Any, str]:
        """Return the JSON value at this position with its text, and go behind it.

        Raises:
            ValueError: there is none.
            RecursionError: it is nested too deeply.
        """
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _MAX_TOKEN_CHARS
                length = error.pos - self._position
                if is_cut and self._extend():
                    continue
                # `_extend` moves the position.
                self._advance(self._position + length)
                has_ended = error.msg.startswith("Unterminated") or not self.peek()
                raise ValueError("the file ends inside it" if has_ended else error.msg) from None
            # A number at the end of the text may be longer.
            if end < len(self._text) or not self._extend():
                text = self._text[self._position : end]
                self._advance(end)
                return value, text

    def _advance(self, position: int) -> None:
        self.line += self._text.count("\n", self._position, position)
        self._position = position

    def _extend(self) -> bool:
        """Drop what was read, append a chunk, and return False if the text has ended."""
        if self._is_complete:
            return False
        rest = self._text[self._position :]
        # As much as there is already, so that a value of any length is decoded in few attempts.
        chunk = self._stream.read(max(_CHUNK_CHARS, len(rest)))
        self._is_complete = not chunk
        self._text, self._position = rest + chunk, 0
        return bool(chunk)


def _replace_surrogates(row: Any, text: str) -> Any:
    """Return the row with `?` for each half of a surrogate pair, which no other file could contain."""
    # Only an escape can make one.
    if "\\u" not in text:
        return row
    return json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))


def _invalid(file: Path, position: str, error: ValueError | RecursionError) -> UsageError:
    """Return the error for a file that is not valid at a position."""
    match error:
        case RecursionError():
            reason = "it is nested too deeply"
        case UnicodeDecodeError():
            reason = f"{error.reason} in UTF-8"
        case json.JSONDecodeError():
            reason = error.msg
        case _:
            reason = str(error)
    return UsageError(f"{file}, {position}: not valid JSON ({reason}): download or write the file again")
