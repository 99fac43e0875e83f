"""Defines the small parts that all pages share: a number with its name, and a command with its output."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """A number with its name.

    Attributes:
        label (`str`): name of the number, such as "images with questions".
        value (`str`): the number as text, such as "187 of 200".
        note (`str`): what the reader should know about it; may be empty.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A command or a piece of code, with its purpose, and its real output if it was run.

    Attributes:
        purpose (`str`): one line that says what it is for.
        code (`str`): the command or code.
        output (`str`): what it printed; empty if it was not run.
    """

    purpose: str
    code: str
    output: str = ""
