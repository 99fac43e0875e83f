"""Makes control characters visible in text from outside: file names, replies, messages of servers and libraries.

Everything that the command prints passes through here (cli/console.py), so that no text can change the colors of a
terminal, move its cursor, or hide and reorder other text.
"""

from __future__ import annotations

import re
from typing import Final

# Control characters, surrogates, and the invisible characters that reorder or hide text. Joiners, which several scripts
# and emoji need, and all kinds of spaces are left alone.
_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)


def escape_controls(text: str) -> str:
    r"""Return a text in which control characters are visible: `\x1b` instead of the character that starts a color.

    Line ends and tabs are kept.

    Args:
        text (`str`): any text.
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def escape_line(text: str) -> str:
    r"""Return a text on one line, with visible control characters; a line end becomes `\n`.

    Args:
        text (`str`): any text.
    """
    return escape_controls(text).replace("\n", r"\n")
