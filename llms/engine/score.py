"""Scoring: the log-probabilities of given continuations, computed in batches that share prefixes.

A job runs in chunks between the engine's decode steps, so generation continues meanwhile. The memory of a
chunk is bounded by its number of tokens, regardless of the number of prompts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from llms.decoders.base import Decoder
from llms.engine.prefix import MIN_SHARED, SlotTable, common_prefix

ScoreItem = tuple[Sequence[int], Sequence[Sequence[int]]]
"""Prompt ids and the ids of each continuation."""

CHUNK_ROWS = 32
CHUNK_TOKENS = 8192
"""Limits of one chunk: the number of rows, and the number of tokens of KV that they hold."""

BATCH_TOKENS = 2048
"""Tokens (padding included) of one forward pass."""

PASS_TOKENS = 24
"""Fixed cost of a forward pass, expressed in tokens: 30 ms, when a token takes 1.4 ms (two CPU cores)."""

LOGIT_FLOATS = 64 * 2**20
"""Maximum number of logits in memory (256 MiB of fp32)."""

T = TypeVar("T")


def packed(rows: Sequence[T], size: Callable[[T], int], budget: int) -> list[list[T]]:
    """Split rows into batches of similar sizes, largest first, whose padded size stays within the budget.

    The cuts minimize the total cost. A batch costs its padded tokens plus `PASS_TOKENS`.
    """
    ordered = sorted(rows, key=size, reverse=True)
    starts = [i for i, row in enumerate(ordered) if i == 0 or size(row) != size(ordered[i - 1])]
    ends = [*starts[1:], len(ordered)] if starts else []
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in ends:
        best.append(
            min(
                (best[j][0] + _cost(end - start, size(ordered[start]), budget), j)
                for j, start in enumerate(starts[: len(best)])
            )
        )
    batches: list[list[T]] = []
    cut = len(starts)
    while cut:
        cut, end = best[cut][1], ends[cut - 1]
        run = ordered[starts[cut] : end]
        most = max(1, budget // max(1, size(run[0])))
        batches[:0] = [run[at : at + most] for at in range(0, len(run), most)]
    return batches


def _cost(count: int, size: int, budget: int) -> float:
    """Return the cost, in tokens, of `count` rows padded to `size`."""
    passes = -(-count // max(1, budget // max(1, size)))
    return float(passes * PASS_TOKENS + count * size)


@dataclass(slots=True)
class _Row:
    """One prompt of a chunk while it runs."""

    index: int
    prompt: list[int]
    continuations: list[list[int]]
    slot: int = -1
    logits: Tensor | None = None


@dataclass(slots=True)
class _Group:
    """Prompts that share their first `shared` tokens."""

    shared: int
    rows: list[_Row] = field(default_factory=list)
    slot: int = -1


class ScoreJob:
    """The work of one `score` call. `results` is complete when `satisfied` is True.

    Args:
        items: Prompts and continuations. None of them may be empty.
        lock: The engine's lock, which `ready` belongs to.
        keep: Whether the KV of each prompt stays cached, and not only that of shared prefixes.
    """

    def __init__(self, items: Sequence[ScoreItem], lock: threading.Lock, *, keep: bool = False) -> None:
        self.ready = threading.Condition(lock)
        self.results: list[list[float]] = [[0.0] * len(continuations) for _, continuations in items]
        self.error: BaseException | None = None
        self._keep = keep
        self._tokens = CHUNK_TOKENS
        rows = [_Row(i, list(p), [list(c) for c in cs]) for i, (p, cs) in enumerate(items) if cs]
        # After sorting, prompts with a common prefix are next to each other.
        self._todo = _grouped(sorted(rows, key=lambda row: row.prompt))

    @property
    def satisfied(self) -> bool:
        """Whether the results are complete, or an error ended the job."""
        return not self._todo or self.error is not None

    def wake(self) -> None:
        """Notify the caller if the job is complete. The caller of this method holds the lock."""
        if self.satisfied:
            self.ready.notify_all()

    def run_chunk(self, decoder: Decoder, table: SlotTable, most: int = CHUNK_TOKENS) -> None:
        """Score as many groups as fit in `most` prompt tokens, or a single row if it is longer."""
        groups = self._next_chunk(table.available, min(most, self._tokens))
        table.reserve(sum(len(row.prompt) for group in groups for row in group.rows))
        busy: list[int] = []
        try:
            rows = [row for group in groups for row in group.rows]
            _prefill_shared(groups, decoder, table, busy)
            _prefill_rows(groups, decoder, table, busy)
            for row in rows:
                assert row.logits is not None
                norm = row.logits.logsumexp(-1)
                for j, continuation in enumerate(row.continuations):
                    self.results[row.index][j] = float(row.logits[continuation[0]] - norm)
            self._continue(rows, decoder, table)
        finally:
            keep = {group.slot for group in groups if len(group.rows) > 1}
            if self._keep:
                keep.update(row.slot for group in groups for row in group.rows)
            for slot in busy:
                table.release(slot, keep=slot in keep)
        for group in groups:
            self._todo.remove(group)

    def shrink(self) -> bool:
        """Halve the size of a chunk, because one did not fit. Return False if it was a single row."""
        chunk = self._next_chunk(CHUNK_ROWS, self._tokens)
        self._tokens = sum(len(row.prompt) for group in chunk for row in group.rows) // 2
        return len(chunk) > 1 or len(chunk[0].rows) > 1

    def _next_chunk(self, available: int, most: int) -> list[_Group]:
        """Return the groups of the next chunk. A group that is larger than a chunk is split."""
        limit = max(1, min(CHUNK_ROWS, available - 2))
        chunk: list[_Group] = []
        rows = tokens = 0
        for place, group in enumerate(self._todo):
            size = sum(len(row.prompt) for row in group.rows)
            if chunk and (rows + len(group.rows) + 1 > limit or tokens + size > most):
                break
            if len(group.rows) + 1 > limit or size > most:
                group = self._split(place, limit, most)
            chunk.append(group)
            rows += len(group.rows) + (len(group.rows) > 1)
            tokens += sum(len(row.prompt) for row in group.rows)
        return chunk

    def _split(self, place: int, limit: int, most: int) -> _Group:
        """Split a group in two and return the first part, which fits in a chunk or is a single row."""
        group = self._todo[place]
        count = tokens = 0
        for row in group.rows:
            if count and (count + 2 > limit or tokens + len(row.prompt) > most):
                break
            count, tokens = count + 1, tokens + len(row.prompt)
        head = _Group(group.shared, group.rows[:count])
        rest = _Group(group.shared, group.rows[count:])
        self._todo[place : place + 1] = [head, rest] if rest.rows else [head]
        return head

    def _continue(self, rows: list[_Row], decoder: Decoder, table: SlotTable) -> None:
        """Add the log-probabilities of the second and later tokens of each continuation."""
        todo = [(row, j, c) for row in rows for j, c in enumerate(row.continuations) if len(c) > 1]
        width = max((len(c) for _, _, c in todo), default=1)
        budget = min(BATCH_TOKENS, max(width, LOGIT_FLOATS // decoder.vocab_size))
        for batch in packed(todo, lambda t: len(t[2]) - 1, budget):
            for start in range(0, len(batch), max(1, table.available)):
                self._continue_batch(batch[start : start + max(1, table.available)], decoder, table)

    def _continue_batch(
        self, batch: list[tuple[_Row, int, list[int]]], decoder: Decoder, table: SlotTable
    ) -> None:
        """Run continuations, each in a slot of its own. A prompt with one continuation needs no copy."""
        slots, copies = [], []
        try:
            for row, _, _ in batch:
                if len(row.continuations) == 1:
                    slots.append(row.slot)
                else:
                    copies.append(table.branch(row.slot, len(row.prompt)))
                    slots.append(copies[-1])
            result = decoder.step(slots, [c[:-1] for _, _, c in batch], all_logits=True)
            for (row, j, continuation), logits in zip(batch, result.logits, strict=True):
                picked = logits.gather(1, logits.new_tensor(continuation[1:]).long()[:, None])[:, 0]
                self.results[row.index][j] += float((picked - logits.logsumexp(-1)).sum())
        finally:
            for slot in copies:
                table.release(slot, keep=False)


def _grouped(rows: Sequence[_Row]) -> list[_Group]:
    """Group sorted rows as long as each shares at least half of the prefix that the group shares."""
    groups: list[_Group] = []
    for row in rows:
        last = groups[-1] if groups else None
        shared = 0
        if last is not None:
            limit = min(last.shared, len(row.prompt) - 1)
            shared = min(common_prefix(last.rows[0].prompt, row.prompt), limit)
        if last is not None and shared >= MIN_SHARED and (len(last.rows) == 1 or 2 * shared >= last.shared):
            last.rows.append(row)
            last.shared = shared
        else:
            groups.append(_Group(len(row.prompt) - 1, [row]))
    return groups


def _prefill_shared(groups: list[_Group], decoder: Decoder, table: SlotTable, busy: list[int]) -> None:
    """Prefill the common prefix of each group into a slot, reusing the prefix cache."""
    rest: list[tuple[_Group, list[int]]] = []
    for group in groups:
        if len(group.rows) == 1:
            continue
        prefix = group.rows[0].prompt[: group.shared]
        # One more token is passed because `acquire` always leaves the last one to run.
        group.slot, cached = table.acquire([*prefix, prefix[-1]])
        busy.append(group.slot)
        if cached < group.shared:
            rest.append((group, prefix[cached:]))
    for batch in packed(rest, lambda r: len(r[1]), BATCH_TOKENS):
        _append([g.slot for g, _ in batch], [tokens for _, tokens in batch], decoder, table)


def _prefill_rows(groups: list[_Group], decoder: Decoder, table: SlotTable, busy: list[int]) -> None:
    """Prefill the rest of every prompt in a chunk, and keep the logits at its end."""
    rest: list[tuple[_Row, list[int]]] = []
    for group in groups:
        for row in group.rows:
            if group.slot >= 0:
                row.slot, cached = table.branch(group.slot, group.shared), group.shared
            else:
                row.slot, cached = table.acquire(row.prompt)
            busy.append(row.slot)
            rest.append((row, row.prompt[cached:]))
    for batch in packed(rest, lambda r: len(r[1]), BATCH_TOKENS):
        logits = _append([r.slot for r, _ in batch], [tokens for _, tokens in batch], decoder, table)
        for (row, _), own in zip(batch, logits, strict=True):
            row.logits = own


def _append(slots: list[int], lists: list[list[int]], decoder: Decoder, table: SlotTable) -> Sequence[Tensor]:
    """Append tokens to slots and return the last logits of each, fp32 [V]."""
    if len(slots) == 1:
        logits: Sequence[Tensor] = [decoder.prefill(slots[0], lists[0])]
    else:
        logits = list(decoder.step(slots, lists).logits)
    for slot, tokens in zip(slots, lists, strict=True):
        table.extend(slot, tokens)
    return logits
