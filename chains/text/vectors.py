"""Unit vectors of texts.

Knows LangChain's `Embeddings` interface and numpy; knows no model. Vectors are float32, one row a text, of
length 1, so a dot product is a cosine.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from chains.text.words import content_words

Vectors = NDArray[np.float32]


def unit_vectors(embeddings: Embeddings, texts: Sequence[str]) -> Vectors:
    """Return the vectors [n, d] of `texts`, each scaled to length 1 (a zero vector stays zero)."""
    if not texts:
        return np.zeros((0, 1), dtype=np.float32)
    unique = list(dict.fromkeys(texts))
    rows = np.asarray(embeddings.embed_documents(unique), dtype=np.float32)
    place = {text: row for row, text in enumerate(unique)}
    return unit(rows)[[place[text] for text in texts]]


def unit(rows: NDArray[Any]) -> Vectors:
    """Return `rows` (one vector or many), each scaled to length 1; a zero vector stays zero."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(length == 0, 1.0, length), dtype=np.float32)


def standardized(values: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
    """Return z-scores of `values`; all zero where they do not differ."""
    array = np.asarray(values, dtype=np.float64)
    spread = array.std() if array.size else 0.0
    return (array - array.mean()) / spread if spread > 1e-12 else np.zeros_like(array)


class WordVectors(Embeddings):
    """Bag-of-words vectors, for use where no embedder is at hand: stems hashed into `dimension` counts.

    Cosines of these are shared words, damped by log(1 + count); source of the method: Weinberger et al.,
    "Feature hashing" (2009), without signs.
    """

    def __init__(self, dimension: int = 2048) -> None:
        """Keep the number of counters."""
        self.dimension = dimension

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one row of counters a text."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the counters of one text."""
        row = np.zeros(self.dimension)
        for word in content_words(text):
            row[zlib.crc32(word.encode()) % self.dimension] += 1
        found: list[float] = np.log1p(row).tolist()
        return found
