"""Unit vectors of texts.

Knows LangChain's `Embeddings` interface and numpy; knows no model. Vectors are float32, one row a text, of
length 1, so a dot product is a cosine.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def unit_vectors(embeddings: Embeddings, texts: Sequence[str]) -> Vectors:
    """Return the vectors [n, d] of `texts`, each scaled to length 1 (a zero vector stays zero)."""
    if not texts:
        return np.zeros((0, 1), dtype=np.float32)
    unique = list(dict.fromkeys(texts))
    rows = np.asarray(embeddings.embed_documents(unique), dtype=np.float32)
    place = {text: row for row, text in enumerate(unique)}
    return normalized(rows)[[place[text] for text in texts]]


def normalized(rows: NDArray[Any]) -> Vectors:
    """Scale each row to length 1."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(length == 0, 1.0, length), dtype=np.float32)


def standardized(values: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
    """Return z-scores of `values`; all zero where they do not differ."""
    array = np.asarray(values, dtype=np.float64)
    spread = array.std() if array.size else 0.0
    return (array - array.mean()) / spread if spread > 1e-12 else np.zeros_like(array)
