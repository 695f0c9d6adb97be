"""Second looks at what a search found: the Reranker Protocol and a cross-encoder behind it.

Knows a query and texts. Downloads nothing: the cross-encoder is a local folder.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from chains.retrieval.errors import EmbedderUnavailable


@runtime_checkable
class Reranker(Protocol):
    """Judges how well each text answers a query."""

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score a text, higher is better, comparable within the call."""


class CrossEncoderReranker:
    """A sentence-transformers CrossEncoder from a local folder, loaded on first use.

    Args:
        folder: where the model's files lie.
        batch_size: pairs a forward pass takes.
        device: where it runs.

    Raises:
        EmbedderUnavailable: the folder holds no model.
    """

    def __init__(self, folder: str | Path, *, batch_size: int = 16, device: str = "cpu") -> None:
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.device = device
        self._lock = threading.Lock()
        if not (self.folder / "config.json").is_file():
            raise EmbedderUnavailable(
                f"expected a cross-encoder's files in {str(folder)!r}, found no config.json; "
                "give the folder of a downloaded model"
            )

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import CrossEncoder

        return CrossEncoder(str(self.folder), device=self.device, local_files_only=True)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """The model's score of each (query, text); with one label a sigmoid of its logit."""
        if not texts:
            return []
        pairs = [(query, text) for text in texts]
        with self._lock:
            found = self._model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False)
        return [float(score) for score in found]
