"""Turns the bytes of one file into text with structure, with one function a format, chosen by suffix.

`parse(payload)` runs in a limited child process. It and every parser take and return plain JSON values (apart
from the file's bytes) and keep no state. A new format is one function in a parser module and one line in each
table here. Parser modules are imported when the first document of their kind turns up.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import SourceError

__all__ = ["IN_PROCESS", "KINDS", "kind_of", "parse", "parser_for"]

Parser = Callable[[str, bytes], ParsedDocument]

_SOURCE = (
    ".py .pyi .js .mjs .cjs .jsx .ts .tsx .java .kt .scala .go .rs .c .h .cc .cpp .cxx .hpp .hh .cs .rb .php"
    " .pl .lua .r .jl .swift .m .sh .bash .zsh .fish .ps1 .sql .zig .nim .ex .exs .erl .hs .ml"
    " .clj .el .vim .cu .cuh .proto .dart"
)
_TEXT = (
    ".txt .text .log .toml .ini .cfg .conf .yaml .yml .tex .srt .vtt .org .adoc .asciidoc .env .properties"
    " .css .scss"
)
_SUFFIXES = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".rst": "rst",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".xml": "xml",
    ".pdf": "pdf",
    ".docx": "docx",
    ".pptx": "pptx",
    ".xlsx": "xlsx",
    ".csv": "csv",
    ".tsv": "csv",
    ".epub": "epub",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".eml": "eml",
    ".ipynb": "ipynb",
    **dict.fromkeys(_SOURCE.split(), "source"),
    **dict.fromkeys(_TEXT.split(), "text"),
}
_PARSERS = {
    "text": "plain:parse_text",
    "source": "source:parse_source",
    "markdown": "plain:parse_markdown",
    "rst": "plain:parse_rst",
    "html": "html:parse_html",
    "xml": "html:parse_xml",
    "pdf": "pdf:parse_pdf",
    "docx": "office:parse_docx",
    "pptx": "office:parse_pptx",
    "xlsx": "office:parse_xlsx",
    "csv": "office:parse_csv",
    "epub": "html:parse_epub",
    "json": "data:parse_json",
    "jsonl": "data:parse_jsonl",
    "eml": "html:parse_eml",
    "ipynb": "data:parse_ipynb",
}
KINDS = frozenset(_PARSERS)
# These are text formats that are read by linear code of our own. All others are parsed in a limited child.
IN_PROCESS = frozenset({"text", "markdown", "rst", "source"})


def kind_of(name: str) -> str | None:
    """Return the kind that a file name's suffix stands for, or None."""
    return _SUFFIXES.get(PurePath(name).suffix.lower())


def parser_for(kind: str) -> Parser:
    """Return the function that parses `kind`; raise KeyError for a kind that is not one of `KINDS`."""
    module, _, function = _PARSERS[kind].partition(":")
    parser: Parser = getattr(importlib.import_module(f"chains.retrieval.parsers.{module}"), function)
    return parser


def parse(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Parse `{"name": str, "data": bytes, "kind": str}` and return `ParsedDocument.to_payload()`.

    A document that cannot be parsed returns `{"error": class name, "message": str}` instead of raising, so
    that the reason crosses the process boundary.
    """
    name, data, kind = str(payload["name"]), bytes(payload["data"]), str(payload["kind"])
    try:
        return parser_for(kind)(name, data).to_payload()
    except SourceError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except RecursionError:
        return {"error": "DamagedDocument", "message": f"expected {kind}, found it nested too deep to read"}
    except Exception as error:  # any failure of a format's library counts as a damaged document
        found = f"{type(error).__name__}: {error}"[:300]
        return {"error": "DamagedDocument", "message": f"expected readable {kind}, found {found!r}"}
