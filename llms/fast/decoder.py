"""The fast `Decoder`: NF4 weights packed for tensor cores, a paged KV cache, a step as one CUDA graph.

Knows tokens, slots, logits. Refuses to know text, end tokens and scheduling. A step never waits for the GPU:
its inputs go up through pinned memory, and the tokens of the step before may be given back as they are, still
on their way. See `llms.decoder.Decoder` for the contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llms.catalog import cache_dir
from llms.decoder import StepResult
from llms.decoder_slots import SlotChecks
from llms.errors import NotEnoughMemory
from llms.fast.columns import Staging, lay_out
from llms.fast.graphs import Graphs
from llms.fast.machine import PAGE, Machine
from llms.fast.pages import Pages
from llms.fast.prompt import Prefill
from llms.fast.weights import Weights, extract
from llms.sampling import Sampling

HEADROOM = 600 * 2**20
"""GPU memory left free for scratch matrices, graphs and cuBLAS, in bytes."""


class FastDecoder(SlotChecks):
    """Decode with own kernels on one CUDA GPU.

    Args:
        model: A `transformers` model that `why_not` has nothing against. Its layers' weights are taken over:
            it serves no forward pass afterwards, unless `release` is false.
        max_slots: Number of slots.
        window: Longest sequence a slot holds, in tokens.
        cache_tokens: Tokens the KV cache holds over all slots; default: what all slots need, or what fits.
        cache: Folder for compiled kernels; default: in the user's cache.
        release: Whether to free the model's own weights.
        overlap: Whether kernels may start before the one ahead has ended; default: where the GPU can.
        extra: Compile-time choices of the kernels, for measuring.

    Raises:
        NotEnoughMemory: The GPU has no room for a cache of one window.
    """

    guesses = 7
    """Tokens worth guessing: a step of 8 columns reads the same weights as one of one column."""

    def __init__(
        self,
        model: Any,
        *,
        max_slots: int = 64,
        window: int | None = None,
        cache_tokens: int | None = None,
        cache: Path | None = None,
        release: bool = True,
        overlap: bool | None = None,
        extra: Mapping[str, int] | None = None,
    ) -> None:
        self.device = torch.device(model.device)
        self.window = int(window or model.config.max_position_embeddings)
        self.max_slots = max_slots
        self.weights: Weights = extract(model, positions=self.window, release=release)
        if release:
            torch.cuda.empty_cache()
        s = self.weights.shape
        self.vocab_size = s.vocabulary
        self.bytes_per_token = s.layers * 2 * s.kv_heads * s.head_dim * 2
        folder = cache or cache_dir() / "kernels"
        self.machine = Machine(s, self.device, folder, overlap=overlap, extra=extra)
        count = self._page_count(cache_tokens)
        self.pool = torch.zeros(
            s.layers, count, 2, s.kv_heads, PAGE, s.head_dim, dtype=torch.bfloat16, device=self.device
        )
        per_slot = -(-self.window // PAGE)
        self._tables = torch.zeros(max_slots + 1, per_slot, dtype=torch.int32, device=self.device)
        self._pages = Pages(count, PAGE, max_slots)
        self.graphs = Graphs(self.machine, self.weights, self.pool, self._tables)
        self._prefill = Prefill(self.machine, self.weights, self.pool)
        self._staging = Staging(self.graphs.meta)

    def _page_count(self, tokens: int | None) -> int:
        most = self.max_slots * -(-self.window // PAGE) + 1
        page_bytes = PAGE * self.bytes_per_token
        free, _ = torch.cuda.mem_get_info(self.device)
        fits = max(0, free - HEADROOM) * 9 // 10 // page_bytes
        wanted = most if tokens is None else -(-tokens // PAGE) + 1 + self.max_slots
        count = min(most, wanted, fits)
        if count * PAGE < min(self.window, 2 * PAGE):
            raise NotEnoughMemory(
                f"expected room for {self.window:,} tokens of KV cache "
                f"({self.window * self.bytes_per_token / 2**20:,.0f} MiB), found "
                f"{free / 2**20:,.0f} MiB free on {self.device}. Use a smaller window, or free the GPU."
            )
        return count

    @property
    def ceiling(self) -> float:
        """Return the most tokens a second that this GPU's memory allows one sequence."""
        p: Any = torch.cuda.get_device_properties(self.device)
        return float(2 * p.memory_clock_rate * 1e3 * p.memory_bus_width / 8 / self.weights.step_bytes)

    def describe(self) -> str:
        """Return one line for people: which decoder this is, and what this GPU's memory allows at most."""
        size, name = self.weights.step_bytes, torch.cuda.get_device_name(self.device)
        return (
            f"fast (own NF4 kernels, CUDA graphs) on {name}: a token reads {size / 1e9:.2f} GB, so at "
            f"{self.ceiling * size / 1e12:.2f} TB/s at most {self.ceiling:,.0f} tokens/s"
        )

    def length(self, slot: int) -> int:
        """Return the number of tokens in a slot's cache."""
        self._check_slot(slot)
        return self._pages.lengths[slot]

    def room(self) -> int:
        """Return how many more tokens the KV cache holds, over all slots."""
        return self._pages.free_pages * PAGE

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Sequence[int]) -> Tensor:
        """Append tokens; return fp32 [V], the logits after the last."""
        tokens = list(tokens)
        self._check([slot], [tokens])
        if len(tokens) <= self.machine.columns:
            return self._pass([slot], [tokens], None)[0][-1]
        return self._prefill.logits(self._append(slot, tokens)[-1:])[0]

    def _append(self, slot: int, tokens: list[int], whole: bool = False) -> Tensor:
        """Append tokens chunk by chunk; return what `Prefill.run` does, of the last chunk or of all."""
        self._grow([slot], [len(tokens)])
        table = self._tables[slot]
        parts: list[Tensor] = []
        for start in range(0, len(tokens), self._prefill.chunk):
            part = torch.tensor(tokens[start : start + self._prefill.chunk], device=self.device)
            h = self._prefill.run(part, table, self._pages.lengths[slot])
            parts = [*parts, h] if whole else [h]
            self._pages.lengths[slot] += len(part)
        return parts[-1] if len(parts) == 1 else torch.cat(parts)

    @torch.inference_mode()
    def step(
        self,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]] | Tensor,
        sampling: Sequence[Sampling] | None = None,
        all_logits: bool = False,
    ) -> StepResult:
        """Append 1..k tokens to each slot."""
        slots = list(slots)
        if isinstance(tokens, Tensor):
            return self._step_tensor(slots, tokens, sampling, all_logits)
        lists = [list(t) for t in tokens]
        self._check(slots, lists)
        self._check_room(slots, [len(t) for t in lists])
        heads: dict[int, Tensor] = {}
        for i, (slot, ids) in enumerate(zip(slots, lists, strict=True)):
            if len(ids) > self.machine.columns:  # one pass over the weights, not one per 64 tokens
                heads[i], lists[i] = self._append(slot, ids[:-1], all_logits), ids[-1:]
        rows: list[Tensor] = [torch.empty(0)] * len(slots)
        chosen: list[Tensor] = [torch.empty(0)] * len(slots)
        for piece in pieces([len(t) for t in lists], self.machine.columns):
            how = [sampling[i] for i, _, _ in piece] if sampling is not None else None
            parts = [lists[i][a:b] for i, a, b in piece]
            logits, sampled = self._pass([slots[i] for i, _, _ in piece], parts, how)
            at = 0
            for row, (i, a, b) in enumerate(piece):
                got = logits[at : at + b - a]
                rows[i] = torch.cat([rows[i], got]) if a and all_logits else got
                at += b - a
                if sampled is not None:
                    chosen[i] = sampled[row]
        if all_logits:
            for i, h in heads.items():
                rows[i] = torch.cat([self._prefill.logits(h), rows[i]])
        out: Tensor | list[Tensor] = rows if all_logits else torch.stack([r[-1] for r in rows])
        return StepResult(out, torch.stack(chosen) if sampling is not None else None)

    def _step_tensor(
        self, slots: list[int], tokens: Tensor, sampling: Sequence[Sampling] | None, all_logits: bool
    ) -> StepResult:
        """Append one token a slot, given on the device: nothing here waits for their values."""
        if tokens.device.type == "cpu" or len(slots) > self.machine.columns:
            return self.step(slots, [[t] for t in tokens.tolist()], sampling, all_logits)
        self._check(slots, [[0]] * len(tokens))
        logits, sampled = self._pass(slots, [[0]] * len(slots), sampling, tokens)
        return StepResult(list(logits.unsqueeze(1)) if all_logits else logits, sampled)

    def _pass(
        self,
        slots: list[int],
        lists: list[list[int]],
        sampling: Sequence[Sampling] | None,
        given: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One graph replay: fp32 logits [columns, V] of all tokens, the sampled token of each slot."""
        counts = [len(t) for t in lists]
        self._grow(slots, counts)
        columns = lay_out(slots, lists, self._pages.lengths, sampling, self.machine.group_tokens)
        bucket = next(b for b in self.graphs.buckets if b >= len(columns))
        self._staging.upload(columns, self.max_slots, given)
        self.graphs.replay(bucket)
        for slot, count in zip(slots, counts, strict=True):
            self._pages.lengths[slot] += count
        logits = self.graphs.logits[: len(columns)].float()
        if sampling is None:
            return logits, None
        if len(columns) == len(slots):
            return logits, self.graphs.sampled[: len(slots)].clone()
        last = torch.tensor(counts, device=self.device).cumsum(0) - 1
        return logits, self.graphs.sampled[last]

    @torch.inference_mode()
    def fork(self, source: int, target: int, length: int | None = None) -> None:
        """Make the target a copy of the source's first tokens; whole pages are shared, not copied."""
        length = self._check_length(source, self.length(source) if length is None else length)
        self._check_slot(target)
        self._pages.fork(source, target, length)
        self._upload_table(target)

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self._pages.truncate(slot, self._check_length(slot, length))

    def free(self, slot: int) -> None:
        """Empty a slot; its pages go back to the pool."""
        self._check_slot(slot)
        self._pages.truncate(slot, 0)

    def _grow(self, slots: list[int], counts: list[int]) -> None:
        self._check_room(slots, counts)
        for slot, count in zip(slots, counts, strict=True):
            before = len(self._pages.tables[slot])
            copies = self._pages.grow(slot, count)
            for old, new in copies:
                self.pool[:, new] = self.pool[:, old]
            if copies or len(self._pages.tables[slot]) != before:
                self._upload_table(slot)

    def _check_room(self, slots: list[int], counts: list[int]) -> None:
        need = sum(self._pages.needed(s, c) for s, c in zip(slots, counts, strict=True))
        if need > self._pages.free_pages:
            raise NotEnoughMemory(
                f"expected {need} free pages of {PAGE} tokens in the KV cache, found "
                f"{self._pages.free_pages} of {self._pages.total}. Run fewer or shorter sequences at once."
            )

    def _upload_table(self, slot: int) -> None:
        """Copy one slot's page table up; from pageable memory, so later changes here cannot race with it."""
        if table := self._pages.tables[slot]:
            self._tables[slot, : len(table)] = torch.tensor(table, dtype=torch.int32)


def pieces(counts: Sequence[int], columns: int) -> list[list[tuple[int, int, int]]]:
    """Cut ragged lists into passes of at most `columns` tokens: [(list, begin, end)], in order."""
    passes: list[list[tuple[int, int, int]]] = [[]]
    room = columns
    for index, count in enumerate(counts):
        begin = 0
        while begin < count:
            if room == 0:
                passes.append([])
                room = columns
            take = min(count - begin, room)
            passes[-1].append((index, begin, begin + take))
            begin += take
            room -= take
    return passes
