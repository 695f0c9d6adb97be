"""Brings the manifest up to a set of files: what changed is parsed, cut, embedded and committed.

Knows documents and vectors by the parts it is given. Refuses to know indexes and search. Files are prepared
in a thread, some batches ahead; embedding and every write stay in the caller's. Vectors are committed batch
by batch before their documents, so that a killed ingest resumes where it stood.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from chains.retrieval.ahead import Ahead
from chains.retrieval.document import Block, Chunk, ParsedDocument
from chains.retrieval.embedder import Embedder
from chains.retrieval.errors import NothingToIngest, UnsupportedFormat
from chains.retrieval.manifest import Manifest
from chains.retrieval.parsing import FileParser
from chains.retrieval.preparing import Cut, Preparation, Prepared, is_current
from chains.retrieval.records import FileFacts, SourceRecord
from chains.retrieval.report import IngestReport, Progress, ProgressCallback, Tally
from chains.retrieval.splitter import Splitter
from chains.retrieval.walk import Survey

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
