"""The values that documents pass through: source, document, chunk.

A `SourceFile` is a file that was found; its parser makes a `ParsedDocument` of `Block`s; the splitter makes
`Chunk`s. `SourceRecord` and `ChunkRecord` are the stored rows of both. All offsets count characters in
`ParsedDocument.text`, which the store keeps and every citation points into.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Kinds whose text is the file's own, so that an offset also gives a line of the file.
LINE_KINDS = frozenset({"markdown", "text", "rst", "source", "csv", "jsonl"})

# SQLite ends a text at NUL, and half of a surrogate pair cannot be encoded as UTF-8. Each such character is
# replaced by one other, so that offsets stay valid.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file before it is parsed, or a text that an app added (`origin="app"`).

    `size` is in bytes and `modified` in seconds since the epoch. `stat` is what must be equal for the file to
    count as unchanged without being read; `content_hash` is empty until the file was read. `given` is the
    metadata that the caller gave.
    """

    path: str
    size: int = 0
    modified: float = 0.0
    stat: str = ""
    content_hash: bytes = b""
    origin: str = "file"
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A part of the text that belongs together: a section, page, slide, sheet or definition.

    `start` and `end` are offsets into the document's text, `heading` is the path of headings that leads to
    the block, joined with " > ", and `page` counts from 1 in formats that have pages.

    `place` says where the block begins in the file itself, as far as the format has such places: `line` (from
    1), `label` (the page number as printed), `sheet`, `row` (from 1), and whatever else a parser can name.
    Values are texts, numbers and booleans. Every chunk of the block gets its `place`; `line` is counted on to
    the line at which the chunk starts.
    """

    start: int
    end: int
    heading: str = ""
    page: int | None = None
    place: Mapping[str, Any] = field(default_factory=dict)


class LineBox(NamedTuple):
    """A printed line of a document with pages: its span in the text and its box on the page.

    `page` counts from 1. The sides are in PDF points (1/72 inch), from the left and the top of the page.
    """

    start: int
    end: int
    page: int
    left: float
    top: float
    right: float
    bottom: float


def overlapping(boxes: Sequence[LineBox], start: int, end: int) -> tuple[LineBox, ...]:
    """Return the boxes whose lines overlap `start` to `end`; `boxes` are in the order of the text."""
    first = bisect.bisect_right(boxes, start, key=lambda box: box.end)
    last = bisect.bisect_left(boxes, end, key=lambda box: box.start)
    return tuple(boxes[first:last])


def line_boxes(rows: Any, length: int) -> tuple[LineBox, ...]:
    """Return boxes from JSON rows, in the order of the text; raise ValueError if one is not valid."""
    found = []
    for start, end, page, *sides in rows:
        box = LineBox(int(start), int(end), int(page), *(round(float(side), 1) for side in sides))
        if not (0 <= box.start <= box.end <= length and all(map(math.isfinite, box[3:]))):
            raise ValueError(f"expected a box of a line within 0..{length}, found {box!r}")
        found.append(box)
    return tuple(sorted(found))


class Enclosed(NamedTuple):
    """A file inside a file, such as an attachment: its name, and its bytes, which are still to be parsed."""

    name: str
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedDocument:
    """The text of one source and its blocks. `metadata` is what the file says about itself (author, date).

    `partly` is empty if all of the file was read; otherwise it says in words what was left out and why.
    `boxes` are the printed lines, in formats with pages. `enclosed` are the files inside the file; they are
    parsed and stored as documents of their own, and the store keeps no bytes of them.
    """

    text: str
    title: str
    kind: str
    blocks: tuple[Block, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    partly: str = ""
    boxes: tuple[LineBox, ...] = ()
    enclosed: tuple[Enclosed, ...] = ()

    def to_payload(self) -> dict[str, Any]:
        """Return the document as plain JSON values, so that it can leave the parser's process."""
        blocks = [
            [b.start, b.end, b.heading, b.page, dict(b.place)]
            if b.place
            else [b.start, b.end, b.heading, b.page]
            for b in self.blocks
        ]
        return {
            "text": self.text,
            "title": self.title,
            "kind": self.kind,
            "blocks": blocks,
            "metadata": dict(self.metadata),
            "partly": self.partly,
            "boxes": [list(box) for box in self.boxes],
            "enclosed": [list(one) for one in self.enclosed],
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> ParsedDocument:
        """Return the document that `to_payload` wrote; raise ValueError if an offset is outside the text."""
        text = _UNSTORABLE.sub("\ufffd", str(payload["text"]))
        blocks = []
        for start, end, heading, page, *place in payload["blocks"]:
            if not 0 <= int(start) <= int(end) <= len(text):
                raise ValueError(f"expected offsets within 0..{len(text)}, found {start!r}..{end!r}")
            heading = _UNSTORABLE.sub("\ufffd", str(heading))
            blocks.append(
                Block(
                    start=int(start),
                    end=int(end),
                    heading=heading,
                    page=page,
                    place=_place(place[0]) if place else {},
                )
            )
        return cls(
            text=text,
            title=_UNSTORABLE.sub("\ufffd", str(payload["title"])),
            kind=str(payload["kind"]),
            blocks=tuple(blocks),
            metadata=dict(payload["metadata"]),
            partly=_UNSTORABLE.sub("\ufffd", str(payload.get("partly", ""))),
            boxes=line_boxes(payload.get("boxes", ()), len(text)),
            enclosed=tuple(Enclosed(str(name), bytes(data)) for name, data in payload.get("enclosed", ())),
        )


def _place(given: Any) -> dict[str, Any]:
    """Return a place with texts that can be stored; raise ValueError if a value is not a plain one."""
    found: dict[str, Any] = {}
    for name, value in dict(given).items():
        if not isinstance(value, str | int | float):
            raise ValueError(f"expected a text or number for {name!r} in a place, found {value!r}")
        found[str(name)] = _UNSTORABLE.sub("\ufffd", value) if isinstance(value, str) else value
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A part of a document that is embedded, found and cited as a unit.

    `text` is `document.text[start:end]`. `tokens` is its length in the embedder's tokens, including the
    header that is embedded with it.
    """

    ordinal: int
    start: int
    end: int
    text: str
    title: str
    heading: str
    page: int | None
    tokens: int
    place: Mapping[str, Any] = field(default_factory=dict)
    boxes: tuple[LineBox, ...] = ()

    @property
    def embedded_text(self) -> str:
        """The text that is embedded: title and heading path on one line, then the chunk."""
        header = chunk_header(self.title, self.heading)
        return f"{header}\n{self.text}" if header else self.text

    def key(self, embedder_id: str) -> bytes:
        """Return the key of this chunk's vector: 20 bytes, from the embedder and the embedded text."""
        digest = hashlib.blake2b(digest_size=20, person=b"chunk-vector")
        digest.update(embedder_id.encode())
        digest.update(b"\0")
        digest.update(self.embedded_text.encode("utf-8", "surrogatepass"))
        return digest.digest()


def chunk_header(title: str, heading: str) -> str:
    """Return title and heading path as one line, without the title if the path starts with it."""
    if not heading or heading == title:
        return title
    if heading.startswith(f"{title} > "):
        return heading
    return f"{title} > {heading}" if title else heading


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRecord:
    """One stored source, as `store.sources()` lists it. Times are in seconds since the epoch.

    `partly` says in words which part of the file was not read and why; it is empty if all of it was. `given`
    is the part of `metadata` that the caller gave.
    """

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
    partly: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON values, the hash in hexadecimal; `partly` only if it is not empty."""
        values = {
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
        return values | {"partly": self.partly} if self.partly else values


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkRecord:
    """One stored chunk. `row` is its key in the manifest; `chunk_id` stays the same in every store.

    `place` and `boxes` are what `Block` and `LineBox` say of the chunk's text.
    """

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
    place: Mapping[str, Any] = field(default_factory=dict)
    boxes: tuple[LineBox, ...] = ()
