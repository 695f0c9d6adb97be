"""The document store: one folder, one object, everything an app does with local documents.

Composes the manifest, the index, the embedder, the splitter and the parsers; decides nothing that they could
decide. Knows no language model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings

from chains.retrieval.embedder import PROBE_COSINE, Embedder, EmbedderIdentity
from chains.retrieval.errors import EmbedderMismatch, EmptyQuery, SplitterMismatch
from chains.retrieval.filters import Filter
from chains.retrieval.fusion import Fusion
from chains.retrieval.ingest import Ingest
from chains.retrieval.lock import WriterLock
from chains.retrieval.manifest import Manifest
from chains.retrieval.nearest import IndexKind, NearestNeighbours
from chains.retrieval.parsing import FileParser
from chains.retrieval.records import SourceRecord
from chains.retrieval.reembed import reembed
from chains.retrieval.report import IngestReport, ProgressCallback
from chains.retrieval.rerank import Reranker
from chains.retrieval.retriever import StoreRetriever, has_lines
from chains.retrieval.search import Hit, Searcher, SearchMode, SearchOptions
from chains.retrieval.splitter import Splitter, SplitterConfig
from chains.retrieval.walk import MAX_FILE_BYTES, survey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DocumentStore:
    """Documents in a folder, ingested, searched and cited.

    Args:
        path: the store's folder, made where it is not there. embeddings: any LangChain Embeddings; by default
        the packaged all-MiniLM-L6-v2, loaded on first use. chroma: the URL of a Chroma server that holds the
        index instead of the folder; the manifest stays in `path`. index: "chroma" (kept and asked, with the
        exact index as its stand-in) or "exact" (numpy only). splitter: how documents are cut; by default as
        the store was made. fusion: how hybrid search joins its halves.

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
    ) -> None:
        self.path = Path(path)
        self._embedder = Embedder(embeddings)
        self._manifest = Manifest(self.path)
        self._lock = WriterLock(self.path)
        self._nearest = NearestNeighbours(self._manifest, index, chroma)
        self._searcher = Searcher(self._manifest, self._nearest, self._embedder, fusion)
        self._wanted_splitter = splitter
        self._parser = FileParser()
        self._embedder_checked = False

    def __enter__(self) -> DocumentStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of every file and child process; the store object cannot be used again."""
        self._parser.close()
        self._nearest.close()
        self._manifest.close()

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
            SourceNotFound, SourceUnreadable, NothingToIngest: about `paths` as a whole; errors of single
            files
                are in the report.
            StoreLocked, EmbedderMismatch, SplitterMismatch, StoreUnwritable, IndexUnavailable: nothing is
            lost.
        """
        given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        found = survey(given, max_file_bytes)
        if dry_run:
            return self._ingest(progress).run(found, dry_run=True, prune=prune)
        with self._lock.held("ingest"):
            self._nearest.check_server()
            if reembed:
                self._reembed(progress)
            self._record_settings()
            report = self._ingest(progress).run(found, prune=prune)
            self._nearest.sync()
        return report

    def _reembed(self, progress: ProgressCallback | None) -> None:
        self.__dict__.pop("_splitter", None)
        config = self._wanted_splitter or SplitterConfig(max_tokens=self._embedder.budget)
        self._splitter = Splitter(self._embedder.spans, config)
        reembed(self._manifest, self._embedder, self._splitter, self._ingest(progress))
        self._embedder_checked = True

    def _ingest(self, progress: ProgressCallback | None = None) -> Ingest:
        return Ingest(self._manifest, self._embedder, self._splitter, self._parser, progress)

    def remove(self, source: str | os.PathLike[str]) -> list[str]:
        """Removes a source, or all sources under a folder; returns the paths that were there."""
        given = os.fspath(source)
        full = os.path.realpath(given)
        names = {given, full, f"app:{given}"}
        with self._lock.held("remove"):
            chosen = [
                r.path
                for r in self.sources()
                if r.path in names or r.path.startswith(full.rstrip(os.sep) + os.sep)
            ]
            removed = self._manifest.remove(chosen)
            if removed:
                self._manifest.drop_unused_vectors()
                self._nearest.sync()
        return removed

    def _record_settings(self) -> None:
        self._check_embedder()
        recorded = self._manifest.meta("splitter")
        config = self._splitter.config.to_json()
        if recorded is not None and recorded != config and self._manifest.count():
            raise SplitterMismatch(
                f"expected the chunk settings this store was made with, {recorded}, found {config}; "
                "run `agent ingest --reembed` to cut everything anew"
            )
        if recorded != config:
            self._manifest.set_meta(splitter=config)
        if self._manifest.meta("embedder") is None:
            self._manifest.set_meta(**self._embedder.recorded())

    def _check_embedder(self) -> None:
        """Refuses an embedder that did not make the store's vectors."""
        recorded = self._manifest.meta("embedder")
        if self._embedder_checked or recorded is None:
            return
        wanted, found = EmbedderIdentity.from_json(recorded), self._embedder.identity
        same = wanted == found
        if same and not found.weights_sha256 and (probe := self._manifest.meta("probe")):
            import numpy as np

            stored: NDArray[np.float32] = np.frombuffer(bytes.fromhex(probe), dtype=np.float32)
            same = float(stored @ self._embedder.probe) >= PROBE_COSINE
        if not same and self._manifest.count():
            raise EmbedderMismatch(
                f"expected the embedder this store was made with, {wanted.name!r} ({wanted.dimension} "
                f"dimensions), found {found.name!r} ({found.dimension}); run `agent ingest --reembed`"
            )
        if not same:
            self._manifest.execute("DELETE FROM meta WHERE key IN ('embedder', 'probe')")
            return
        self._embedder_checked = True

    @cached_property
    def _splitter(self) -> Splitter:
        recorded = self._manifest.meta("splitter")
        config = self._wanted_splitter
        if config is None and recorded is not None:
            config = SplitterConfig.from_json(recorded)
        if config is None:
            config = SplitterConfig(max_tokens=self._embedder.budget)
        return Splitter(self._embedder.spans, config)

    # reading --------------------------------------------------------------------------------------------

    def search(self, query: str, options: SearchOptions | None = None) -> list[Hit]:
        """The passages that answer `query` best; raises EmptyQuery, BadFilter, EmbedderMismatch."""
        self._check_embedder()
        return self._searcher.search(query, options or SearchOptions())

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
        if self._manifest.count() == 0:
            return -1.0
        self._check_embedder()
        found = self._nearest.search(self._embedder.embed_query(question), 1)
        return found[0][1] if found else -1.0

    def sources(self) -> list[SourceRecord]:
        """Every document in the store, by path."""
        return self._manifest.sources()

    def text(self, source: str, start: int = 0, end: int | None = None) -> str:
        """A span of a document's stored text, offsets in characters; empty where there is no such source."""
        found = self._manifest.text(source, start, end)
        return found if found is not None else self._manifest.text(f"app:{source}", start, end) or ""

    def line(self, hit: Hit) -> int | None:
        """The line of the file that a passage starts on, from 1; None for formats without lines."""
        if not has_lines(hit.chunk.kind):
            return None
        return (self._manifest.text(hit.chunk.source, 0, hit.start) or "").count("\n") + 1

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
        recorded = self._manifest.meta("embedder")
        sources = self.sources()
        return {
            "path": str(self.path),
            "documents": len(sources),
            "chunks": self._manifest.count(),
            "characters": self._manifest.execute("SELECT coalesce(sum(length(text)), 0) FROM sources")[0][0],
            "kinds": {
                kind: sum(s.kind == kind for s in sources) for kind in sorted({s.kind for s in sources})
            },
            "generation": self.generation,
            "index": self._nearest.state(),
            "embedder": EmbedderIdentity.from_json(recorded).name if recorded else None,
            "splitter": self._manifest.meta("splitter"),
            "bytes_on_disk": sum(
                f.stat().st_blocks * 512 for f in self.path.rglob("*") if f.is_file() and not f.is_symlink()
            ),
        }
