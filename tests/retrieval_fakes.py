"""An embedder without a model, and folders to ingest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from langchain_core.embeddings import Embeddings

DIMENSION = 64
DOCS = {
    "garden.md": "# Garden\n\n## Tomatoes\n\nTomatoes need sun.\n\n## Roses\n\nRoses like clay soil.\n",
    "harbour.txt": "The harbour opens at six. Ferries leave every hour.\n",
    "deep/lamp.md": "# Lighthouse\n\nThe lamp is lit at dusk by the keeper.\n",
}


class WordEmbeddings(Embeddings):
    """Each word is a fixed random direction and a text is their sum, so texts that share words are near."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.embedded: list[str] = []
        self._words: dict[str, np.ndarray] = {}

    def _word(self, word: str) -> np.ndarray:
        if word not in self._words:
            digest = hashlib.blake2b(f"{self.seed} {word}".encode(), digest_size=8).digest()
            self._words[word] = np.random.default_rng(int.from_bytes(digest)).standard_normal(DIMENSION)
        return self._words[word]

    def embed_query(self, text: str) -> list[float]:
        words = re.findall(r"\w+", text.lower()) or ["nothing"]
        total = np.sum([self._word(word) for word in words], axis=0)
        return (total / np.linalg.norm(total)).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.embedded.extend(texts)
        return [self.embed_query(text) for text in texts]


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write text files under `folder`, including its sub-folders."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(paths: tuple[str, ...]) -> list[str]:
    """Return the last part of each path."""
    return [os.path.basename(path) for path in paths]


@contextlib.contextmanager
def memory_folder() -> Iterator[Path]:
    """Yield a folder whose writes do not reach a disk, if the system has one.

    Killing a process does not affect the page cache, so a disk would show nothing more and take several
    times as long.
    """
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared, prefix="store-") as folder:
        yield Path(folder)
