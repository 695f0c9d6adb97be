"""KV storage of the reference decoder: one row a slot; `llms.decoders.reference` shows it to transformers.

Knows tensors, rows and lengths; refuses to know models, logits and sampling. Rows are preallocated, written
in place at each row's own position, and read as views: a row needs no padding, and nothing is concatenated.

What transformers sees of the reference decoder's KV storage: a `Cache` for one forward pass.

Knows transformers' cache interface and `llms.decoders.reference`; refuses to know models. It is a file of its
own, as decoders that do not run transformers' passes need not import it.

The reference `Decoder`: plain transformers forward passes over per-slot KV rows.

Knows a transformers causal language model and tensors; refuses to know text, templates and scheduling. Every
architecture whose cache is keys and values works; a state-space or encoder-decoder model is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llms.decoders.base import SlotChecks, StepResult, rows_of
from llms.decoders.reference_plan import PREFILL_CHUNK
from llms.decoders.sampling import Sampling, sample, sample_each
from llms.errors import UnsupportedModel
from llms.threads import bound_spinning


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of the stored keys and values."""

    layers: int
    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Return the size of one token's keys and values over all layers, in bytes."""
        return self.layers * self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Plan:
    """Where one forward pass reads and writes.

    Attributes:
        start: First row of the contiguous range that is read.
        count: Number of rows n.
        total: Longest length of a row after the pass.
        rows: int64 [t], the row of each of the t new tokens; None when there is one row.
        places: int64 [t], its position in the row.
        sources: int64 [t] each, batch index and query index of each new token.
        first: Position of the first new token, when there is one row.
    """

    start: int
    count: int
    total: int
    first: int = 0
    rows: Tensor | None = None
    places: Tensor | None = None
    sources: tuple[Tensor, Tensor] | None = None


class SlotStore:
    """Keys and values [layers, rows, heads, capacity, dim], grown by doubling, zero where never written.

    Zeros matter: a masked key still meets its value with weight 0, and 0 x NaN is NaN. Zeroed pages of a CPU
    tensor cost no memory until they are written.
    """

    def __init__(self, shape: Shape, window: int) -> None:
        """Allocate nothing yet."""
        self.shape = shape
        self.window = window
        self.rows: dict[int, int] = {}
        self.lengths: dict[int, int] = {}
        self.tokens: dict[int, list[int]] = {}
        none = torch.zeros(shape.layers, 0, shape.heads, 0, 1, dtype=shape.dtype, device=shape.device)
        self.keys = none.expand(-1, -1, -1, -1, shape.key_dim)
        self.values = none.expand(-1, -1, -1, -1, shape.value_dim)

    def row(self, slot: int) -> int:
        """Return the slot's row, taking the lowest free one where it has none."""
        if slot not in self.rows:
            used = set(self.rows.values())
            self.rows[slot] = next(i for i in range(len(used) + 1) if i not in used)
            self.lengths[slot], self.tokens[slot] = 0, []
        return self.rows[slot]

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for `rows` rows of `capacity` tokens."""
        have_rows, have = self.keys.shape[1], self.keys.shape[3]
        if rows <= have_rows and capacity <= have:
            return
        new_rows = have_rows if rows <= have_rows else max(rows, 2 * have_rows)
        new = have if capacity <= have else min(max(capacity, 2 * have, 256), self.window)
        live = max(self.lengths.values(), default=0)
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            grown = old.new_zeros(old.shape[0], new_rows, old.shape[2], new, old.shape[4])
            grown[:, :have_rows, :, :live] = old[:, :, :, :live]
            setattr(self, name, grown)

    def gather(self, slots: Sequence[int]) -> int:
        """Bring the slots' rows, in their order or another, into one contiguous range; return its first row.

        The range that already holds most of them is chosen, so a batch that lost one member moves one row.
        """
        rows = [self.row(slot) for slot in slots]
        wanted, n = set(rows), len(rows)
        high = max(rows)
        start = max(
            range(max(high - n + 1, 0) + 1), key=lambda s: (sum(1 for row in wanted if s <= row < s + n), -s)
        )
        holes = [row for row in range(start, start + n) if row not in wanted]
        movers = [slot for slot in slots if not start <= self.rows[slot] < start + n]
        owner = {row: slot for slot, row in self.rows.items()}
        for slot, hole in zip(movers, holes, strict=True):
            self._swap(slot, owner.get(hole), hole)
        return start

    def _swap(self, slot: int, other: int | None, row: int) -> None:
        """Move a slot to `row`, and what lived there to the slot's old row."""
        self.reserve(row + 1, 0)
        old, length = self.rows[slot], self.lengths[slot]
        if other is not None:
            length = max(length, self.lengths[other])
        for store in (self.keys, self.values):
            if other is None:
                store[:, row, :, :length] = store[:, old, :, :length]
            else:
                store[:, [row, old], :, :length] = store[:, [old, row], :, :length]
        self.rows[slot] = row
        if other is not None:
            self.rows[other] = old

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a slot over another slot."""
        a, b = self.row(source), self.row(target)
        self.reserve(b + 1, length)
        for store in (self.keys, self.values):
            store[:, b, :, :length] = store[:, a, :, :length]
        self.lengths[target], self.tokens[target] = length, self.tokens[source][:length]

    def append(self, slot: int, tokens: Sequence[int]) -> None:
        """Record tokens whose keys and values a pass has written to the slot."""
        self.lengths[slot] += len(tokens)
        self.tokens[slot] += tokens

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first `length` tokens of a slot that is in use."""
        self.lengths[slot] = length
        del self.tokens[slot][length:]

    def free(self, slot: int) -> None:
        """Drop a slot and zero what it wrote (it may hold NaN, which would reach its row's next reader)."""
        row = self.rows.pop(slot, None)
        length = self.lengths.pop(slot, 0)
        self.tokens.pop(slot, None)
        if row is not None and length:
            self.keys[:, row, :, :length] = 0
            self.values[:, row, :, :length] = 0
        if not self.rows:
            # An idle decoder gives its memory back.
            self.keys = self.keys[:, :0, :, :0].clone()
            self.values = self.values[:, :0, :, :0].clone()


class ReferenceDecoder(SlotChecks):
    """Decode with the model's own forward; see `llms.decoders.base.Decoder` for the contract.

    Args:
        model: A `transformers` causal language model (quantized or PEFT-wrapped too), already on its device.
        window: Longest sequence a slot holds, in tokens; default: the model's `max_position_embeddings`.
        max_slots: Number of slots. Memory is taken by the slots in use only.
        why: Why no faster decoder serves this model, for `describe`.

    Raises:
        UnsupportedModel: An architecture without a plain KV cache, or an attention kernel that takes no mask.
    """

    def __init__(self, model: Any, *, window: int | None = None, max_slots: int = 64, why: str = "") -> None:
        config = model.config.get_text_config()
        self._attention = getattr(config, "_attn_implementation", "sdpa")
        if self._attention not in ("sdpa", "eager"):
            raise UnsupportedModel(
                f"Expected a model loaded with attn_implementation='sdpa' or 'eager', found "
                f"{self._attention!r}. Load it again with from_pretrained(..., attn_implementation='sdpa')."
            )
        self._model = model
        self._why = why
        self._config = config
        self._store: SlotStore | None = None
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
        self._store = SlotStore(shape, self.window)
        kinds = set(getattr(config, "layer_types", None) or ())
        self._sliding = getattr(config, "sliding_window", None) or 0
        self._kinds = kinds if len(kinds) > 1 else set()
        if kinds == {"full_attention"}:
            self._sliding = 0

    def describe(self) -> str:
        """Return one line for people: which decoder this is, and on what it runs."""
        line = f"reference (forward passes of transformers) on {self.device}"
        return f"{line}; no faster one: {self._why}" if self._why else line

    def length(self, slot: int) -> int:
        """Return the number of tokens in a slot's cache."""
        self._check_slot(slot)
        return self._kv.lengths.get(slot, 0)

    @property
    def _kv(self) -> SlotStore:
        assert self._store is not None
        return self._store

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Sequence[int]) -> Tensor:
        """Append tokens in chunks of `PREFILL_CHUNK`; return fp32 [V], the logits after the last."""
        tokens = list(tokens)
        self._check([slot], [tokens])
        logits = torch.empty(0)
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
        rows = self._forward(list(slots), lists, 0 if all_logits else 1)
        if all_logits:
            return StepResult(
                rows, *(() if sampling is None else sample_each(rows, sampling, *self._before(slots)))
            )
        last = torch.stack([row[-1] for row in rows]) if len(rows) > 1 else rows[0][-1:]
        return StepResult(last, None if sampling is None else sample(last, sampling, *self._before(slots)))

    def _before(self, slots: Sequence[int]) -> tuple[list[int], list[list[int]]]:
        """Return how many tokens each slot holds, and which."""
        return [self._kv.lengths[slot] for slot in slots], [self._kv.tokens[slot] for slot in slots]

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        """Copy the source's first `length` tokens over the target."""
        length = self._check_length(source, self.length(source) if length is None else length)
        self._check_slot(target)
        if source == target:
            self.truncate(source, length)
            return
        self.free(target)
        if length:
            with torch.inference_mode():
                self._kv.copy(source, target, length)

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if self._check_length(slot, length) == 0:
            self.free(slot)
        else:
            self._kv.truncate(slot, length)

    @torch.inference_mode()
    def free(self, slot: int) -> None:
        """Empty a slot."""
        self._check_slot(slot)
        self._kv.free(slot)

    def _forward(self, slots: list[int], tokens: list[list[int]], keep: int) -> list[Tensor]:
        """Run the model; return per slot fp32 [kept, V].

        Rows are padded on the left of the query block only: the last token of each row shares one column, so
        `logits_to_keep=1` serves a ragged batch. Padding is never written to the cache.
        """
        order, plan, ids, positions = self._plan(slots, tokens)
        out = self._pass(ids, positions, plan, keep)
        for slot, row in zip(slots, tokens, strict=True):
            self._kv.append(slot, row)
        result: list[Tensor] = [torch.empty(0)] * len(slots)
        for index, which in enumerate(order):
            count = keep or len(tokens[which])
            result[which] = out[index, out.shape[1] - count :].float()
        return result

    def _pass(self, ids: Tensor, positions: Tensor, plan: Plan, keep: int) -> Tensor:
        """Run the model over ids and positions [n, k]; return logits [n, keep, V], of all where keep is 0."""
        from llms.decoders.reference_view import SlotCache

        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=self._mask(positions, plan),
            position_ids=positions,
            past_key_values=SlotCache(self._kv, plan),
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return logits

    def _plan(self, slots: list[int], tokens: list[list[int]]) -> tuple[list[int], Plan, Tensor, Tensor]:
        """Lay the batch out: (batch index -> request, plan, ids [n, k], positions [n, k])."""
        store, width = self._kv, max(len(row) for row in tokens)
        for slot in slots:
            store.row(slot)
        total = max(store.lengths[slot] + len(row) for slot, row in zip(slots, tokens, strict=True))
        store.reserve(max(store.rows.values()) + 1, total)
        start = store.gather(slots)
        order = sorted(range(len(slots)), key=lambda i: store.rows[slots[i]])
        if len(slots) == 1:
            first = store.lengths[slots[0]]
            ids = torch.tensor(tokens, device=self.device)
            positions = torch.arange(first, total, device=self.device)[None]
            return order, Plan(start, 1, total, first), ids, positions
        id_rows, position_rows, flat = [], [], []
        for index, which in enumerate(order):
            row, length, pad = tokens[which], store.lengths[slots[which]], width - len(tokens[which])
            id_rows.append([row[0]] * pad + row)
            position_rows.append([length] * pad + list(range(length, length + len(row))))
            flat += [(start + index, length + j, index, pad + j) for j in range(len(row))]
        rows, places, batch, query = torch.tensor(flat, device=self.device).unbind(1)
        plan = Plan(start, len(slots), total, 0, rows, places, (batch, query))
        ids, positions = (torch.tensor(x, device=self.device) for x in (id_rows, position_rows))
        return order, plan, ids, positions

    def _mask(self, positions: Tensor, plan: Plan) -> Tensor | dict[str, Tensor] | None:
        """Return what each query may see, as transformers' attention wants it."""
        sight = self._sight(positions, plan)
        if sight is None:
            return None
        if self._kinds:
            return {"full_attention": self._form(sight[0]), "sliding_attention": self._form(sight[1])}
        return self._form(sight[1])

    def _sight(self, positions: Tensor, plan: Plan) -> tuple[Tensor, Tensor] | None:
        """Return bool [n, 1, k, total], what each query sees, without and with the sliding window.

        None: one row whose first token comes first, or one query; a causal path without a mask is exact then,
        and faster.
        """
        alone = plan.rows is None and (plan.first == 0 or positions.shape[1] == 1)
        if alone and (not self._sliding or plan.total <= self._sliding):
            return None
        keys = torch.arange(plan.total, device=self.device)
        seen = keys <= positions[:, None, :, None]
        return seen, seen & (keys > positions[:, None, :, None] - self._sliding) if self._sliding else seen

    def _form(self, seen: Tensor) -> Tensor:
        """Return the mask as the attention function wants it: bool for SDPA, additive for eager."""
        if self._attention == "sdpa":
            return seen
        dtype = self._kv.shape.dtype
        return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _kv_shape(model: Any, config: Any, device: torch.device) -> Shape:
    """Read the KV sizes off the configuration."""
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
            f"Expected a decoder-only model with a plain key-value cache, found model_type="
            f"{config.model_type!r} ({type(model).__name__}). Use a Mistral, Llama or Qwen checkpoint."
        )
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        layers=config.num_hidden_layers,
        heads=heads,
        key_dim=dim,
        value_dim=dim,
        dtype=model.get_input_embeddings().weight.dtype,
        device=device,
    )
