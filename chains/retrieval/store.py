"""The document store: one folder, one object, and everything an app does with local documents.

`DocumentStore` connects manifest, index, embedder, splitter and parsers. No language model is involved.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings

from chains.retrieval.chroma import IndexKind, NearestNeighbours
from chains.retrieval.document import LINE_KINDS, ChunkRecord, SourceRecord
from chains.retrieval.embedder import Embedder, EmbedderIdentity
from chains.retrieval.errors import EmbedderMismatch, EmptyQuery, SplitterMismatch, StoreDamaged
from chains.retrieval.filters import Filter
from chains.retrieval.ingest import Ingest, IngestReport, ProgressCallback, app_source
from chains.retrieval.langchain import StoreRetriever, StoreVectorStore
from chains.retrieval.manifest import APP_PREFIX, Manifest, WriterLock
from chains.retrieval.parsing import FileParser
from chains.retrieval.search import Fusion, Hit, Reranker, Searcher, SearchMode, SearchOptions
from chains.retrieval.splitter import Splitter, SplitterConfig
from chains.retrieval.verify import VerifyReport, repair_store, salvage, salvage_if_damaged, verify_store
from chains.retrieval.walk import MAX_FILE_BYTES, survey
from chains.retrieval.watch import ErrorCallback, ReportCallback, watch_paths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chains.retrieval.minilm import Precision

_REEMBED = "store.ingest(paths, reembed=True)"


class DocumentStore:
    """Documents in a folder: ingested, searched and cited.

        with DocumentStore("store") as store:
            print(store.ingest("docs").summary())
            for hit in store.search("When do the ferries sail?"):
                print(hit.chunk.source, store.line(hit), hit.text[:80])

    Args:
        path: The store's folder, created if it does not exist.
        embeddings: Any LangChain Embeddings. By default the packaged all-MiniLM-L6-v2, loaded on first use.
        chroma: The URL of a Chroma server to hold the index instead of the folder. The manifest stays in
            `path`.
        index: "chroma" maintains and uses a Chroma index, with exact search as its stand-in; "exact" uses
            numpy only.
        splitter: How documents are split; by default as the store was made.
        fusion: How hybrid search combines dense and keyword scores.
        precision: The arithmetic of the packaged embedder, see `MiniLM`; by default as the store was made.

    Raises:
        StoreTooNew, StoreDamaged, StoreUnwritable: The folder cannot be used. Nothing in it was changed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        embeddings: Embeddings | None = None,
        chroma: str | None = None,
        *,
        index: IndexKind = "chroma",
        splitter: SplitterConfig | None = None,
        fusion: Fusion | None = None,
        precision: Precision | None = None,
    ) -> None:
        self.path = Path(path)
        self._manifest = Manifest(self.path)
        recorded = self._manifest.meta("embedder")
        made_with = EmbedderIdentity.from_json(recorded).precision if recorded else "float32"
        self._embedder = Embedder(embeddings, precision or made_with)
        self._lock = WriterLock(self.path)
        self._nearest = NearestNeighbours(self._manifest, index, chroma)
        self._searcher = Searcher(self._manifest, self._nearest, self._embedder, fusion)
        self._settings = StoreSettings(self._manifest, self._embedder, splitter)
        self._parser = FileParser()

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
            yield

    def _ingest(self, progress: ProgressCallback | None = None) -> Ingest:
        return Ingest(self._manifest, self._embedder, self._settings.splitter, self._parser, progress)

    def ingest(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        progress: ProgressCallback | None = None,
        dry_run: bool = False,
        reembed: bool = False,
        max_file_bytes: int = MAX_FILE_BYTES,
        prune: bool = True,
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

        Raises:
            SourceNotFound, SourceUnreadable, NothingToIngest: `paths` as a whole cannot be ingested. Problems
                with single files are in the report.
            StoreLocked, EmbedderMismatch, SplitterMismatch, StoreUnwritable, IndexUnavailable: The store
                cannot be written; what it has is kept.
        """
        found = survey([paths] if isinstance(paths, str | os.PathLike) else list(paths), max_file_bytes)
        if dry_run:
            return self._ingest(progress).run(found, dry_run=True, prune=prune)
        with self._writing("ingest"):
            self._nearest.check_server()
            if reembed:
                self._settings.renew()
                self._ingest(progress).reembed()
            self._settings.record()
            report = self._ingest(progress).run(found, prune=prune)
            self._nearest.sync()
        return report

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

        Args:
            texts: (text, metadata) for each id. The metadata must be JSON values.
        """
        items = [app_source(name, text, metadata) for name, (text, metadata) in texts.items()]
        with self._writing("add"):
            self._nearest.check_server()
            self._settings.record()
            self._ingest().add(items)
            self._nearest.sync()

    def delete_texts(self, ids: Iterable[str]) -> list[str]:
        """Delete texts that `add_texts` added; return the ids that existed."""
        with self._writing("delete"):
            removed = self._remove(f"{APP_PREFIX}{name}" for name in ids)
        return [path.removeprefix(APP_PREFIX) for path in removed]

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
        files = [path for path in manifest.folder.rglob("*") if path.is_file() and not path.is_symlink()]
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
            "embedder": embedder.name if embedder else None,
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
