"""Brings the manifest up to a set of files: what changed is parsed, cut, embedded and committed.

Knows files, documents and vectors by the parts it is given. Refuses to know indexes and search. Vectors are
committed batch by batch before their documents, so that a killed ingest resumes where it stood.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from chains.retrieval.document import Block, Chunk, ParsedDocument
from chains.retrieval.embedder import Embedder
from chains.retrieval.errors import EmptyDocument, NothingToIngest, SourceError, UnsupportedFormat
from chains.retrieval.manifest import PARSER_VERSION, Manifest
from chains.retrieval.parsing import FileParser
from chains.retrieval.records import FileFacts, SourceRecord
from chains.retrieval.report import IngestReport, Progress, ProgressCallback, Tally
from chains.retrieval.splitter import Splitter
from chains.retrieval.walk import Survey

# Chunks embedded between two commits: what a killed ingest embeds again at most. Sorted by length within, so
# that few padding tokens are computed.
BATCH = 256


@dataclass(frozen=True, slots=True)
class _Cut:
    """A document that waits for its vectors."""

    facts: FileFacts
    document: ParsedDocument
    chunks: list[Chunk]
    keys: list[bytes]


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
        self._splitter = splitter
        self._parser = parser
        self._progress = progress
        self._tally = Tally()
        self._started = time.monotonic()
        self._waiting: list[_Cut] = []
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
        for path in sorted(found.files):
            self._file(found, path, known.get(path), dry_run)
            self._done += 1
            self._say("scanning" if dry_run else "embedding", path)
        if not dry_run:
            self._flush()
        self._forget(gone, known, dry_run)
        if self._tally.embedded or self._tally.deleted:
            self._manifest.tidy()
        return self._tally.report(time.monotonic() - self._started, dry_run=dry_run)

    def _file(self, found: Survey, path: str, known: SourceRecord | None, dry_run: bool) -> None:
        facts = found.files[path]
        current = known is not None and known.parser == PARSER_VERSION
        if known and current and facts.stat and facts.stat == known.stat:
            self._tally.unchanged.append(path)
            return
        data = b""
        try:
            data = self._parser.read(path)
            facts = replace(facts, content_hash=hashlib.blake2b(data, digest_size=20).digest())
            if known and current and facts.content_hash == known.content_hash:
                self._tally.unchanged.append(path)
                if not dry_run:
                    self._manifest.touch(path, facts.stat, facts.modified)
                return
            if not dry_run:
                self._queue(facts, self._parser.parse(path, data))
        except SourceError as error:
            # In a folder of sources, what no parser reads and empty files are no news.
            blank = isinstance(error, EmptyDocument) and known is None and not data.strip()
            if path not in found.named and (blank or isinstance(error, UnsupportedFormat)):
                self._tally.skipped.append(path)
            else:
                self._tally.fail(path, error)
            return
        (self._tally.updated if known else self._tally.added).append(path)

    def _queue(self, facts: FileFacts, document: ParsedDocument) -> None:
        chunks = self._splitter.split(document)
        embedder = self._embedder.key
        self._waiting.append(_Cut(facts, document, chunks, [chunk.key(embedder) for chunk in chunks]))
        if sum(len(cut.chunks) for cut in self._waiting) >= BATCH:
            self._flush()

    def add(self, items: Iterable[tuple[FileFacts, ParsedDocument, list[Chunk]]]) -> None:
        """Embeds and stores documents that are cut already, in one go."""
        embedder = self._embedder.key
        self._waiting = [_Cut(f, d, chunks, [c.key(embedder) for c in chunks]) for f, d, chunks in items]
        self._flush()

    def stage(self, items: Iterable[list[Chunk]]) -> None:
        """Embeds chunks whose documents become visible later."""
        nowhere = ParsedDocument(text="", title="", kind="", blocks=())
        facts = FileFacts(path="", size=0, modified=0.0, stat="")
        embedder = self._embedder.key
        for chunks in items:
            self._waiting.append(_Cut(facts, nowhere, chunks, [chunk.key(embedder) for chunk in chunks]))
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
