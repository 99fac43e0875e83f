"""Words counts, sizes, commands and options for messages."""

from __future__ import annotations

import shlex


def format_count(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun, such as `1 image` or `1,200 images`.

    Args:
        count (`int`): the count.
        noun (`str`): the noun in the singular.
        plural (`str`, *optional*, defaults to `noun` with an s): the noun in the plural.
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def format_gigabytes(size: int) -> str:
    """Return a number of bytes in gigabytes, without the unit: `0.0074`, `25.4` or `1,280`.

    Args:
        size (`int`): the number of bytes.
    """
    return f"{size / 1e9:,.0f}" if size >= 100e9 else f"{size / 1e9:.3g}"


def format_command(*words: object) -> str:
    """Return a command that can be pasted into a shell, with quotes around words that need them.

    Args:
        words (`object`): the words, such as `"compact", "status", Path("my run")`.
    """
    return shlex.join(map(str, words))


def format_flag(keyword: str) -> str:
    """Return the option of the command line for a keyword of the Python API, such as `--max-cost` for `max_cost`.

    Args:
        keyword (`str`): name of the keyword.
    """
    return f"--{keyword.replace('_', '-')}"
