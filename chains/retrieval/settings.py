"""What a store was made with: its embedder and its splitter, recorded once and refused where they differ.

Knows the manifest's settings. Refuses to embed or cut anything itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chains.retrieval.embedder import PROBE_COSINE, Embedder, EmbedderIdentity
from chains.retrieval.errors import EmbedderMismatch, SplitterMismatch
from chains.retrieval.manifest import Manifest
from chains.retrieval.splitter import Splitter, SplitterConfig

if TYPE_CHECKING:
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
