"""Rows of the manifest as frozen values: sources, chunks, changes.

Pure data; no SQL and no search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What happened to the set of visible chunks since a generation; `full` means: forget what you had."""

    generation: int
    full: bool
    removed: Sequence[int]
    added: NDArray[np.int64]
    vectors: NDArray[np.float32]
