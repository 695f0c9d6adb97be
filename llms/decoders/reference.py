"""The reference decoder: forward passes of transformers over a paged KV cache.

It runs every architecture whose cache consists of keys and values. State-space and encoder-decoder models are
refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llms.decoders.base import StepResult, rows_of
from llms.decoders.kv_store import KVShape, SlotStore, StoredSlots
from llms.decoders.reference_plan import PREFILL_CHUNK
from llms.decoders.sampling import Sampling, sample, sample_each
from llms.errors import UnsupportedModel
from llms.threads import bound_spinning

if TYPE_CHECKING:
    from llms.decoders.reference_view import PassLayout


LONG_PASS = 256
"""Number of new tokens from which on a pass gives unused memory of the GPU back. Gathered keys and values
grow with each chunk of a prompt, and PyTorch keeps a block of every size: a prompt of 32,000 tokens had
10.1 GB reserved with 8 layers of Mistral-7B's shape on an H200, and has 3.4 now."""


class ReferenceDecoder(StoredSlots):
    """Decodes with the model's own forward pass. The contract is that of `llms.decoders.base.Decoder`.

    Args:
        model: A causal language model of transformers, on its device. It may be quantized or wrapped by PEFT.
        window: Longest sequence that a slot can hold, in tokens. The default is the model's
            `max_position_embeddings`.
        max_slots: Number of slots. Only slots in use take memory.
        why: The reason why no faster decoder runs this model, for `describe`.

    Raises:
        UnsupportedModel: The architecture has no plain KV cache, or its attention takes no mask.

    Example:
        decoder = ReferenceDecoder(AutoModelForCausalLM.from_pretrained(folder))
        logits = decoder.prefill(0, tokenizer("The capital of France is")["input_ids"])
    """

    def __init__(self, model: Any, *, window: int | None = None, max_slots: int = 64, why: str = "") -> None:
        config = model.config.get_text_config()
        self._attention = getattr(config, "_attn_implementation", "sdpa")
        if self._attention not in ("sdpa", "eager"):
            raise UnsupportedModel(
                f"expected a model loaded with attn_implementation='sdpa' or 'eager', found "
                f"{self._attention!r}; load it again with from_pretrained(..., attn_implementation='sdpa')"
            )
        self._model = model
        self._why = why
        self._config = config
        self.max_slots = max_slots
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        if getattr(model.get_output_embeddings(), "out_features", None):
            self.vocab_size = int(model.get_output_embeddings().out_features)
        self.device = torch.device(model.device)
        if self.device.type == "cpu":
            bound_spinning()
        self.window = int(window or getattr(config, "max_position_embeddings", None) or 2048)
        shape = _kv_shape(model, config, self.device)
        self.bytes_per_token = shape.bytes_per_token
        self._store = SlotStore(shape, max_slots)
        kinds = set(getattr(config, "layer_types", None) or ())
        self._sliding = getattr(config, "sliding_window", None) or 0
        self._kinds = kinds if len(kinds) > 1 else set()
        if kinds == {"full_attention"}:
            self._sliding = 0

    def describe(self) -> str:
        """Return one line for people that names the decoder and the device it runs on."""
        line = f"reference (forward passes of transformers) on {self.device}"
        return f"{line}; no faster one: {self._why}" if self._why else line

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Sequence[int]) -> Tensor:
        """Append tokens in chunks of `PREFILL_CHUNK`. Return the logits after the last one, fp32 [V]."""
        tokens = list(tokens)
        self._check([slot], [tokens])
        logits = torch.empty(0)
        with self._restoring([slot]):
            for start in range(0, len(tokens), PREFILL_CHUNK):
                logits = self._forward([slot], [tokens[start : start + PREFILL_CHUNK]], 1)[0][-1]
        return logits

    @torch.inference_mode()
    def step(
        self,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]] | Tensor,
        sampling: Sequence[Sampling] | None = None,
        all_logits: bool = False,
        given: Tensor | None = None,
    ) -> StepResult:
        """Append 1..k tokens to each slot in one pass."""
        lists, given = rows_of(tokens, given)
        if given is not None:
            lists[: len(given)] = [[int(t)] for t in given.tolist()]
        self._check(slots, lists)
        if sampling is not None:
            self._check_sampling(sampling, len(slots))
        with self._restoring(slots):
            rows = self._forward(list(slots), lists, 0 if all_logits else 1)
            if all_logits:
                return StepResult(
                    rows, *(() if sampling is None else sample_each(rows, sampling, *self._before(slots)))
                )
            last = torch.stack([row[-1] for row in rows]) if len(rows) > 1 else rows[0][-1:]
            chosen = None if sampling is None else sample(last, sampling, *self._before(slots))
            return StepResult(last, chosen)

    def _before(self, slots: Sequence[int]) -> tuple[list[int], list[list[int]]]:
        """Return the number of tokens in each slot, and the tokens."""
        return [self._store.lengths[slot] for slot in slots], [self._store.tokens[slot] for slot in slots]

    def _forward(self, slots: list[int], tokens: list[list[int]], keep: int) -> list[Tensor]:
        """Run the model and return the logits of each slot, fp32 [kept, V].

        Only the block of new tokens is padded, on its left. The last tokens of all rows are then in one
        column, so `logits_to_keep=1` works for rows of different lengths. Padding is never written to the
        cache.
        """
        from llms.decoders.reference_view import PassLayout, SlotCache

        store, width = self._store, max(len(row) for row in tokens)
        for slot, row in zip(slots, tokens, strict=True):
            store.reserve(slot, len(row))
        before, counts = [store.lengths[slot] for slot in slots], [len(row) for row in tokens]
        layout = PassLayout([store.tensors(slot) for slot in slots], before, counts)
        ids = torch.tensor([[row[0]] * (width - len(row)) + row for row in tokens], device=self.device)
        ends = torch.tensor([[first + count] for first, count in zip(before, counts, strict=True)])
        first = torch.tensor(before)[:, None]
        positions = torch.maximum(ends - width + torch.arange(width), first).to(self.device)
        out: Tensor = self._model(
            input_ids=ids,
            attention_mask=self._mask(positions, layout),
            position_ids=positions,
            past_key_values=SlotCache(store.shape.layers, layout),
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        for slot, row in zip(slots, tokens, strict=True):
            store.append(slot, row)
        if width >= LONG_PASS and self.device.type == "cuda":
            torch.cuda.empty_cache()
        return [out[i, out.shape[1] - (keep or len(row)) :].float() for i, row in enumerate(tokens)]

    def _mask(self, positions: Tensor, layout: PassLayout) -> Tensor | dict[str, Tensor] | None:
        """Return the attention mask in the form that transformers expects."""
        visible = self._visible(positions, layout)
        if visible is None:
            return None
        if self._kinds:
            return {"full_attention": self._form(visible[0]), "sliding_attention": self._form(visible[1])}
        return self._form(visible[1])

    def _visible(self, positions: Tensor, layout: PassLayout) -> tuple[Tensor, Tensor] | None:
        """Return which keys each query may see, without and with the sliding window: bool [n, 1, k, total].

        Returns None if the causal path without a mask is exact, which is also faster: one row that starts at
        position 0, or one query.
        """
        alone = len(layout.before) == 1 and (layout.before[0] == 0 or positions.shape[1] == 1)
        if alone and (not self._sliding or layout.total <= self._sliding):
            return None
        keys = torch.arange(layout.total, device=self.device)
        seen = keys <= positions[:, None, :, None]
        return seen, seen & (keys > positions[:, None, :, None] - self._sliding) if self._sliding else seen

    def _form(self, seen: Tensor) -> Tensor:
        """Return the mask in the form of the attention function: boolean for SDPA, additive for eager."""
        if self._attention == "sdpa":
            return seen
        dtype = self._store.shape.dtype
        return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _kv_shape(model: Any, config: Any, device: torch.device) -> KVShape:
    """Return the sizes of keys and values that the configuration gives."""
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    plain = not kinds - {"full_attention", "sliding_attention"}
    if (
        not heads
        or getattr(config, "is_encoder_decoder", False)
        or not plain
        or hasattr(config, "kv_lora_rank")
    ):
        raise UnsupportedModel(
            f"expected a decoder-only model with a plain key-value cache, found model_type="
            f"{config.model_type!r} ({type(model).__name__}); use a Mistral, Llama or Qwen checkpoint"
        )
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return KVShape(
        layers=config.num_hidden_layers,
        heads=heads,
        dim=dim,
        dtype=model.get_input_embeddings().weight.dtype,
        device=device,
    )
