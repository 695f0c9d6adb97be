"""The CUDA decoder: NF4 weights packed for tensor cores, a paged KV cache, and a step as one CUDA graph.

A step never waits for the GPU. Its inputs are uploaded through pinned memory, and the tokens of the previous
step may be passed back as a tensor whose values are still being computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from llms.decoders.base import SlotChecks, StepResult, rows_of
from llms.decoders.cuda.columns import Staging, lay_out, pieces
from llms.decoders.cuda.graphs import Graphs
from llms.decoders.cuda.machine import PAGE, Machine
from llms.decoders.cuda.prompt import Prefill
from llms.decoders.cuda.weights import CudaWeights, extract
from llms.decoders.pages import Pages
from llms.decoders.sampling import Sampling
from llms.errors import NotEnoughMemory
from llms.models.catalog import cache_dir
from llms.models.gpu import bandwidth
from llms.models.weights import ModelWeights

HEADROOM = 600 * 2**20
"""Bytes of GPU memory that are left free for scratch matrices, graphs and cuBLAS."""


class CudaDecoder(SlotChecks):
    """Decode on one CUDA GPU; `llms.decoders.base.Decoder` describes the methods.

        >>> from llms.models.weights import weights_of
        >>> decoder = CudaDecoder(weights_of(model), max_slots=16, window=4096)  # doctest: +SKIP
        >>> logits = decoder.prefill(0, [1, 2, 3])                              # doctest: +SKIP

    Args:
        source: Weights that `weights.unsupported` has nothing against. Those of its layers are taken over: a
            model that they belong to can run no forward pass afterwards, unless `release` is false.
        max_slots: Number of slots.
        window: Longest sequence that a slot holds, in tokens.
        cache_tokens: Tokens that the KV cache holds over all slots; by default as many as all slots need, or
            as fit.
        cache: Folder for compiled kernels; by default in the user's cache.
        release: Whether to free the weights that were packed.
        overlap: Whether kernels may start before the previous one has ended; by default if the GPU can.
        extra: Compile-time choices of the kernels, for measurements.

    Raises:
        NotEnoughMemory: The GPU has no room for a cache of one window.
    """

    runs_ahead = True
    max_draft = 7
    """Tokens worth guessing: a step of 8 columns reads the same weights as one of one column."""

    def __init__(
        self,
        source: ModelWeights,
        *,
        max_slots: int = 64,
        window: int | None = None,
        cache_tokens: int | None = None,
        cache: Path | None = None,
        release: bool = True,
        overlap: bool | None = None,
        extra: Mapping[str, int] | None = None,
    ) -> None:
        self.device = source.device
        self.window = int(window or source.config["max_position_embeddings"])
        self.max_slots = max_slots
        self.weights: CudaWeights = extract(source, positions=self.window, release=release)
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
        self._stale: set[int] = set()  # slots whose table on the GPU is not that of `_pages`
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
        """Return the highest number of tokens per second that this GPU's memory allows one sequence."""
        return bandwidth(self.device) / self.weights.step_bytes

    def describe(self) -> str:
        """Return one line for people: which decoder this is, and the limit that this GPU's memory sets."""
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
        """Return the number of tokens for which the KV cache has room, over all slots."""
        return self._pages.free_pages * PAGE

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Sequence[int]) -> Tensor:
        """Append tokens; return fp32 [V], the logits after the last."""
        tokens = list(tokens)
        self._check([slot], [tokens])
        with self._restoring([slot]):
            if len(tokens) <= self.machine.columns:
                return self._pass([slot], [tokens], None)[0][-1]
            return self._prefill.logits(self._append(slot, tokens)[-1:])[0]

    def _append(self, slot: int, tokens: list[int], whole: bool = False) -> Tensor:
        """Append tokens chunk by chunk; return the last chunk's residual stream, or all of it if `whole`."""
        self._grow([slot], [len(tokens)])
        table = self._tables[slot]
        parts: list[Tensor] = []
        for start in range(0, len(tokens), self._prefill.chunk):
            part = self._upload(tokens[start : start + self._prefill.chunk])
            h = self._prefill.run(part, table, self._pages.lengths[slot])
            self.graphs.sampler.note(slot, self._pages.lengths[slot], part)
            parts = [*parts, h.clone()] if whole else [h]
            self._pages.lengths[slot] += len(part)
        return parts[-1] if len(parts) == 1 else torch.cat(parts)

    @torch.inference_mode()
    def step(
        self,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]] | Tensor,
        sampling: Sequence[Sampling] | None = None,
        all_logits: bool = False,
        given: Tensor | None = None,
    ) -> StepResult:
        """Append 1..k tokens to each slot; return before the GPU has computed the result."""
        slots = list(slots)
        lists, given = rows_of(tokens, given)
        if given is not None and given.device.type == "cpu":
            lists[: len(given)], given = [[t] for t in given.tolist()], None
        self._check(slots, lists)
        if sampling is not None:
            self._check_sampling(sampling, len(slots))
        with self._restoring(slots):
            if sum(map(len, lists)) <= self.machine.columns:
                return self._result(*self._pass(slots, lists, sampling, given, all_logits), lists, all_logits)
            return self._long_step(slots, lists, sampling, all_logits, given)

    def _result(
        self, logits: Tensor, sampled: Tensor | None, lists: list[list[int]], every: bool
    ) -> StepResult:
        """Return one pass's result by slot, from logits fp32 [columns, V] and sampled int64 [columns]."""
        counts = [len(row) for row in lists]
        drawn = list(torch.split(sampled, counts)) if every and sampled is not None else None
        chosen, last = sampled, logits
        if len(logits) > len(counts):
            index = self._upload([end - 1 for end in accumulate(counts)])
            chosen, last = sampled if sampled is None else sampled[index], logits[index]
        return StepResult(list(torch.split(logits, counts)) if every else last, chosen, drawn)

    def _long_step(
        self,
        slots: list[int],
        lists: list[list[int]],
        sampling: Sequence[Sampling] | None,
        every: bool,
        given: Tensor | None,
    ) -> StepResult:
        """Run more tokens than one pass has columns: long lists as prompts, the rest pass by pass."""
        self._check_room(slots, [len(t) for t in lists])
        rows: list[list[Tensor]] = [[] for _ in slots]
        drawn: list[list[Tensor]] = [[] for _ in slots]
        for i, (slot, ids) in enumerate(zip(slots, lists, strict=True)):
            if len(ids) > self.machine.columns and not (every and sampling):
                h, lists[i] = self._append(slot, ids[:-1], every), ids[-1:]  # one pass over the weights
                if every:
                    rows[i].append(self._prefill.logits(h))
        for piece in pieces([len(t) for t in lists], self.machine.columns):
            which = [i for i, _, _ in piece]
            how = None if sampling is None else [sampling[i] for i in which]
            parts = [lists[i][a:b] for i, a, b in piece]
            first = None if given is None else given[which[0] : which[-1] + 1]
            logits, sampled = self._pass([slots[i] for i in which], parts, how, first, every)
            counts = [len(part) for part in parts]
            for i, row in zip(which, torch.split(logits, counts), strict=True):
                rows[i].append(row)
            if sampled is not None:
                for i, row in zip(which, torch.split(sampled, counts), strict=True):
                    drawn[i].append(row)
        chosen = None if sampling is None else torch.stack([parts[-1][-1] for parts in drawn])
        if not every:
            return StepResult(torch.stack([parts[-1][-1] for parts in rows]), chosen)
        whole = None if sampling is None else [torch.cat(parts) for parts in drawn]
        return StepResult([torch.cat(parts) for parts in rows], chosen, whole)

    def _pass(
        self,
        slots: list[int],
        lists: list[list[int]],
        sampling: Sequence[Sampling] | None,
        given: Tensor | None = None,
        every: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Replay one graph; return logits fp32 [columns, V] and, with `sampling`, tokens int64 [columns]."""
        counts = [len(t) for t in lists]
        self._grow(slots, counts)
        for slot, how in zip(slots, sampling or (), strict=False):
            self.graphs.sampler.bias(slot, how.logit_bias)
        columns = lay_out(slots, lists, self._pages.lengths, sampling, self.machine.group_tokens, every)
        bucket = next(b for b in self.graphs.buckets if b >= len(columns))
        self._staging.upload(columns, self.max_slots, given)
        self.graphs.replay(bucket)
        self._staging.launched()
        for slot, count in zip(slots, counts, strict=True):
            self._pages.lengths[slot] += count
        logits = self.graphs.logits[: len(columns)].float()
        return logits, None if sampling is None else self.graphs.sampled[: len(columns)].clone()

    @torch.inference_mode()
    def fork(self, source: int, target: int, length: int | None = None) -> None:
        """Make the target a copy of the source's first tokens; they share whole pages."""
        length = self._check_length(source, self.length(source) if length is None else length)
        self._check_slot(target)
        self._pages.fork(source, target, length)
        self._stale.add(target)
        try:
            self.graphs.sampler.fork(source, target, length)
            self._upload_table(target)
        except BaseException:
            if source != target:
                self.free(target)
            raise

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self._pages.truncate(slot, self._check_length(slot, length))

    def free(self, slot: int) -> None:
        """Empty a slot; its pages go back to the pool."""
        self._check_slot(slot)
        self._pages.truncate(slot, 0)

    def bytes_held(self, slots: Iterable[int]) -> int:
        """Return the size of the pages that these slots hold, in bytes; what they share counts once."""
        return self._pages.held(slots) * PAGE * self.bytes_per_token

    def _grow(self, slots: list[int], counts: list[int]) -> None:
        self._check_room(slots, counts)
        for slot, count in zip(slots, counts, strict=True):
            if self._pages.grow(slot, count, self._copy_page):
                self._stale.add(slot)
            if slot in self._stale:
                self._upload_table(slot)

    def _copy_page(self, old: int, new: int, count: int) -> None:
        self.pool[:, new] = self.pool[:, old]

    def _check_room(self, slots: list[int], counts: list[int]) -> None:
        need = sum(self._pages.needed(s, c) for s, c in zip(slots, counts, strict=True))
        if need > self._pages.free_pages:
            raise NotEnoughMemory(
                f"expected {need} free pages of {PAGE} tokens in the KV cache, found "
                f"{self._pages.free_pages} of {self._pages.total}. Run fewer or shorter sequences at once."
            )

    def _upload_table(self, slot: int) -> None:
        """Upload one slot's page table."""
        if table := self._pages.tables[slot]:
            self._tables[slot, : len(table)] = self._upload(table, torch.int32)
        self._stale.discard(slot)

    def _upload(self, values: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
        """Upload integers without waiting; a copy from pageable memory would wait for all work in flight."""
        return torch.tensor(values, dtype=dtype, pin_memory=True).to(self.device, non_blocking=True)
