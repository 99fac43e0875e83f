"""Checks that docstrings describe only parameters and fields that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import compact_hf

PACKAGE = Path(compact_hf.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
ENTRY = re.compile(r"((?:\*{0,2}\w+, )*\*{0,2}\w+)(?: \(|:)")


def described_names(docstring: str, section: str) -> list[str]:
    """Return the names that the entries of a section describe: `name (type): ...`, or several names with one text."""
    match = re.search(rf"^{section}[^\n]*:\n((?: +.*\n|\s*\n)*)", f"{docstring}\n", re.MULTILINE)
    lines = [line for line in match[1].split("\n") if line.strip()] if match else []
    indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    entries = [ENTRY.match(line.strip()) for line in lines if len(line) - len(line.lstrip()) == indent]
    return [name.strip("* ") for entry in entries if entry for name in entry[1].split(",")]


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    args = function.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
    return {arg.arg for arg in named}


def fields(cls: ast.ClassDef) -> set[str]:
    """Return the names that a class defines in its body or that its methods set."""
    stored = {
        node.attr for node in ast.walk(cls) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    defined = {node.name for node in cls.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    annotated = [node.target for node in cls.body if isinstance(node, ast.AnnAssign)]
    return stored | defined | {target.id for target in annotated if isinstance(target, ast.Name)}


def unknown_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (function or class, name) for each name in a docstring that does not exist."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        docstring = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            inits = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            known = {"Args": parameters(inits[0]) if inits else fields(node)}
            # Other base classes may define more names.
            if {ast.unparse(base) for base in node.bases} <= {"NotebookSummary"}:
                known["Attributes"] = fields(node)
        else:
            known = {"Args": parameters(node)}
        for section, names in known.items():
            yield from ((node.name, name) for name in described_names(docstring, section) if name not in names)


@pytest.mark.parametrize("file", FILES)
def test_every_name_in_a_docstring_exists(file: str) -> None:
    assert not list(unknown_names(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))))


def incomplete_arguments(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (function, problem) if a docstring with `Args:` lacks a parameter, or describes two in one entry."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            if described := described_names(docstring, "Args"):
                yield from ((node.name, name) for name in parameters(node) - set(described) - {"self", "cls"})
                arguments = docstring.partition("Args:")[2].partition("\n\n")[0]
                yield from ((node.name, entry) for entry in re.findall(r"^ {4}\w+, [^(]*\(", arguments, re.MULTILINE))


@pytest.mark.parametrize("file", FILES)
def test_every_parameter_has_an_entry_of_its_own(file: str) -> None:
    assert not list(incomplete_arguments(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))))
