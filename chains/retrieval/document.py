"""What a parser hands over and what a splitter makes of it.

Knows text, offsets and headings. Knows nothing of files, tokens, vectors or databases. Offsets are characters
into `ParsedDocument.text`, which is what the store keeps and what every citation points into.

Rows of the manifest as frozen values: sources, chunks, changes.

Pure data; no SQL and no search.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

# Kinds whose text is the file's own, so that an offset also gives a line of the file.
LINE_KINDS = frozenset({"markdown", "text", "rst", "source", "csv", "jsonl"})


# NUL ends a text inside SQLite, and half a surrogate pair has no UTF-8; each is replaced by one character.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A stretch of the text that belongs together: a section, a page, a slide, a sheet, a definition.

    `start` and `end` are character offsets into the document's text; `heading` is the path of headings down
    to it, joined with " > "; `page` counts from 1 where the format has pages.
    """

    start: int
    end: int
    heading: str = ""
    page: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedDocument:
    """The text of one file with its structure; `metadata` is what the file says of itself (author, date)."""

    text: str
    title: str
    kind: str
    blocks: tuple[Block, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_payload(self) -> dict[str, Any]:
        """The document as plain JSON values, to cross a process boundary."""
        blocks = [[b.start, b.end, b.heading, b.page] for b in self.blocks]
        return {
            "text": self.text,
            "title": self.title,
            "kind": self.kind,
            "blocks": blocks,
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> ParsedDocument:
        """The document that `to_payload` wrote; raises ValueError where offsets leave the text."""
        text = _UNSTORABLE.sub("\ufffd", str(payload["text"]))
        blocks = []
        for start, end, heading, page in payload["blocks"]:
            if not 0 <= int(start) <= int(end) <= len(text):
                raise ValueError(f"expected offsets within 0..{len(text)}, found {start!r}..{end!r}")
            heading = _UNSTORABLE.sub("\ufffd", str(heading))
            blocks.append(Block(start=int(start), end=int(end), heading=heading, page=page))
        return cls(
            text=text,
            title=_UNSTORABLE.sub("\ufffd", str(payload["title"])),
            kind=str(payload["kind"]),
            blocks=tuple(blocks),
            metadata=dict(payload["metadata"]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A passage of a document that is embedded, found and cited as one.

    `text` is `document.text[start:end]`; `tokens` its length in the embedder's tokens, the header that is
    embedded with it included.
    """

    ordinal: int
    start: int
    end: int
    text: str
    title: str
    heading: str
    page: int | None
    tokens: int

    @property
    def embedded_text(self) -> str:
        """What the embedder reads: where the passage stands, then the passage."""
        header = chunk_header(self.title, self.heading)
        return f"{header}\n{self.text}" if header else self.text

    def key(self, embedder_id: str) -> bytes:
        """The name of this chunk's vector: 20 bytes over the embedder and the embedded text."""
        digest = hashlib.blake2b(digest_size=20, person=b"chunk-vector")
        digest.update(embedder_id.encode())
        digest.update(b"\0")
        digest.update(self.embedded_text.encode("utf-8", "surrogatepass"))
        return digest.digest()


def chunk_header(title: str, heading: str) -> str:
    """Title and heading path as one line, the title left out where the path starts with it."""
    if not heading or heading == title:
        return title
    if heading.startswith(f"{title} > "):
        return heading
    return f"{title} > {heading}" if title else heading


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What is known of a file before it is parsed: path, size in bytes, times in seconds, content hash."""

    path: str
    size: int
    modified: float
    stat: str
    content_hash: bytes = b""
    origin: str = "file"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRecord:
    """One ingested document as the store lists it; `modified` and `ingested` are seconds since the epoch."""

    path: str
    origin: str
    kind: str
    title: str
    size: int
    modified: float
    ingested: float
    chunks: int
    content_hash: bytes
    stat: str
    parser: int
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON values, hash in hexadecimal."""
        return {
            "path": self.path,
            "origin": self.origin,
            "kind": self.kind,
            "title": self.title,
            "size": self.size,
            "modified": self.modified,
            "ingested": self.ingested,
            "chunks": self.chunks,
            "content_hash": self.content_hash.hex(),
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkRecord:
    """One stored passage; `row` is the manifest's key, `chunk_id` the name that outlives it."""

    row: int
    chunk_id: str
    source: str
    origin: str
    kind: str
    ordinal: int
    start: int
    end: int
    title: str
    heading: str
    page: int | None
    text: str
    modified: float
    metadata: Mapping[str, Any] = field(default_factory=dict)
