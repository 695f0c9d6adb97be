"""Scoring: the log-probabilities of given continuations, computed next to the answers of other callers.

A `ScoreJob` is one call of `Engine.score`. Its prompts become `ScoreRow`s, and each row runs in `Strand`s:
first the prompt, then each continuation of more than one token. The scheduler takes as many tokens of the
strands as fit the budget of a step, so a job of any size delays others by no more than that. Rows of jobs
that wait at the same time are computed once if they are equal, and share the prefixes of their prompts.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from llms.decoders.base import Decoder
from llms.engine.prefix import MIN_SHARED, SlotTable, common_prefix, out_of_memory
from llms.errors import NotEnoughMemory

ScoreItem = tuple[Sequence[int], Sequence[Sequence[int]]]
"""Prompt ids and the ids of each continuation."""

MOST_ROWS = 32
MOST_TOKENS = 8192
"""Limits of what runs at once: the number of rows, and the number of tokens of KV that they hold."""

PASS_TOKENS = 24
"""Fixed cost of a forward pass, expressed in tokens: 30 ms, when a token takes 1.4 ms (PyTorch's operators on
two CPU cores)."""

LOGIT_FLOATS = 64 * 2**20
"""Maximum number of logits of one pass over continuations (256 MiB of fp32)."""

T = TypeVar("T")


def not_enough(error: BaseException) -> BaseException:
    """Return the error for prompts that cannot be scored because memory does not suffice for one of them."""
    failure = NotEnoughMemory(
        f"expected room for the KV cache of one prompt to score, found none ({error}); use shorter prompts"
    )
    failure.__cause__ = error
    return failure


def packed(rows: Iterable[T], size: Callable[[T], int], budget: int) -> list[list[T]]:
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


class ScoreJob:
    """One call of `Engine.score`, which waits for `done`.

    Args:
        items: Prompts and continuations. None of them may be empty.
        keep: Whether the KV of each prompt stays cached, and not only that of shared prefixes.

    Attributes:
        results: One list for each item, one log-probability (nats) for each continuation.
        error: The error that ended the job.
        cancelled: Whether the caller has left. The engine's thread reads it before each step.
        turn: When one of its rows began last, counted in rows of the engine.
        waiting: The rows that have not begun. Rows that share a prefix are next to each other.
    """

    def __init__(self, items: Iterable[ScoreItem], *, keep: bool = False) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.cancelled = False
        self.turn = 0
        rows = [ScoreRow(list(prompt), [list(c) for c in texts]) for prompt, texts in items]
        self.results: list[list[float]] = [row.values for row in rows]
        rows = sorted((row for row in rows if row.values), key=lambda row: row.prompt)
        for before, row in pairwise(rows):
            shared = common_prefix(before.prompt, row.prompt)
            before.shared, row.shared = max(before.shared, shared), shared
        for row in rows:
            row.shared = len(row.prompt) if keep else row.shared
        self.waiting = deque(rows)
        self._left = set(rows)
        if not rows:
            self.done.set()

    def settle(self, row: ScoreRow, values: list[float]) -> None:
        """Take the values of one of the rows. The job is done after the last."""
        row.values[:] = values
        self._left.discard(row)
        if not self._left:
            self.done.set()

    def fail(self, error: BaseException) -> None:
        """End the job with an error."""
        if not self.done.is_set():
            self.error = error
            self.done.set()


class ScoreRow:
    """One prompt and its continuations.

    Attributes:
        values: The log-probability of each continuation.
        shared: Number of tokens of the prompt that other rows of the job begin with, too.
        owners: The jobs that wait for it, each with its own equal row.
        slot: The slot that holds the prompt while the row runs.
        strands: What still has to run, in order.
        reads: Number of passes whose values have not been read.
    """

    def __init__(self, prompt: list[int], continuations: list[list[int]]) -> None:
        self.prompt, self.continuations = prompt, continuations
        self.values = [0.0] * len(continuations)
        self.shared = 0
        self.owners: list[tuple[ScoreJob, ScoreRow]] = []
        self.slot: int | None = None
        self.strands: list[Strand] = []
        self.reads = 0

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """What makes two rows equal."""
        return tuple(self.prompt), tuple(map(tuple, self.continuations))

    @property
    def held(self) -> int:
        """The number of tokens of KV that the row holds at most."""
        return len(self.prompt) + sum(len(c) - 1 for c in self.continuations)


class Strand:
    """Tokens that run in one slot, and the logits that they give.

    Args:
        row: The row.
        index: Number of the continuation; None for the prompt.
        slot: The slot, or None while the strand waits for one.
        fed: Number of tokens that the slot holds already.
    """

    def __init__(self, row: ScoreRow, index: int | None, slot: int | None, fed: int = 0) -> None:
        self.row, self.index, self.slot, self.fed = row, index, slot, fed
        self.tokens = row.prompt if index is None else row.continuations[index][:-1]

    @property
    def left(self) -> int:
        """The number of tokens that have not run."""
        return len(self.tokens) - self.fed

    @property
    def every(self) -> bool:
        """Whether the logits after every token are needed, and not only after the last one."""
        return self.index is not None

    def values(self, logits: Tensor, start: int) -> Tensor | None:
        """Return the log-probabilities that a pass gives, fp32 [k] on the device of the logits, or None.

        Args:
            logits: fp32 [V] after the last token of the prompt, or fp32 [n, V] after each of n tokens.
            start: The first of these tokens.
        """
        if self.index is None:
            if self.left:
                return None
            targets = torch.tensor([c[0] for c in self.row.continuations], device=logits.device)
            return logits[targets] - logits.logsumexp(-1)
        wanted = self.row.continuations[self.index][start + 1 : start + 1 + len(logits)]
        targets = torch.tensor(wanted, device=logits.device)[:, None]
        return logits.gather(1, targets)[:, 0] - logits.logsumexp(-1)

    def take(self, values: list[float]) -> None:
        """Add the log-probabilities of one pass to the row's."""
        self.row.reads -= 1
        if self.index is None:
            self.row.values[:] = values
        else:
            self.row.values[self.index] += sum(values)


class ScoreQueue:
    """The scoring jobs of one engine. Only the engine's thread uses it.

    Jobs take turns, row by row, so that a short one does not wait for the end of a long one, and equal ones
    end in the order of their arrival.

    Args:
        decoder: The decoder.
        table: Its slots.
    """

    def __init__(self, decoder: Decoder, table: SlotTable) -> None:
        self._table = table
        self._jobs: list[ScoreJob] = []
        self._turn = 0
        self.running: list[ScoreRow] = []
        self._pending: dict[object, ScoreRow] = {}
        self.most_every = max(1, LOGIT_FLOATS // decoder.vocab_size)

    @property
    def active(self) -> bool:
        """Whether there is work left."""
        return bool(self._jobs)

    def add(self, job: ScoreJob) -> None:
        """Queue a job."""
        if not job.done.is_set():
            self._jobs.append(job)

    def drop_cancelled(self) -> None:
        """Forget the jobs whose callers have left, and the rows that nobody else waits for."""
        left = [job for job in self._jobs if job.cancelled]
        if left:
            self._forget(left)

    def fail(self, rows: Iterable[ScoreRow], error: BaseException) -> None:
        """End the jobs of these rows with an error."""
        jobs = [job for row in rows for job, _ in row.owners]
        for job in jobs:
            job.fail(error)
        self._forget(jobs)

    def fail_all(self, error: BaseException) -> None:
        """End all jobs with an error. The slots of their rows are released."""
        for job in self._jobs:
            job.fail(error)
        self._forget(list(self._jobs))

    def _forget(self, jobs: list[ScoreJob]) -> None:
        self._jobs = [job for job in self._jobs if job not in jobs]
        for row in list(self._pending.values()):
            row.owners = [(job, own) for job, own in row.owners if job not in jobs]
            if not row.owners:
                self._leave(row)
                self._release(row, keep=False)

    def portions(self, budget: int, spare: int) -> Iterator[tuple[Strand, int]]:
        """Yield strands and the number of their tokens to run in this step, and begin rows for what is left.

        Args:
            budget: Maximum number of tokens.
            spare: Number of free slots that rows may take.
        """
        every = self.most_every
        for row in self._rows(spare):
            for strand in list(row.strands):
                count = min(strand.left, budget, every if strand.every else budget)
                if count <= 0 or not self._seated(strand):
                    break
                budget -= count
                every -= count if strand.every else 0
                yield strand, count
                if strand.slot == row.slot:
                    break  # What comes next may need this slot.
            if budget <= 0:
                return

    def _rows(self, spare: int) -> Iterator[ScoreRow]:
        """Yield the running rows, then new ones while they are asked for."""
        yield from list(self.running)
        while min(spare, self._table.available) > 0 and len(self.running) < MOST_ROWS:
            row = self._begin()
            if row is None:
                return
            spare -= 1
            yield row

    def _begin(self) -> ScoreRow | None:
        """Begin the next row of the job whose turn it is. None if no row can begin now."""
        for job in sorted(self._jobs, key=lambda job: job.turn):
            while job.waiting:
                own = job.waiting[0]
                equal = self._pending.get(own.key)
                if equal is not None:
                    equal.owners.append((job, own))
                    equal.shared = max(equal.shared, own.shared)
                    job.waiting.popleft()
                    continue
                tokens = sum(row.held for row in self.running)
                if self.running and (tokens + own.held > MOST_TOKENS or self._shares_soon(own)):
                    break
                try:
                    slot, cached = self._table.acquire(own.prompt)
                except Exception as error:
                    memory = out_of_memory(error)
                    if not memory or not (self._table.evict() or self.running):
                        job.fail(not_enough(error) if memory else error)
                        self._forget([job])
                    return None
                job.waiting.popleft()
                row = ScoreRow(own.prompt, own.continuations)
                row.owners, row.shared, row.slot = [(job, own)], own.shared, slot
                row.strands = [Strand(row, None, slot, cached)]
                row.strands += [Strand(row, i, None) for i, c in enumerate(row.continuations) if len(c) > 1]
                self._pending[row.key] = row
                self.running.append(row)
                self._share(row)
                self._turn += 1
                job.turn = self._turn
                return row
        return None

    def _share(self, row: ScoreRow) -> None:
        """Let a row that begins serve all equal rows that wait."""
        for job in self._jobs:
            for own in [own for own in job.waiting if own.prompt == row.prompt and own.key == row.key]:
                job.waiting.remove(own)
                row.owners.append((job, own))
                row.shared = max(row.shared, own.shared)

    def _shares_soon(self, own: ScoreRow) -> bool:
        """Return whether a prefix is about to be cached that is worth waiting for."""
        begun = (row for row in self.running if row.strands and row.strands[0].index is None)
        soon = max((common_prefix(row.prompt, own.prompt) for row in begun), default=0)
        return soon >= self._table.best(own.prompt)[1] + MIN_SHARED

    def _seated(self, strand: Strand) -> bool:
        """Give a strand its slot: a copy of the prompt's, or that one itself for the last of the row.

        If no slot is free, the strand takes the prompt's, which is cut back to the prompt before.

        Returns:
            False if it has to wait, or if its row has failed.
        """
        row = strand.row
        if strand.slot is not None:
            return True
        assert row.slot is not None
        free = self._table.available > 0 and strand is not row.strands[-1]
        if not free and strand is not row.strands[0]:
            return False  # Another one may use the prompt's slot.
        try:
            if free:
                strand.slot = self._table.branch(row.slot, len(row.prompt))
            else:
                if self._table.length(row.slot) > len(row.prompt):
                    self._table.rewind(row.slot, len(row.prompt))
                strand.slot = row.slot
        except Exception as error:
            memory = out_of_memory(error)
            if not memory or not (self._table.evict() or len(self.running) > 1):
                self.fail([row], not_enough(error) if memory else error)
            elif not free or self.running[-1] is row:
                self.preempt(row)
            return False
        return True

    def ran(self, strand: Strand, tokens: list[int]) -> None:
        """Record tokens of a strand that the decoder has run."""
        assert strand.slot is not None
        self._table.extend(strand.slot, tokens)
        strand.fed += len(tokens)
        if strand.left == 0:
            row = strand.row
            row.strands.remove(strand)
            if strand.slot != row.slot:
                self._table.release(strand.slot, keep=False)

    def finish_rows(self) -> None:
        """Settle the rows whose values are complete, in the order of their beginning."""
        for row in [row for row in self.running if not row.strands and not row.reads]:
            self._leave(row)
            self._release(row, keep=True)
            for job, own in row.owners:
                job.settle(own, row.values)
        self._jobs = [job for job in self._jobs if not job.done.is_set()]

    def preempt(self, row: ScoreRow | None = None) -> bool:
        """Stop a row (the youngest) to make room; it runs again later. Returns False if none runs."""
        row = row or next(reversed(self.running), None)
        if row is None:
            return False
        self._leave(row)
        self._release(row, keep=False)
        self._requeue(row)
        return True

    def restart(self, lost: Collection[int]) -> None:
        """Run rows again that use one of these slots, which were emptied."""
        for row in list(self.running):
            slots = [row.slot, *(strand.slot for strand in row.strands)]
            if any(slot in lost for slot in slots if slot is not None):
                self._leave(row)
                self._release(row, keep=False, gone=lost)
                self._requeue(row)

    def _requeue(self, row: ScoreRow) -> None:
        for job, own in row.owners:
            job.waiting.appendleft(own)
        row.owners = []

    def _leave(self, row: ScoreRow) -> None:
        self._pending.pop(row.key, None)
        if row in self.running:
            self.running.remove(row)

    def _release(self, row: ScoreRow, *, keep: bool, gone: Collection[int] = ()) -> None:
        """Release the slots of a row. The prompt's prefix that others share stays cached."""
        for strand in row.strands:
            if strand.slot is not None and strand.slot != row.slot and strand.slot not in gone:
                self._table.release(strand.slot, keep=False)
        if row.slot is not None and row.slot not in gone:
            self._table.release(row.slot, keep=keep, length=row.shared)
        row.slot, row.strands = None, []
