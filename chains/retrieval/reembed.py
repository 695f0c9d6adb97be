"""Embeds a whole store anew, for another embedder or other chunk settings.

Knows the manifest and its parts. The new vectors are staged batch by batch beside the old ones, which stay
searchable; one transaction then swaps every chunk and the recorded settings, so that a kill leaves either the
old store or the new.
"""

from __future__ import annotations

from collections.abc import Iterator

from chains.retrieval.document import Chunk
from chains.retrieval.embedder import Embedder
from chains.retrieval.ingest import Ingest, whole
from chains.retrieval.manifest import APP_PREFIX, Manifest
from chains.retrieval.splitter import Splitter


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
