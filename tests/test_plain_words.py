"""Checks that docstrings, comments, messages, help and documentation are written in the project's plain words."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[1]

# What outsiders stumbled over, and what to write instead. CONTRIBUTING.md, "Words", has the rules behind it.
WORDS: Final = {
    r"pictur(e|es|ed)": "image, or figure for what a command draws",
    r"folders?": "directory",
    r"data sets?": "dataset",
    r"signs": "characters",
    r"(go|goes|going|went|gone) on": "resume, continue",
    r"anew|afresh": "again",
    r"nobody": "no one; better: say what is missing",
    r"who(so)?ever|whom(so)?ever": "name the reader: callers, users, the writer",
    r"so (many|much) of": "number of",
    r"(one|two|three|four|five|ten|\d+) an? (image|row|question|request|pair)": "per",
    r"of one's own|of one's": "your own",
    r"(is|are|was|were|be|been|being)( not| never)? told": "is reported, is passed, is called with",
    r"(tell|tells|telling) (how|what|which|where|that|the user|it|of)": "report, say",
    r"stands?( (in|on|beside|besides|at|for itself|here|there|still|below|above|outside|with))": "is, is listed in",
    r"(lie|lies|lay|lain) (in|on|at|beside|there|here|under|below|outside|with)": "is in, is stored in",
    r"what (is|are|was|were) asked": "the requests, the questions",
    r"for nothing": "free of charge",
    r"(is|are|was|were) not there": "was not found, does not exist",
    r"(is|are|was|were) none(,|;| that| which| of)": "is not a",
    r"mend(s|ed|ing)?": "fix",
    r"for the sake of|sakes?": "because of, for",
    r"grumbl(e|es|ed)": "warn",
    r"worn|freshest|by and by|now and then|thereof|wherein|herein|hence|heed(s|ed)?|aught|nought": "plain words",
    r"way out": "fix",
    r"where (nobody|nothing|no one|there (is|are|was) (no|none|nothing)|that is not|it is not)": "if",
    r"where (it|they|that|this|he|she) (is|are|was|were|has|have|can|cannot|does|do) ": "if, when",
    r"(each|every one|all) (alike|of a kind)": "equal",
    r"their business|its business": "out of scope",
    r"let it be": "allow",
    r"would have (it|them) be": "wants",
    r"beyond (that|it|one|two|three|\d+)": "more than",
}
_PATTERN: Final = re.compile(
    "|".join(rf"(?P<_{i}>\b(?:{pattern})\b)" for i, pattern in enumerate(WORDS)), re.IGNORECASE
)

# Prompts are part of what other people's data were made with.
_PROMPTS: Final = ("prompts.py", "prompt.py")
# The questions about drawn scenes, and values that are stored in files or published on the Hub: they do not change.
_STORED: Final = {
    "benchmarks/generation.py": ["efficient, no large picture", "10,000 pictures, 256 in flight"],
    "benchmarks/scenes.py": ["picture and PNG"],
    "benchmarks/tables.py": ["efficient, no large picture", "10,000 pictures, 256 in flight"],
    "compact_hf/answers.py": ["not in picture"],
    "compact_hf/capabilities.py": ["reading text in the picture"],
    "compact_hf/evaluation/compact_accuracy/answers.py": ["not in picture"],
    "compact_hf/evaluation/analysis/stats.py": ['"pictures": 1561'],
    "compact_hf/evaluation/questions.py": [", pictures swapped"],
    "compact_hf/evaluation/rows.py": ["several pictures", "no picture"],
    "compact_hf/images/hub_dataset.py": ["leads out of the data set"],
    "compact_hf/methods/compact/truth.py": ["the picture does not support it"],
    "compact_hf/scenes/phrases.py": ["of the picture", "nobody would expect"],
    "compact_hf/scenes/questions.py": ["the picture", "badge worn by"],
    "compact_hf/training/row_screening.py": ["no picture"],
    "student_script/captions.py": ["Describe the picture."],
}
_SQL: Final = re.compile(r"\s*(SELECT|INSERT|CREATE|DELETE|UPDATE|PRAGMA) ")
# Names in docstrings: what is in backticks, and the names of parameters and fields before their types.
_NAMES: Final = re.compile(r"`[^`\n]*`|^ +\*{0,2}\w+(, \*{0,2}\w+)* (?=\()", re.MULTILINE)


class Passage(NamedTuple):
    """A piece of English: where it begins, and its text on one line."""

    path: str
    line: int
    text: str


def find_unplain_words(passage: Passage) -> list[str]:
    """Return a line for each word of the list in a passage, with what to write instead."""
    found = []
    for match in _PATTERN.finditer(passage.text):
        instead = WORDS[list(WORDS)[int((match.lastgroup or "_0")[1:])]]
        found.append(f"{passage.path}:{passage.line}: {match.group()!r} ({instead}): {passage.text[:100]}")
    return found


def _iter_python_passages(path: Path) -> Iterator[Passage]:
    """Yield the comments of a Python file and its strings of several words, docstrings among them."""
    source = path.read_text("utf-8")
    name = path.relative_to(ROOT).as_posix()
    comment: list[str] = []
    start = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            start = start if comment else token.start[0]
            comment.append(token.string.lstrip("#! "))
        elif token.type != tokenize.NL and comment:
            yield Passage(name, start, " ".join(comment))
            comment = []
    for node in _iter_texts(ast.parse(source)):
        text = (
            node.value
            if isinstance(node, ast.Constant)
            else "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
        )
        text = _NAMES.sub(" ", text)
        for stored in _STORED.get(name, ()):
            text = text.replace(stored, " ")
        if " " in text.strip() and not _SQL.match(text):
            yield Passage(name, node.lineno, " ".join(text.split()))


def _iter_texts(tree: ast.AST) -> Iterator[Any]:
    """Yield strings and f-strings, without the values of enums of reasons, which are stored in journals."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            yield node
        elif isinstance(node, ast.ClassDef) and any("Reason" in ast.unparse(base) for base in node.bases):
            yield from _iter_texts(node.body[0])
        else:
            yield from _iter_texts(node)


def _iter_text_passages(path: Path) -> Iterator[Passage]:
    """Yield the paragraphs of a Markdown file or a template, without code, links and the template's own language."""
    text = path.read_text("utf-8")
    text = re.sub(r"^```.*?^```", _keep_lines, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)|https?://\S+|\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", " ", text, flags=re.DOTALL)
    text = re.sub(r'\b(class|id|href|for|style|aria-labelledby)="[^"]*"', " ", text)
    line = 1
    for paragraph in re.split(r"(\n\s*\n)", text):
        if paragraph.strip():
            yield Passage(path.relative_to(ROOT).as_posix(), line, " ".join(paragraph.split()))
        line += paragraph.count("\n")


def _keep_lines(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def _iter_files(pattern: str, *directories: str) -> Iterator[Path]:
    for directory in directories:
        for path in sorted((ROOT / directory).rglob(pattern)):
            if not path.name.endswith(_PROMPTS):
                yield path


PYTHON: Final = [
    *_iter_files("*.py", "compact_hf", "dataset_script", "student_script", "spaces_demo", "benchmarks", "docs"),
]
TEXT: Final = [
    *(ROOT / "docs").glob("*.md"),
    *_iter_files("*.md", "model_card", "spaces_demo"),
    *_iter_files("*.jinja", "compact_hf", "model_card"),
    *ROOT.glob("*.md"),
]


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_comments_and_messages_are_plain(path: Path) -> None:
    assert [line for passage in _iter_python_passages(path) for line in find_unplain_words(passage)] == []


@pytest.mark.parametrize("path", TEXT, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_and_templates_are_plain(path: Path) -> None:
    assert [line for passage in _iter_text_passages(path) for line in find_unplain_words(passage)] == []


def test_help_is_plain() -> None:
    from docs.build_site import format_commands

    text = format_commands().replace("--swap-pictures", "")
    assert find_unplain_words(Passage("compact --help", 1, text)) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A folder of pictures.", ["folder", "pictures"]),
        ("the same command goes on", ["goes on"]),
        ("holds Nobody's images", ["Nobody"]),
        ("three an image, in all that is there", ["three an image"]),
        ("A directory of images; resume the run.", []),
    ],
)
def test_the_list_finds_words_in_any_case(text: str, words: list[str]) -> None:
    found = find_unplain_words(Passage("x.py", 1, text))
    assert [line.split("'")[1] if "'" in line else line for line in found] == words


def test_a_comment_over_several_lines_is_one_passage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text("# Where it is closed, the run goes\n# on.\nx = f'a {1} folder'\n")
    lines = [line for passage in _iter_python_passages(path) for line in find_unplain_words(passage)]
    assert ["goes on" in line or "folder" in line or "Where it is" in line for line in lines] == [True, True, True]
