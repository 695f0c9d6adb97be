"""Unit vectors of texts, from any LangChain `Embeddings`.

Vectors are float32 rows of length 1, one for each text, so that a dot product is a cosine.

    >>> rows = unit_vectors(WordVectors(), ["a red bridge", "the bridges are red", "a green door"])
    >>> (rows @ rows[0]).round(2).tolist()
    [1.0, 1.0, 0.0]
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
    """Return the vectors [n, d] of `texts`, each of length 1; equal texts are embedded once."""
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
    """Return the z-scores of `values`, or zeros if all values are equal."""
    array = np.asarray(values, dtype=np.float64)
    spread = array.std() if array.size else 0.0
    return (array - array.mean()) / spread if spread > 1e-12 else np.zeros_like(array)


class WordVectors(Embeddings):
    """Bag-of-words vectors, for when no embedder is at hand.

    Each content word is hashed to one of `dimension` counters, and each counter becomes log(1 + count), so a
    cosine measures shared words. The method is feature hashing (Weinberger et al. 2009) without signs.
    """

    def __init__(self, dimension: int = 2048) -> None:
        """Set the number of counters."""
        self.dimension = dimension

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the counters of each text."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the counters of one text."""
        row = np.zeros(self.dimension)
        for word in content_words(text):
            row[zlib.crc32(word.encode()) % self.dimension] += 1
        found: list[float] = np.log1p(row).tolist()
        return found
