"""Reads the rows of a JSON list or of JSON lines as a stream, one row in memory at a time.

    [{...}, {...}]          a JSON list, as in llava_v1_5_mix665k.json
    {...}\\n{...}\\n          JSON lines: one object per line

The first character of the file decides, and not its name. A byte order mark, which some editors on Windows write, is
skipped. An error names the file, and the line or row in it.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from compact_hf.errors import UsageError
from compact_hf.parsing import NestingGuard, parse_json
from compact_hf.regular_files import open_regular

SUFFIXES: Final = (".json", ".jsonl")
"""Extensions, in lower case, of the names of files with rows."""

_BYTE_ORDER_MARK: Final = "\ufeff"
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
            with open_regular(file) as stream:
                yield from _iter_list(stream, file)
        else:
            with open_regular(file) as lines:
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
        with open_regular(file) as stream:
            text = stream.read(4096).decode(errors="replace")
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): {_ADVICE}") from None
    start = text.removeprefix(_BYTE_ORDER_MARK).lstrip()[:1]
    if start not in ("[", "{"):
        problem = f"it begins with {start!r}" if start else "it is empty"
        raise UsageError(f"{file} has no rows that can be read ({problem}): {_ADVICE}")
    return start == "["


def _iter_lines(lines: BinaryIO, file: Path) -> Iterator[Any]:
    """Yield the row of each line that is not empty."""
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            row = _replace_surrogates(parse_json(text), text)
        except ValueError as error:
            raise _invalid(file, f"line {number}", error) from None
        yield row


def _iter_list(stream: BinaryIO, file: Path) -> Iterator[Any]:
    """Yield the items of a JSON list."""
    import ijson

    if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        stream.seek(0)
    number = 0
    try:
        for row in ijson.items(NestingGuard(stream), "item", use_float=True):
            yield row
            number += 1
    except (ijson.JSONError, ValueError) as error:
        raise _invalid(file, f"row {number}", error) from None


def _replace_surrogates(row: Any, text: str) -> Any:
    """Return the row with `?` for each half of a surrogate pair, which no other file could contain."""
    # Only an escape can make one.
    if "\\u" not in text:
        return row
    return json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))


def _invalid(file: Path, position: str, error: Exception) -> UsageError:
    """Return the error for a file that is not valid at a position."""
    match error:
        case UnicodeDecodeError():
            reason = f"{error.reason} in UTF-8"
        case json.JSONDecodeError():
            reason = error.msg
        case _:
            # The following lines quote the file; bytes, if it is not UTF-8.
            text = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
            reason = text.strip().partition("\n")[0].strip()
    return UsageError(f"{file}, {position}: not valid JSON ({reason}): download or write the file again")
