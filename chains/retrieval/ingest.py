"""Ingest: changed files are parsed, split, embedded and committed to the manifest.

A thread parses and splits files while the caller's thread embeds and writes. Vectors are committed batch by
batch, before the documents they belong to, so that an ingest that is killed resumes where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Generic, TypeVar

import numpy as np

from chains.retrieval.document import Block, Chunk, ParsedDocument, SourceFile, SourceRecord
from chains.retrieval.embedder import Embedder
from chains.retrieval.errors import EmptyDocument, NothingToIngest, SourceError, UnsupportedFormat
from chains.retrieval.filters import iso_text
from chains.retrieval.manifest import APP_PREFIX, PARSER_VERSION, Manifest
from chains.retrieval.parsing import FileParser, FoundDocument
from chains.retrieval.splitter import Splitter
from chains.retrieval.walk import MAX_FILE_BYTES, Survey

# Chunks that are embedded between two commits, which is the most that a killed ingest embeds again. They are
# sorted by length, so that little padding is computed.
BATCH = 256
# Chunks that may wait, parsed and split, while others are embedded.
_PREFETCH = 2 * BATCH
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedFile:
    """A file that could not be ingested, and why. What the store had of it before is kept."""

    path: str
    error: SourceError

    @property
    def reason(self) -> str:
        """The error's message."""
        return str(self.error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an ingest is.

        store.ingest("docs", progress=lambda p: print(p.files_done, "of", p.files_total))

    Args:
        stage: "scanning" or "embedding".
        files_done: Files that are finished.
        files_total: Files that were found.
        chunks: Chunks embedded so far.
        seconds: Time since the start.
        path: The file that was processed last.
    """

    stage: str
    files_done: int
    files_total: int
    chunks: int
    seconds: float
    path: str = ""

    @property
    def chunks_per_s(self) -> float:
        """Chunks embedded per second so far."""
        return self.chunks / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadFile:
    """A file of which the store has nothing, or (`partly`) not all, and why."""

    path: str
    reason: str
    partly: bool = False


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """What one ingest did, with every path under what happened to it.

    >>> from chains.retrieval import IngestReport
    >>> report = IngestReport(added=("notes.md",), chunks=3, embedded=3, seconds=0.2)
    >>> report.summary()
    '1 added (3 chunks, 3 embedded, 0.2 s)'

    Args:
        added: Paths that are new in the store.
        updated: Paths whose content changed.
        unchanged: Paths whose content did not change.
        deleted: Paths that are gone from the store.
        moved: (old path, new path) of files that were found elsewhere with equal content.
        failed: Files that could not be ingested, with their errors.
        skipped: Paths in a folder that no parser reads, and empty files.
        unread: Every file that was not read, or only in part, with the reason: those of `failed`, those of
            `skipped` that are not empty, what lies in a folder and is not a file (a pipe, a link that leads
            out of it), and files with parts that cannot be read.
        notes: (path, what to know about its text) of files that were read whole, such as those in which
            tracked changes are pending.
        chunks: Chunks written.
        embedded: Vectors computed; the other chunks' vectors were stored already.
        seconds: Wall-clock time.
        dry_run: If set, nothing was written.
    """

    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    moved: tuple[tuple[str, str], ...] = ()
    failed: tuple[FailedFile, ...] = ()
    skipped: tuple[str, ...] = ()
    unread: tuple[UnreadFile, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    chunks: int = 0
    embedded: int = 0
    seconds: float = 0.0
    dry_run: bool = False

    @property
    def changed(self) -> bool:
        """Whether the store changed (or, in a dry run, would change)."""
        return bool(self.added or self.updated or self.deleted or self.moved)

    def raise_if_nothing(self) -> None:
        """Raise the first file's error if every file failed."""
        if self.failed and not (self.added or self.updated or self.unchanged or self.moved):
            raise self.failed[0].error

    def summary(self) -> str:
        """Return one line for people."""
        counts = {
            "added": len(self.added),
            "updated": len(self.updated),
            "moved": len(self.moved),
            "deleted": len(self.deleted),
            "unchanged": len(self.unchanged),
            "skipped": len(self.skipped),
            "failed": len(self.failed),
            "read in part": sum(one.partly for one in self.unread),
        }
        done = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing to do"
        prefix = "would be: " if self.dry_run else ""
        return f"{prefix}{done} ({self.chunks} chunks, {self.embedded} embedded, {self.seconds:.1f} s)"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
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
            "unread": [{"path": one.path, "reason": one.reason, "partly": one.partly} for one in self.unread],
            "notes": [{"path": path, "note": note} for path, note in self.notes],
            "chunks": self.chunks,
            "embedded": self.embedded,
            "seconds": round(self.seconds, 3),
            "dry_run": self.dry_run,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedSource:
    """A source on its way into the manifest.

    `document` is None if there is nothing to write: the file failed (`error`), or its content is what the
    store has (`unchanged`), or it was not parsed in a dry run. `blank` marks a file that is empty and that
    the store does not know. `inside` are the documents in the file, such as the attachments of a mail.
    """

    source: SourceFile
    document: ParsedDocument | None = None
    chunks: Sequence[Chunk] = ()
    error: SourceError | None = None
    unchanged: bool = False
    blank: bool = False
    inside: tuple[PreparedSource, ...] = ()

    @property
    def weight(self) -> int:
        """The number of chunks, at least 1."""
        return max(1, len(self.chunks)) + sum(one.weight for one in self.inside)

    @property
    def documents(self) -> Iterator[PreparedSource]:
        """The source itself, and those inside it."""
        yield self
        yield from self.inside


Metadata = Mapping[str, Any] | Callable[[str], Mapping[str, Any] | None]
"""Metadata for every file of an ingest, or a function that returns that of the file at a path."""


def plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as JSON values; dates and times become ISO texts, and paths become texts.

    A time with a zone is given in UTC, so that texts compare as times do.

    >>> from datetime import date
    >>> plain_metadata({"published": date(2026, 1, 31), "tags": ("a", "b")})
    {'published': '2026-01-31', 'tags': ['a', 'b']}

    Raises:
        TypeError: A name is not a text, or a value has no form in JSON.
    """
    found = {}
    for name, value in metadata.items():
        if not isinstance(name, str):
            raise TypeError(f"expected names of metadata to be texts, found {name!r}; use str(name)")
        found[name] = _plain_value(name, value)
    return found


def _plain_value(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, date):
        return iso_text(value)
    if isinstance(value, Mapping):
        return plain_metadata(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain_value(name, one) for one in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(
        f"expected text, numbers, dates, lists or mappings in the metadata, found {value!r} for {name!r}; "
        "convert it first"
    )


def app_source(name: str, text: str, metadata: Mapping[str, Any]) -> PreparedSource:
    """Return a text that an app adds, as one chunk.

    Raises TypeError if the metadata has no form in JSON, and ValueError for half a surrogate pair.
    """
    refuse_surrogates(text, f"the text {name!r}")
    document = _app_document(text, plain_metadata(metadata))
    source = SourceFile(path=f"{APP_PREFIX}{name}", origin="app")
    return PreparedSource(source=source, document=document, chunks=[_single_chunk(document)])


def refuse_surrogates(text: str, what: str) -> None:
    """Raise ValueError if `text` contains half a surrogate pair, which no encoding can hold."""
    if not text.isascii() and (found := _SURROGATE.search(text)):
        raise ValueError(
            f"expected valid Unicode in {what}, found half a surrogate pair, {found.group()!r}, at character "
            f"{found.start()}; decode the text with errors='replace'"
        )


def _app_document(text: str, metadata: Mapping[str, Any]) -> ParsedDocument:
    # LangChain's loaders count pages from 0, and this store from 1, also where its own chunks come back.
    page = metadata.get("page")
    if isinstance(page, int) and "chunk_id" not in metadata:
        page += 1
    block = Block(start=0, end=len(text), page=page if isinstance(page, int) else None)
    return ParsedDocument(text=text, title="", kind="app", blocks=(block,), metadata=metadata)


def _single_chunk(document: ParsedDocument) -> Chunk:
    """Return an app's text, which is never split, as one chunk."""
    text = document.text
    return Chunk(
        ordinal=0,
        start=0,
        end=len(text),
        text=text,
        title="",
        heading="",
        page=document.blocks[0].page if document.blocks else None,
        tokens=len(text) // 4,
    )


class Ingest:
    """Writes sources to one manifest; the caller has the writer lock. An object is used for one run only."""

    def __init__(
        self,
        manifest: Manifest,
        embedder: Embedder,
        splitter: Splitter,
        parser: FileParser,
        progress: ProgressCallback | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        self._manifest = manifest
        self._embedder = embedder
        self._splitter = splitter
        self._parser = parser
        self._progress = progress
        self._metadata = metadata
        self._started = time.monotonic()
        self._pending: list[PreparedSource] = []
        self._paths: dict[str, list[str]] = {
            name: [] for name in ("added", "updated", "unchanged", "deleted", "skipped")
        }
        self._moved: list[tuple[str, str]] = []
        self._failed: list[FailedFile] = []
        self._unread: list[UnreadFile] = []
        self._notes: list[tuple[str, str]] = []
        self._known_inside: dict[str, list[str]] = {}
        self._files_total = self._files_done = 0
        self._chunks = self._embedded = 0

    # Files

    def run(self, survey: Survey, *, dry_run: bool = False, prune: bool = True) -> IngestReport:
        """Ingest every file of `survey`; with `prune`, remove what disappeared from its folders.

        Raises:
            NothingToIngest: The folders contain no document, and the store has none of theirs.
        """
        known = self._manifest.sources_at(survey.files, [*survey.folders, *survey.named])
        absent = [path for path in known if path not in survey.files and not self._is_inside(path, survey)]
        gone = [path for path in absent if survey.covers(path)] if prune else []
        if not (survey.files or survey.failed or survey.passed_over or gone):
            places = ", ".join(repr(folder) for folder in survey.folders) or "what was named"
            raise NothingToIngest(
                f"expected documents in {places}, found none; name a folder that holds some"
            )
        self._failed += [FailedFile(path=path, error=error) for path, error in survey.failed]
        self._unread += [UnreadFile(path=path, reason=str(error)) for path, error in survey.passed_over]
        self._files_total = len(survey.files)
        changed = self._changed_files(survey, known, "scanning" if dry_run else "embedding")
        prepared = (self._prepare(survey.files[p], known.get(p), dry_run=dry_run) for p in changed)
        if dry_run:
            for item in prepared:
                self._take(item, survey, known, dry_run=True)
        else:
            with Prefetcher(prepared, lambda item: item.weight, _PREFETCH) as prefetched:
                for item in prefetched:
                    self._take(item, survey, known, dry_run=False)
            self._commit()
        self._remove(gone, known, dry_run)
        if self._embedded or self._paths["deleted"]:
            self._manifest.delete_unused_vectors()
        return self._report(dry_run)

    def _is_inside(self, path: str, survey: Survey) -> bool:
        """Return whether a stored path is below a file that was found, and note it there."""
        file = next((above for above in _above(path) if above in survey.files), None)
        if file is not None:
            self._known_inside.setdefault(file, []).append(path)
        return file is not None

    def _changed_files(self, survey: Survey, known: Mapping[str, SourceRecord], stage: str) -> list[str]:
        """Return the files whose size or times differ from what is stored; the others are done."""
        changed = []
        for path in sorted(survey.files):
            record, stat = known.get(path), survey.files[path].stat
            if record and _is_current(record) and stat and stat == record.stat:
                self._note_partly(path, record.partly)
                given = self._given(path, record)
                self._paths["unchanged" if given == record.given else "updated"].append(path)
                if given != record.given and stage == "embedding":
                    self._update_given(path, given)
                self._files_done += 1
                self._notify(stage, path)
            else:
                changed.append(path)
        return changed

    def _given(self, path: str, known: SourceRecord | None) -> Mapping[str, Any]:
        """Return the caller's metadata for a file; without any, what the store has of an earlier ingest."""
        if self._metadata is None:
            return known.given if known else {}
        given = self._metadata(path) if callable(self._metadata) else self._metadata
        return plain_metadata(given or {})

    def _update_given(self, path: str, given: Mapping[str, Any]) -> None:
        for one in (path, *self._known_inside.get(path, ())):
            self._manifest.update_given(one, given)

    def _prepare(self, source: SourceFile, known: SourceRecord | None, *, dry_run: bool) -> PreparedSource:
        """Read, parse and split a file; with `dry_run` it is only read. Runs in the prefetching thread."""
        data = b""
        try:
            data = self._parser.read(source.path, max(MAX_FILE_BYTES, source.size))
            digest = hashlib.blake2b(data, digest_size=20).digest()
            source = replace(source, content_hash=digest, given=self._given(source.path, known))
            if known and _is_current(known) and digest == known.content_hash:
                return PreparedSource(source=source, unchanged=True)
            if dry_run:
                return PreparedSource(source=source)
            first, *inside = (
                self._split(source, found) for found in self._parser.parse_all(source.path, data)
            )
            return replace(first, inside=tuple(inside))
        except SourceError as error:
            blank = isinstance(error, EmptyDocument) and known is None and not data.strip()
            return PreparedSource(source=source, error=error, blank=blank)

    def _split(self, file: SourceFile, found: FoundDocument) -> PreparedSource:
        """Return a document of a file, split; one inside the file has a hash of its own, but no stat."""
        source = file
        if found.path != file.path:
            key = hashlib.blake2b(
                file.content_hash + found.path.removeprefix(file.path).encode(), digest_size=20
            )
            source = replace(file, path=found.path, stat="", content_hash=key.digest())
        return PreparedSource(
            source=source, document=found.document, chunks=self._splitter.split(found.document)
        )

    def _note_partly(self, path: str, partly: str) -> None:
        if partly:
            self._unread.append(UnreadFile(path=path, reason=partly, partly=True))

    def _take(
        self, item: PreparedSource, survey: Survey, known: Mapping[str, SourceRecord], *, dry_run: bool
    ) -> None:
        """Note what happened to a file; a document that is to be written waits for its batch."""
        path = item.source.path
        if item.error is not None:
            # A folder of source code has many files that no parser reads. They are skipped, not reported.
            unread = item.blank or isinstance(item.error, UnsupportedFormat)
            if unread and path not in survey.named and path not in known:
                self._paths["skipped"].append(path)
                if not item.blank:
                    self._unread.append(UnreadFile(path=path, reason=str(item.error)))
            else:
                self._failed.append(FailedFile(path=path, error=item.error))
        elif item.unchanged:
            self._note_partly(path, known[path].partly)
            same = item.source.given == known[path].given
            self._paths["unchanged" if same else "updated"].append(path)
            if not dry_run:
                self._manifest.update_stat(path, item.source.stat, item.source.modified)
                if not same:
                    self._update_given(path, item.source.given)
        else:
            self._paths["updated" if path in known else "added"].append(path)
        if item.document is not None:
            for one in item.documents:
                assert one.document is not None
                self._note_partly(one.source.path, one.document.partly)
            self._notes += [
                (one.source.path, str(one.document.metadata["notes"]))
                for one in item.documents
                if one.document is not None and "notes" in one.document.metadata
            ]
            self._pending.append(item)
            if sum(waiting.weight for waiting in self._pending) >= BATCH:
                self._commit()
            return
        self._files_done += 1
        self._notify("scanning" if dry_run else "embedding", path)

    def _remove(self, gone: list[str], known: Mapping[str, SourceRecord], dry_run: bool) -> None:
        """Remove sources whose files disappeared. A new file with the same content counts as moved."""
        added: dict[bytes, str] = {}
        if gone and not dry_run:
            added = {self._manifest.content_hash(path): path for path in reversed(self._paths["added"])}
            self._manifest.remove(gone)
        vanished = set(gone)
        for path in gone:
            if any(above in vanished for above in _above(path)):
                continue  # It was inside a file that disappeared.
            new = added.pop(known[path].content_hash, None)
            if new is None:
                self._paths["deleted"].append(path)
            else:
                self._moved.append((path, new))
                self._paths["added"].remove(new)

    def _report(self, dry_run: bool) -> IngestReport:
        return IngestReport(
            **{name: tuple(sorted(paths)) for name, paths in self._paths.items()},
            moved=tuple(sorted(self._moved)),
            unread=self._all_unread(),
            notes=tuple(sorted(self._notes)),
            failed=tuple(sorted(self._failed, key=lambda failed: failed.path)),
            chunks=self._chunks,
            embedded=self._embedded,
            seconds=time.monotonic() - self._started,
            dry_run=dry_run,
        )

    def _all_unread(self) -> tuple[UnreadFile, ...]:
        failed = [UnreadFile(path=one.path, reason=one.reason) for one in self._failed]
        return tuple(sorted([*failed, *self._unread], key=lambda one: one.path))

    # Texts of an app, and everything anew

    def add(self, items: Iterable[PreparedSource]) -> None:
        """Embed and commit documents that are split already, in one transaction."""
        self._pending = list(items)
        self._commit()

    def reembed(self) -> None:
        """Split and embed every stored document anew, without reading the files.

        The new vectors are committed batch by batch while the old ones remain searchable. One transaction
        then replaces every chunk and the recorded settings, so that a kill leaves the old store or the new.
        """
        paths = [record.path for record in self._manifest.sources()]
        pending: list[Chunk] = []
        for path in paths:
            pending += self._split_stored(path)
            if len(pending) >= BATCH:
                self._embed(pending, path)
                pending = []
        self._embed(pending, paths[-1] if paths else "")
        with self._manifest.transaction():
            for path in paths:
                chunks = self._split_stored(path)
                self._manifest.replace_chunks(path, chunks, self._keys(chunks))
            self._manifest.set_meta(splitter=self._splitter.config.to_json(), **self._embedder.to_meta())
            self._manifest.forget_removals()
        self._manifest.delete_unused_vectors()

    def _split_stored(self, path: str) -> list[Chunk]:
        document = self._manifest.document(path)
        if document is None:
            return []
        if path.startswith(APP_PREFIX):
            return [_single_chunk(document)]
        return self._splitter.split(document)

    # Vectors, then documents

    def _keys(self, chunks: Iterable[Chunk]) -> list[bytes]:
        embedder = self._embedder.key
        return [chunk.key(embedder) for chunk in chunks]

    def _commit(self) -> None:
        """Embed the pending documents' chunks, then make the documents visible in one transaction."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        last = pending[-1].source.path
        documents = [one for item in pending for one in item.documents]
        self._embed([chunk for one in documents for chunk in one.chunks], last)
        with self._manifest.transaction():
            self._manifest.remove(
                path for item in pending for path in self._known_inside.get(item.source.path, ())
            )
            for one in documents:
                assert one.document is not None
                self._manifest.put_document(one.source, one.document, one.chunks, self._keys(one.chunks))
        self._chunks += sum(len(one.chunks) for one in documents)
        self._files_done += len(pending)
        self._notify("embedding", last)

    def _embed(self, chunks: Sequence[Chunk], path: str) -> None:
        """Compute the vectors that are not stored yet and commit them, one batch per transaction."""
        by_key = dict(zip(self._keys(chunks), chunks, strict=True))
        missing = self._manifest.missing_vectors(by_key)
        order = sorted(missing, key=lambda key: (by_key[key].tokens, key))
        for first in range(0, len(order), BATCH):
            keys = order[first : first + BATCH]
            vectors = self._embedder.embed([by_key[key].embedded_text for key in keys])
            self._manifest.put_vectors(keys, vectors)
            self._embedded += len(keys)
            self._notify("embedding", path)

    def _notify(self, stage: str, path: str) -> None:
        if self._progress is not None:
            self._progress(
                Progress(
                    stage=stage,
                    files_done=self._files_done,
                    files_total=self._files_total,
                    chunks=self._embedded,
                    seconds=time.monotonic() - self._started,
                    path=path,
                )
            )


def _above(path: str) -> Iterator[str]:
    """Yield the paths above an absolute path, the nearest first."""
    while path := path.rpartition("/")[0]:
        yield path


def _is_current(known: SourceRecord) -> bool:
    """Return whether the current parsers would read the stored document the same way."""
    return known.parser == PARSER_VERSION


T = TypeVar("T")
# How long a consumer that fails waits for the item that is being made, before it abandons the thread.
_PATIENCE_S = 2.0


class Prefetcher(Generic[T]):
    """Runs an iterator in a thread, with a bound on the total weight of the items that wait.

    Use it as a context manager, which ends the thread, and iterate over it.

        with Prefetcher(documents, lambda document: len(document.chunks), 512) as prefetched:
            for document in prefetched:
                ...

    A `queue.Queue` is not enough because it is bounded in items, and one file may have 10,000 chunks.

    Args:
        items: Iterated in the thread until it ends or raises; the consumer then gets the exception.
        weight: Returns the weight of an item.
        limit: The thread pauses while items of this total weight wait.
    """

    def __init__(self, items: Iterator[T], weight: Callable[[T], int], limit: int) -> None:
        self._items, self._weight, self._limit = items, weight, limit
        self._changed = threading.Condition()
        self._waiting: deque[tuple[T, int]] = deque()
        self._waiting_weight = 0
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetcher[T]:
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
                self._waiting_weight -= weight
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
                    self._waiting_weight += weight
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._waiting_weight < self._limit or self._stopped)
                    if self._stopped:
                        return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
