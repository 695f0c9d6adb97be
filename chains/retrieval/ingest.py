"""What an ingest did, and how far it is: values for a caller to show.

Pure data: nothing here reads files or a store.

Work done ahead of its consumer: an iterator that runs in a thread of its own, a bounded weight in front.

Knows threads. Refuses to know what the items are. Whoever takes the items stays the only one that writes.

Makes a file ready for the manifest: read, hashed, parsed, cut, its vectors named.

Knows files, parsers and the splitter. Refuses to know the manifest: what is stored already it is told, so
that it may run in a thread beside whoever writes.

Embeds a whole store anew, for another embedder or other chunk settings.

Knows the manifest and its parts. The new vectors are staged batch by batch beside the old ones, which stay
searchable; one transaction then swaps every chunk and the recorded settings, so that a kill leaves either the
old store or the new.

Brings the manifest up to a set of files: what changed is parsed, cut, embedded and committed.

Knows documents and vectors by the parts it is given. Refuses to know indexes and search. Files are prepared
in a thread, some batches ahead; embedding and every write stay in the caller's. Vectors are committed batch
by batch before their documents, so that a killed ingest resumes where it stood.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from chains.retrieval.document import Block, Chunk, FileFacts, ParsedDocument, SourceRecord
from chains.retrieval.embedder import Embedder
from chains.retrieval.errors import EmptyDocument, NothingToIngest, SourceError, UnsupportedFormat
from chains.retrieval.manifest import APP_PREFIX, PARSER_VERSION, Manifest
from chains.retrieval.parsing import FileParser
from chains.retrieval.splitter import Splitter
from chains.retrieval.walk import Survey


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


T = TypeVar("T")
# A consumer that gives up waits so long for the item in the making, then leaves it: nothing is done with it.
_PATIENCE_S = 2.0


class Ahead(Generic[T]):
    """Iterates over `items` in a thread; use it as a context manager, which ends the thread.

    Args:
        items: run in the thread, up to the first exception; that is raised to the consumer in its place.
        weight: of one item. limit: the thread rests while items of this total weight wait.
    """

    def __init__(self, items: Iterator[T], weight: Callable[[T], int], limit: int) -> None:
        self._items, self._weight, self._limit = items, weight, limit
        self._changed = threading.Condition()
        self._waiting: deque[tuple[T, int]] = deque()
        self._held = 0
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)

    def __enter__(self) -> Ahead[T]:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(_PATIENCE_S if exception[0] else None)

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                item, weight = self._waiting.popleft()
                self._held -= weight
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for item in self._items:
                weight = self._weight(item)
                with self._changed:
                    self._waiting.append((item, weight))
                    self._held += weight
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._held < self._limit or self._stopped)
                    if self._stopped:
                        return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Cut:
    """A document that waits for its vectors; `keys` name them, one a chunk."""

    facts: FileFacts
    document: ParsedDocument
    chunks: list[Chunk]
    keys: list[bytes]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of a file: a document that is cut, an error, or neither where nothing is to be written.

    `same` says that its content is what the store holds, `blank` that it is empty and always was.
    """

    facts: FileFacts
    known: SourceRecord | None
    cut: Cut | None = None
    error: SourceError | None = None
    same: bool = False
    blank: bool = False

    @property
    def weight(self) -> int:
        """Its chunks, or one."""
        return max(1, len(self.cut.chunks)) if self.cut else 1


class Preparation:
    """Files to cut documents, by one parser, one splitter and the vector names of one embedder."""

    def __init__(self, embedder: Embedder, splitter: Splitter, parser: FileParser) -> None:
        self._embedder, self._splitter, self._parser = embedder, splitter, parser

    def cut(self, facts: FileFacts, document: ParsedDocument, chunks: list[Chunk]) -> Cut:
        """A document with the names of its vectors."""
        embedder = self._embedder.key
        return Cut(facts, document, chunks, [chunk.key(embedder) for chunk in chunks])

    def file(self, facts: FileFacts, known: SourceRecord | None, *, dry_run: bool) -> Prepared:
        """The file as it is now against what the store knows of it; with `dry_run` it is not parsed."""
        data = b""
        try:
            data = self._parser.read(facts.path)
            facts = replace(facts, content_hash=hashlib.blake2b(data, digest_size=20).digest())
            if known and is_current(known) and facts.content_hash == known.content_hash:
                return Prepared(facts, known, same=True)
            if dry_run:
                return Prepared(facts, known)
            document = self._parser.parse(facts.path, data)
            return Prepared(facts, known, self.cut(facts, document, self._splitter.split(document)))
        except SourceError as error:
            blank = isinstance(error, EmptyDocument) and known is None and not data.strip()
            return Prepared(facts, known, error=error, blank=blank)


def is_current(known: SourceRecord) -> bool:
    """Whether today's parsers would read the stored document the same."""
    return known.parser == PARSER_VERSION


def reembed(manifest: Manifest, embedder: Embedder, splitter: Splitter, ingest: Ingest) -> None:
    """Cuts and embeds every stored document anew; the files themselves are not needed."""
    paths = [record.path for record in manifest.sources()]

    def cut() -> Iterator[list[Chunk]]:
        for path in paths:
            yield _chunks(manifest, splitter, path)

    ingest.stage(cut())
    with manifest.transaction():
        for path, chunks in zip(paths, cut(), strict=True):
            manifest.replace_chunks(path, chunks, [chunk.key(embedder.key) for chunk in chunks])
        manifest.set_meta(splitter=splitter.config.to_json(), **embedder.recorded())
        # Vectors of another dimension: whoever held the old ones starts over.
        manifest.set_meta(removed_floor=manifest.generation)
        manifest.execute("DELETE FROM removed")
    manifest.tidy()


def _chunks(manifest: Manifest, splitter: Splitter, path: str) -> list[Chunk]:
    document = manifest.document(path)
    if document is None:
        return []
    if path.startswith(APP_PREFIX):
        return whole(document.text, path.removeprefix(APP_PREFIX))[1]
    return splitter.split(document)


# Chunks embedded between two commits: what a killed ingest embeds again at most. Sorted by length within, so
# that few padding tokens are computed.
BATCH = 256
# Chunks that may wait, parsed and cut, while others are embedded.
_AHEAD = 2 * BATCH


class Ingest:
    """One run over one survey; the caller holds the writer lock."""

    def __init__(
        self,
        manifest: Manifest,
        embedder: Embedder,
        splitter: Splitter,
        parser: FileParser,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._manifest = manifest
        self._embedder = embedder
        self._prepare = Preparation(embedder, splitter, parser)
        self._progress = progress
        self._tally = Tally()
        self._started = time.monotonic()
        self._waiting: list[Cut] = []
        self._total = 0
        self._done = 0

    def run(self, found: Survey, *, dry_run: bool = False, prune: bool = True) -> IngestReport:
        """Ingests every file of `found`; with `prune` what vanished from its folders is removed.

        Raises:
            NothingToIngest: the folders hold no document, and the store none of theirs.
        """
        known = self._manifest.sources_at(found.files, found.folders)
        gone = [path for path in known if path not in found.files and found.covers(path)] if prune else []
        if not (found.files or found.failed or gone):
            places = ", ".join(repr(folder) for folder in found.folders) or "what was named"
            raise NothingToIngest(
                f"expected documents in {places}, found none; name a folder that holds some"
            )
        for path, error in found.failed:
            self._tally.fail(path, error)
        self._total = len(found.files)
        changed = self._look(found, known, "scanning" if dry_run else "embedding")
        files = (self._prepare.file(found.files[p], known.get(p), dry_run=dry_run) for p in changed)
        if dry_run:
            for file in files:
                self._settle(found, file, dry_run=True)
        else:
            with Ahead(files, lambda file: file.weight, _AHEAD) as prepared:
                for file in prepared:
                    self._settle(found, file, dry_run=False)
            self._flush()
        self._forget(gone, known, dry_run)
        if self._tally.embedded or self._tally.deleted:
            self._manifest.tidy()
        return self._tally.report(time.monotonic() - self._started, dry_run=dry_run)

    def _look(self, found: Survey, known: Mapping[str, SourceRecord], stage: str) -> list[str]:
        """The files whose size and times are not those that are stored; the others are done."""
        changed = []
        for path in sorted(found.files):
            record, stat = known.get(path), found.files[path].stat
            if record and is_current(record) and stat and stat == record.stat:
                self._tally.unchanged.append(path)
                self._done += 1
                self._say(stage, path)
            else:
                changed.append(path)
        return changed

    def _settle(self, found: Survey, file: Prepared, *, dry_run: bool) -> None:
        """Notes what became of a file; a document that is cut waits for its batch."""
        path = file.facts.path
        if file.error is not None:
            # In a folder of sources, what no parser reads and empty files are no news.
            dull = file.blank or isinstance(file.error, UnsupportedFormat)
            if dull and path not in found.named:
                self._tally.skipped.append(path)
            else:
                self._tally.fail(path, file.error)
        elif file.same:
            self._tally.unchanged.append(path)
            if not dry_run:
                self._manifest.touch(path, file.facts.stat, file.facts.modified)
        else:
            (self._tally.updated if file.known else self._tally.added).append(path)
        if file.cut is not None:
            self._waiting.append(file.cut)
            if sum(len(cut.chunks) for cut in self._waiting) >= BATCH:
                self._flush()
            return
        self._done += 1
        self._say("scanning" if dry_run else "embedding", path)

    def add(self, items: Iterable[tuple[FileFacts, ParsedDocument, list[Chunk]]]) -> None:
        """Embeds and stores documents that are cut already, in one go."""
        self._waiting = [self._prepare.cut(*item) for item in items]
        self._flush()

    def stage(self, items: Iterable[list[Chunk]]) -> None:
        """Embeds chunks whose documents become visible later."""
        nowhere = ParsedDocument(text="", title="", kind="", blocks=())
        facts = FileFacts(path="", size=0, modified=0.0, stat="")
        for chunks in items:
            self._waiting.append(self._prepare.cut(facts, nowhere, chunks))
            if sum(len(cut.chunks) for cut in self._waiting) >= BATCH:
                self._embed()
                self._waiting.clear()
        self._embed()
        self._waiting.clear()

    def _flush(self) -> None:
        """Embeds what the waiting documents lack, a batch a commit, then shows the documents."""
        self._embed()
        waiting, self._waiting = self._waiting, []
        with self._manifest.transaction():
            for cut in waiting:
                self._manifest.put_document(cut.facts, cut.document, cut.chunks, cut.keys)
        self._tally.chunks += sum(len(cut.chunks) for cut in waiting)
        if waiting:
            self._done += len(waiting)
            self._say("embedding", waiting[-1].facts.path)

    def _embed(self) -> None:
        chunks = {
            key: chunk for cut in self._waiting for key, chunk in zip(cut.keys, cut.chunks, strict=True)
        }
        missing = self._manifest.missing_vectors(list(chunks))
        order = sorted(missing, key=lambda key: (chunks[key].tokens, key))
        for first in range(0, len(order), BATCH):
            keys = order[first : first + BATCH]
            vectors = self._embedder.embed([chunks[key].embedded_text for key in keys])
            self._manifest.put_vectors(keys, vectors)
            self._tally.embedded += len(keys)
            self._say("embedding", self._waiting[-1].facts.path)

    def _forget(self, gone: list[str], known: dict[str, SourceRecord], dry_run: bool) -> None:
        """Removes what vanished; a file found elsewhere with equal content has moved."""
        fresh = (
            {self._hash_of(path): path for path in reversed(self._tally.added)}
            if gone and not dry_run
            else {}
        )
        if gone and not dry_run:
            self._manifest.remove(gone)
        for path in gone:
            new = fresh.pop(known[path].content_hash, None)
            if new is None:
                self._tally.deleted.append(path)
            else:
                self._tally.moved.append((path, new))
                self._tally.added.remove(new)

    def _hash_of(self, path: str) -> bytes:
        rows = self._manifest.execute("SELECT content_hash FROM sources WHERE path = ?", (path,))
        return bytes(rows[0][0]) if rows else b""

    def _say(self, stage: str, path: str) -> None:
        if self._progress is not None:
            self._progress(
                Progress(
                    stage=stage,
                    files_done=self._done,
                    files_total=self._total,
                    chunks=self._tally.embedded,
                    seconds=time.monotonic() - self._started,
                    path=path,
                )
            )


def whole(text: str, chunk_id: str) -> tuple[ParsedDocument, list[Chunk]]:
    """A text that an app added as one document of one chunk."""
    document = ParsedDocument(text=text, title="", kind="app", blocks=(Block(start=0, end=len(text)),))
    chunk = Chunk(
        ordinal=0, start=0, end=len(text), text=text, title="", heading="", page=None, tokens=len(text) // 4
    )
    return document, [chunk]
