"""Turns the bytes of one file into text with structure, with one function a format, chosen by content.

`parse(payload)` runs in a limited child process. It and every parser take and return plain JSON values (apart
from the file's bytes) and keep no state. A new format is one function in a parser module and one line in each
table here. Parser modules are imported when the first document of their kind turns up.
"""

from __future__ import annotations

import codecs
import importlib
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import SourceError
from chains.retrieval.parsers.decoding import looks_binary
from chains.retrieval.parsers.sniff import sniff

__all__ = ["IN_PROCESS", "KINDS", "kind_of", "parse", "parser_for"]

Parser = Callable[[str, bytes], ParsedDocument]

_SOURCE = (
    ".py .pyi .js .mjs .cjs .jsx .ts .tsx .java .kt .scala .go .rs .c .h .cc .cpp .cxx .hpp .hh .cs .rb .php"
    " .pl .lua .r .jl .swift .m .sh .bash .zsh .fish .ps1 .sql .zig .nim .ex .exs .erl .hs .ml"
    " .clj .el .vim .cu .cuh .proto .dart"
)
_TEXT = ".txt .text .log .conf .adoc .asciidoc .env .properties .css .scss"
_SUFFIXES = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".rst": "rst",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".mhtml": "mhtml",
    ".mht": "mhtml",
    ".xml": "xml",
    ".pdf": "pdf",
    **dict.fromkeys((".docx", ".docm", ".dotx", ".dotm"), "docx"),
    **dict.fromkeys((".pptx", ".pptm", ".ppsx", ".ppsm", ".potx", ".potm"), "pptx"),
    **dict.fromkeys((".xlsx", ".xlsm", ".xltx", ".xltm"), "xlsx"),
    ".xls": "xls",
    ".xlsb": "xlsb",
    **dict.fromkeys((".csv", ".tsv", ".tab"), "csv"),
    **dict.fromkeys((".odt", ".ott", ".fodt"), "odt"),
    **dict.fromkeys((".ods", ".ots", ".fods"), "ods"),
    **dict.fromkeys((".odp", ".otp", ".fodp"), "odp"),
    ".rtf": "rtf",
    ".epub": "epub",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".eml": "eml",
    ".mbox": "mbox",
    ".msg": "msg",
    ".ipynb": "ipynb",
    **dict.fromkeys((".yaml", ".yml"), "yaml"),
    **dict.fromkeys((".toml", ".ini", ".cfg"), "toml"),
    ".org": "org",
    **dict.fromkeys((".tex", ".ltx"), "tex"),
    **dict.fromkeys((".srt", ".vtt"), "subtitles"),
    **dict.fromkeys((".ics", ".ical"), "ics"),
    **dict.fromkeys(_SOURCE.split(), "source"),
    **dict.fromkeys(_TEXT.split(), "text"),
}
_PARSERS = {
    "text": "plain:parse_text",
    "source": "source:parse_source",
    "markdown": "markdown:parse_markdown",
    "rst": "rst:parse_rst",
    "html": "html:parse_html",
    "mhtml": "html:parse_mhtml",
    "xml": "xmldata:parse_xml",
    "pdf": "pdf:parse_pdf",
    "docx": "word:parse_docx",
    "pptx": "slides:parse_pptx",
    "xlsx": "spreadsheets:parse_xlsx",
    "xls": "spreadsheets:parse_xls",
    "xlsb": "spreadsheets:parse_xlsb",
    "csv": "delimited:parse_csv",
    "odt": "opendocument:parse_odt",
    "ods": "opendocument:parse_ods",
    "odp": "opendocument:parse_odp",
    "rtf": "rtf:parse_rtf",
    "epub": "html:parse_epub",
    "json": "data:parse_json",
    "jsonl": "data:parse_jsonl",
    "eml": "mail:parse_eml",
    "mbox": "mail:parse_mbox",
    "msg": "mail:parse_msg",
    "ipynb": "notebook:parse_ipynb",
    "yaml": "data:parse_yaml",
    "toml": "data:parse_toml",
    "org": "markup:parse_org",
    "tex": "markup:parse_tex",
    "subtitles": "subtitles:parse_subtitles",
    "ics": "subtitles:parse_ics",
}
KINDS = frozenset(_PARSERS)
# These are text formats that are read by linear code of our own. All others are parsed in a limited child.
IN_PROCESS = frozenset({"text", "markdown", "rst", "source"})
# Formats that are not text. A text file whose name ends like one of them is taken for what its text is.
_CONTAINERS = frozenset(
    {"pdf", "docx", "pptx", "xlsx", "xls", "xlsb", "epub", "odt", "ods", "odp", "msg", "rtf"}
)
_SNIFF_BYTES = 8192


def kind_of(name: str, data: bytes | None = None) -> str | None:
    r"""Return the kind of a file, or None if no parser reads it.

    Marks of a format count first (a PDF is one whatever its name is), then the structure of a text that is
    not named after a more special kind, then the name's ending; any other text is "text". Without `data` the
    ending alone counts.

    >>> kind_of("contract.txt", b"%PDF-1.7"), kind_of("1700.M1P2.host:2,S", b"From: a@b\nSubject: Tea\n\n")
    ('pdf', 'eml')
    """
    ending = _SUFFIXES.get(PurePath(name).suffix.lower())
    if data is None:
        return ending
    content = sniff(data)
    if content.sure:
        return content.kind if content.kind in KINDS else None
    if content.kind in KINDS and (ending in (None, "text") or ending in _CONTAINERS):
        return content.kind
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if ending is None and (marked or not looks_binary(data[:_SNIFF_BYTES])):
        return "text"
    return ending


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
