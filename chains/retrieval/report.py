"""What an ingest did, and how far it is: values for a caller to show.

Pure data: nothing here reads files or a store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chains.retrieval.errors import SourceError


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedFile:
    """A file that could not be ingested, and why; what the store held of it before is kept."""

    path: str
    error: SourceError

    @property
    def reason(self) -> str:
        """The error's message."""
        return str(self.error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A moment of an ingest.

    stage: "scanning", "embedding", "indexing" or "done"; files and chunks are counts, `seconds` runs from the
    start, `path` is the file that was looked at last.
    """

    stage: str
    files_done: int
    files_total: int
    chunks: int
    seconds: float
    path: str = ""

    @property
    def chunks_per_s(self) -> float:
        """Chunks embedded a second so far."""
        return self.chunks / self.seconds if self.seconds > 0 else 0.0


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """The outcome of one ingest: paths by what happened to them.

    added, updated, unchanged, deleted: paths. moved: (old path, new path) of files found elsewhere with equal
    content. failed: files with their errors. skipped: paths that no parser reads, and empty files, in a
    folder that was walked. chunks: chunks written; embedded: vectors computed, the rest was known; seconds:
    wall-clock time. dry_run: nothing was written.
    """

    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    moved: tuple[tuple[str, str], ...] = ()
    failed: tuple[FailedFile, ...] = ()
    skipped: tuple[str, ...] = ()
    chunks: int = 0
    embedded: int = 0
    seconds: float = 0.0
    dry_run: bool = False

    @property
    def changed(self) -> bool:
        """Whether the store differs (or, in a dry run, would differ) from before."""
        return bool(self.added or self.updated or self.deleted or self.moved)

    def raise_if_nothing(self) -> None:
        """Raises the first file's error where every file failed, for callers that must not go on."""
        if self.failed and not (self.added or self.updated or self.unchanged or self.moved):
            raise self.failed[0].error

    def summary(self) -> str:
        """One line for people."""
        counts = {
            "added": len(self.added),
            "updated": len(self.updated),
            "moved": len(self.moved),
            "deleted": len(self.deleted),
            "unchanged": len(self.unchanged),
            "skipped": len(self.skipped),
            "failed": len(self.failed),
        }
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing to do"
        prefix = "would be: " if self.dry_run else ""
        return f"{prefix}{said} ({self.chunks} chunks, {self.embedded} embedded, {self.seconds:.1f} s)"

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "added": list(self.added),
            "updated": list(self.updated),
            "unchanged": list(self.unchanged),
            "deleted": list(self.deleted),
            "moved": [{"from": old, "to": new} for old, new in self.moved],
            "failed": [
                {"path": f.path, "error": type(f.error).__name__, "reason": f.reason} for f in self.failed
            ],
            "skipped": list(self.skipped),
            "chunks": self.chunks,
            "embedded": self.embedded,
            "seconds": round(self.seconds, 3),
            "dry_run": self.dry_run,
        }


@dataclass(kw_only=True, slots=True)
class Tally:
    """The report while it is being made."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    failed: list[FailedFile] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    chunks: int = 0
    embedded: int = 0

    def fail(self, path: str, error: SourceError) -> None:
        """Notes a file that could not be ingested."""
        self.failed.append(FailedFile(path=path, error=error))

    def report(self, seconds: float, *, dry_run: bool) -> IngestReport:
        """The finished report."""
        return IngestReport(
            added=tuple(sorted(self.added)),
            updated=tuple(sorted(self.updated)),
            unchanged=tuple(sorted(self.unchanged)),
            deleted=tuple(sorted(self.deleted)),
            moved=tuple(sorted(self.moved)),
            failed=tuple(sorted(self.failed, key=lambda failed: failed.path)),
            skipped=tuple(sorted(self.skipped)),
            chunks=self.chunks,
            embedded=self.embedded,
            seconds=seconds,
            dry_run=dry_run,
        )
