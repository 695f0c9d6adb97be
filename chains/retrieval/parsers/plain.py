r"""Plain text, which keeps the file's own characters; only line ends become "\n"."""

from __future__ import annotations

from pathlib import PurePath

from chains.retrieval.document import Block, ParsedDocument
from chains.retrieval.parsers.decoding import decode as decode
from chains.retrieval.parsers.decoding import decode_with_doubt


def stem(name: str) -> str:
    """Return the file name without folder and suffix, the title of a document that has none."""
    return PurePath(name).stem


def parse_text(name: str, data: bytes) -> ParsedDocument:
    """Parse plain text: one block; the title is the file's name."""
    text, doubt = decode_with_doubt(name, data)
    blocks = (Block(start=0, end=len(text)),)
    return ParsedDocument(text=text, title=stem(name), kind="text", blocks=blocks, partly=doubt)
