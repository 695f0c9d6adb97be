"""Source code, with one block per definition: Python by its syntax tree, other languages line by line.

The text is the file's own, so an offset also gives a line of the file. Code is never run or imported.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import PurePath

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers.builder import Heading, sections
from chains.retrieval.parsers.plain import decode

# A definition at the margin, or one level in for methods, in the common curly-brace and scripting languages.
_MODIFIERS = (
    "export|default|public|private|protected|internal|static|final|abstract|async|unsafe|extern|inline|virtual|"
    r"override|local|data|sealed|open|pub(?:\([a-z]+\))?"
)
_WORDS = (
    "class|interface|trait|struct|enum|union|impl|fn|func|function|def|sub|module|namespace|package|type|object|"
    "defmodule|defp|macro|procedure|record|protocol|extension|"
    r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:TABLE|VIEW|FUNCTION|INDEX)"
)
_DEFINITION = re.compile(
    rf"(?P<indent>[ ]{{0,4}}|\t?)(?:(?:{_MODIFIERS})\s+)*(?P<word>{_WORDS})\b\s*(?P<name>[^\n{{;=]{{0,80}})",
    re.IGNORECASE,
)


def parse_source(name: str, data: bytes) -> ParsedDocument:
    """Parse source code: one block per definition, with its qualified name as heading."""
    text = decode(name, data)
    headings: list[Heading] | None = None
    if PurePath(name).suffix in {".py", ".pyi"}:
        headings = _python(text)
    if headings is None:
        headings = list(_by_lines(text))
    return ParsedDocument(
        text=text,
        title=PurePath(name).name,
        kind="source",
        blocks=sections(headings, len(text)),
        metadata={"language": PurePath(name).suffix.lstrip(".").lower()},
    )


def _python(text: str) -> list[Heading] | None:
    """Return the classes, functions and methods of a Python file, or None if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the code may have invalid escapes
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    offsets = [0]
    for line in text.split("\n"):
        offsets.append(offsets[-1] + len(line) + 1)
    return sorted(_definitions(tree, offsets, 1), key=lambda heading: heading.start)


def _definitions(node: ast.AST, offsets: list[int], level: int) -> Iterator[Heading]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        line = min([child.lineno, *(d.lineno for d in child.decorator_list)])
        word = "class" if isinstance(child, ast.ClassDef) else "def"
        yield Heading(offsets[line - 1], offsets[child.lineno], level, f"{word} {child.name}")
        if isinstance(child, ast.ClassDef) and level < 4:
            yield from _definitions(child, offsets, level + 1)


def _by_lines(text: str) -> Iterator[Heading]:
    offset = 0
    for line in text.split("\n"):
        match = _DEFINITION.match(line[:400])
        if match and match["name"].strip() and not line.lstrip().startswith(("//", "#", "--", "*")):
            level = 2 if match["indent"] else 1
            label = " ".join(f"{match['word']} {match['name']}".split())[:80].rstrip(" (")
            yield Heading(offset, offset + len(line) + 1, level, label)
        offset += len(line) + 1
