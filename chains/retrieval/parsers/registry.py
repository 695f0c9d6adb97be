"""Which suffix is which kind of document, and which function reads that kind.

The only table of formats there is: a new format is one function in a parser module and one line here. Parser
modules are imported when a document of their kind turns up.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import PurePath

from chains.retrieval.document import ParsedDocument

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
    "markdown": "markdown:parse_markdown",
    "rst": "rst:parse_rst",
    "html": "html:parse_html",
    "xml": "html:parse_xml",
    "pdf": "pdf:parse_pdf",
    "docx": "office:parse_docx",
    "pptx": "office:parse_pptx",
    "xlsx": "tables:parse_xlsx",
    "csv": "tables:parse_csv",
    "epub": "epub:parse_epub",
    "json": "data:parse_json",
    "jsonl": "data:parse_jsonl",
    "eml": "mail:parse_eml",
    "ipynb": "data:parse_ipynb",
}
KINDS = frozenset(_PARSERS)
# Plain text of any structure is read by our own linear code; everything else goes through a limited child.
IN_PROCESS = frozenset({"text", "markdown", "rst", "source"})


def kind_of(name: str) -> str | None:
    """The kind that the file name's suffix tells, or None."""
    return _SUFFIXES.get(PurePath(name).suffix.lower())


def parser_for(kind: str) -> Parser:
    """The function that reads `kind`; raises KeyError for a kind that is none of `KINDS`."""
    module, _, function = _PARSERS[kind].partition(":")
    parser: Parser = getattr(importlib.import_module(f"chains.retrieval.parsers.{module}"), function)
    return parser
