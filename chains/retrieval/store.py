"""What a store was made with: its embedder and its splitter, recorded once and refused where they differ.

Knows the manifest's settings. Refuses to embed or cut anything itself.

The document store: one folder, one object, everything an app does with local documents.

Composes the manifest, the index, the embedder, the splitter and the parsers; decides nothing that they could
decide. Knows no language model.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.embeddings import Embeddings

from chains.retrieval.chroma import IndexKind, NearestNeighbours
from chains.retrieval.document import ChunkRecord, SourceRecord
from chains.retrieval.embedder import PROBE_COSINE, Embedder, EmbedderIdentity
from chains.retrieval.errors import EmbedderMismatch, EmptyQuery, SplitterMismatch, StoreDamaged
from chains.retrieval.filters import Filter
from chains.retrieval.ingest import Ingest, IngestReport, ProgressCallback
from chains.retrieval.ingest import reembed as embed_anew
from chains.retrieval.langchain import StoreRetriever, StoreVectorStore, app_document, has_lines
from chains.retrieval.manifest import APP_PREFIX, Manifest, WriterLock, marks
from chains.retrieval.parsing import FileParser
from chains.retrieval.search import Fusion, Hit, Reranker, Searcher, SearchMode, SearchOptions
from chains.retrieval.splitter import Splitter, SplitterConfig
from chains.retrieval.verify import (
    VerifyReport,
    export,
    repaired,
    salvage,
    salvage_if_damaged,
    stats,
    verified,
)
from chains.retrieval.walk import MAX_FILE_BYTES, survey
from chains.retrieval.watch import watch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chains.retrieval.minilm import Precision


def recorded_precision(manifest: Manifest) -> Precision:
    """The precision of the packaged model that a store was made with; float32 for a new one."""
    recorded = manifest.meta("embedder")
    return EmbedderIdentity.from_json(recorded).precision if recorded else "float32"


class StoreSettings:
    """The settings of one store; `wanted` is the splitter that was asked for, None to go on as before."""

    def __init__(self, manifest: Manifest, embedder: Embedder, wanted: SplitterConfig | None) -> None:
        self._manifest = manifest
        self._embedder = embedder
        self._wanted = wanted
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
            self._splitter = self._made(config)
        return self._splitter

    def _made(self, config: SplitterConfig | None) -> Splitter:
        return Splitter(self._embedder.spans, config or SplitterConfig(max_tokens=self._embedder.budget))

    def renew(self) -> None:
        """Takes today's settings in place of the recorded ones, for a store that is embedded anew."""
        self._splitter = self._made(self._wanted)
        self._checked = True

    def record(self) -> None:
        """Notes the settings of a new store; raises EmbedderMismatch or SplitterMismatch otherwise."""
        self.check_embedder()
        recorded, config = self._manifest.meta("splitter"), self.splitter.config.to_json()
        if recorded is not None and recorded != config and not self._manifest.empty:
            raise SplitterMismatch(
                f"expected the chunk settings this store was made with, {recorded}, found {config}; "
                "run `agent ingest --reembed` to cut everything anew"
            )
        if recorded != config:
            self._manifest.set_meta(splitter=config)
        if self._manifest.meta("embedder") is None:
            self._manifest.set_meta(**self._embedder.recorded())

    def check_embedder(self) -> None:
        """Raises EmbedderMismatch for an embedder that did not make the store's vectors."""
        recorded = self._manifest.meta("embedder")
        if self._checked or recorded is None:
            return
        wanted, found = EmbedderIdentity.from_json(recorded), self._embedder.identity
        if wanted == found and self._same_probe():
            self._checked = True
            return
        if not self._manifest.empty:
            raise EmbedderMismatch(
                f"expected the embedder this store was made with, {_shown(wanted)}, found {_shown(found)}; "
                "ask with the former, or embed everything anew with the latter: `agent ingest --reembed`"
            )
        self._manifest.execute("DELETE FROM meta WHERE key IN ('embedder', 'probe')")

    def _same_probe(self) -> bool:
        """Whether an embedder without a hash of its weights still gives the recorded vector."""
        probe = self._manifest.meta("probe")
        if not probe:
            return True
        stored = np.frombuffer(bytes.fromhex(probe), dtype=np.float32)
        return float(stored @ self._embedder.probe) >= PROBE_COSINE


def _shown(embedder: EmbedderIdentity) -> str:
    return f"{embedder.name!r} ({embedder.dimension} dimensions, {embedder.precision})"


class DocumentStore:
    """Documents in a folder, ingested, searched and cited.

    Args:
        path: the store's folder, made where it is not there. embeddings: any LangChain Embeddings; by default
        the packaged all-MiniLM-L6-v2, loaded on first use. chroma: the URL of a Chroma server that holds the
        index instead of the folder; the manifest stays in `path`. index: "chroma" (kept and asked, with the
        exact index as its stand-in) or "exact" (numpy only). fusion: how hybrid search joins its halves.
        splitter: how documents are cut; precision: of the packaged embedder, see `MiniLM`; both by default as
        the store was made.

    Raises:
        StoreTooNew, StoreDamaged, StoreUnwritable: the folder cannot be used; nothing in it was changed.
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
        self._embedder = Embedder(embeddings, precision or recorded_precision(self._manifest))
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
        """Lets go of every file and child process; the store object cannot be used again."""
        self._parser.close()
        self._nearest.close()
        self._manifest.close()

    @contextlib.contextmanager
    def _writing(self, purpose: str) -> Iterator[None]:
        with self._lock.held(purpose):
            self._manifest.reopen()
            yield

    # writing --------------------------------------------------------------------------------------------

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
        """Brings the store up to these files and folders; unchanged files are not read again.

        Args:
            paths: files and folders; folders are walked.
            progress: called with a `Progress` after each file and each batch.
            dry_run: reports what would be done and writes nothing.
            reembed: embeds everything in the store anew first, where embedder or splitter changed.
            max_file_bytes: larger files fail with DocumentTooLarge.
            prune: sources that vanished from a folder that is walked are removed.

        Raises:
            SourceNotFound, SourceUnreadable, NothingToIngest: about `paths` as a whole; a file's is reported.
            StoreLocked, EmbedderMismatch, SplitterMismatch, StoreUnwritable, IndexUnavailable: none is lost.
        """
        found = survey([paths] if isinstance(paths, str | os.PathLike) else list(paths), max_file_bytes)
        if dry_run:
            return self._ingest(progress).run(found, dry_run=True, prune=prune)
        with self._writing("ingest"):
            self._nearest.check_server()
            if reembed:
                self._settings.renew()
                embed_anew(self._manifest, self._embedder, self._settings.splitter, self._ingest(progress))
            self._settings.record()
            report = self._ingest(progress).run(found, prune=prune)
            self._nearest.sync()
        return report

    def _ingest(self, progress: ProgressCallback | None = None) -> Ingest:
        return Ingest(self._manifest, self._embedder, self._settings.splitter, self._parser, progress)

    def remove(self, source: str | os.PathLike[str]) -> list[str]:
        """Removes a source, or all sources under a folder; returns the paths that were there."""
        given = os.fspath(source)
        full = os.path.realpath(given)
        with self._writing("remove"):
            chosen = self._manifest.sources_at({given, full, f"{APP_PREFIX}{given}"}, [full])
            return self._removed(chosen)

    def _removed(self, paths: Iterable[str]) -> list[str]:
        removed = self._manifest.remove(paths)
        if removed:
            self._manifest.tidy()
            self._nearest.sync()
        return removed

    def add_texts(self, texts: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
        """Adds or replaces texts that are no files: id to (text, metadata of JSON values)."""
        items = [app_document(name, text, metadata) for name, (text, metadata) in texts.items()]
        with self._writing("add"):
            self._nearest.check_server()
            self._settings.record()
            self._ingest().add(items)
            self._nearest.sync()

    def delete_texts(self, ids: Iterable[str]) -> list[str]:
        """Deletes texts that `add_texts` added; returns the ids that were there."""
        with self._writing("delete"):
            removed = self._removed(f"{APP_PREFIX}{name}" for name in ids)
        return [path.removeprefix(APP_PREFIX) for path in removed]

    def watch(self, paths: Iterable[str | os.PathLike[str]], **options: Any) -> None:
        """Ingests `paths` now and after every change; see `chains.retrieval.watch.watch`."""
        watch(self, paths, **options)

    # reading --------------------------------------------------------------------------------------------

    def search(self, query: str, options: SearchOptions | None = None) -> list[Hit]:
        """The passages that answer `query` best; raises EmptyQuery, BadFilter, EmbedderMismatch."""
        self._settings.check_embedder()
        return self._searcher.search(query, options or SearchOptions())

    def search_by_vector(self, vector: NDArray[np.float32], k: int) -> list[Hit]:
        """The `k` passages nearest to a unit vector, float32 [dimension]."""
        self._settings.check_embedder()
        return self._searcher.by_vector(vector, k)

    def chunks(self, ids: Sequence[str]) -> list[ChunkRecord]:
        """The stored passages of these chunk ids."""
        return self._manifest.chunks(f"chunk_id IN ({marks(ids)})", list(ids))

    @property
    def vectorstore(self) -> StoreVectorStore:
        """LangChain's VectorStore over this store."""
        return StoreVectorStore(self)

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
        """A LangChain retriever over the store; see `SearchOptions` for what the arguments mean."""
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

    def best_score(self, question: str) -> float:
        """The cosine of the chunk nearest to `question`, -1 where the store is empty; raises EmptyQuery."""
        if not question.strip():
            raise EmptyQuery(f"expected a question, found {question!r}; ask with at least one word")
        if self._manifest.empty:
            return -1.0
        self._settings.check_embedder()
        found = self._nearest.search(self._embedder.embed_query(question), 1)
        return found[0][1] if found else -1.0

    def sources(self) -> list[SourceRecord]:
        """Every document in the store, by path."""
        return self._manifest.sources()

    @property
    def empty(self) -> bool:
        """Whether no passage is in it; costs the same however many there are."""
        return self._manifest.empty

    def text(self, source: str, start: int = 0, end: int | None = None) -> str:
        """A span of a document's stored text, offsets in characters; empty where there is no such source."""
        texts = (self._manifest.text(path, start, end) for path in (source, f"{APP_PREFIX}{source}"))
        return next((text for text in texts if text is not None), "")

    def line(self, hit: Hit) -> int | None:
        """The line of the file that a passage starts on, from 1; None for formats without lines."""
        before = self.text(hit.chunk.source, 0, hit.start) if has_lines(hit.chunk.kind) else None
        return None if before is None else before.count("\n") + 1

    @property
    def embeddings(self) -> Embeddings:
        """The LangChain embeddings of this store; loads the model on first use."""
        return self._embedder.embeddings

    @property
    def generation(self) -> int:
        """Rises with every change to the store, by whichever process."""
        return self._manifest.generation

    def stats(self) -> dict[str, Any]:
        """Counts, settings and sizes on disk (bytes, counted in blocks)."""
        return stats(self._manifest, self._nearest)

    def export(self) -> Iterator[dict[str, Any]]:
        """Every document with its text and chunks (vectors left out) as JSON values, by path."""
        return export(self._manifest)

    def verify(self, repair: bool = False) -> VerifyReport:
        """Checks texts, chunks, vectors, words and index against each other; with `repair` mends what it can.

        A document whose stored text or vectors are damaged is dropped by the repair and named in `lost`. An
        index that is not clean is rebuilt. A manifest that does not open is for `DocumentStore.repair`.
        """
        if not repair:
            return verified(self._manifest, self._nearest)
        with self._writing("verify"):
            return repaired(self._manifest, self._nearest)

    @classmethod
    def repair(cls, path: str | os.PathLike[str], **options: Any) -> VerifyReport:
        """Saves what can be read of the store at `path`, even where it does not open, then verifies it.

        `options` are those of `DocumentStore`. The damaged manifest is kept beside the new one.
        """
        folder = Path(path)
        with WriterLock(folder).held("repair"):
            lost = salvage_if_damaged(folder)
        try:
            with cls(folder, **options) as store:
                report = store.verify(repair=True)
        except StoreDamaged:
            # Damage that the page check passes over shows when the rows are read.
            with WriterLock(folder).held("repair"):
                lost = sorted({*lost, *salvage(folder)})
            with cls(folder, **options) as store:
                report = store.verify(repair=True)
        return replace(report, lost=tuple(sorted({*report.lost, *lost})))
