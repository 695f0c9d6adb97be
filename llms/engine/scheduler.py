"""The scheduler: which sequences have a slot, and which tokens run in the next step.

A step gives every running sequence its next token. What is left of its budget goes to prompts, those first
that have waited longest, and to scoring. The scheduler does not see logits, and only the engine's thread uses
it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from llms.decoders.base import Decoder
from llms.engine.prefix import MIN_SHARED, SlotTable, common_prefix, out_of_memory
from llms.engine.request import Phase, Sequence
from llms.engine.score import ScoreQueue, Strand
from llms.errors import RequestTooLarge

SHORT = 8
"""Maximum number of pending tokens that run in a decode step. More of them are run as a prefill."""


class Budget(NamedTuple):
    """Most tokens of one step, besides those of sequences that decode.

    Attributes:
        prompts: Tokens of prompts if no sequence decodes.
        next_to_decode: Tokens of prompts if one does.
        scores: Tokens of scoring if nothing else runs.
        next_to_others: Tokens of scoring if something does.
    """

    prompts: int
    next_to_decode: int
    scores: int
    next_to_others: int


GPU_BUDGET = Budget(1024, 1024, 1024, 256)
CPU_BUDGET = Budget(64, 64, 64, 32)
RAGGED_CPU_BUDGET = Budget(64, 8, 32, 4)
"""On two cores a decode step of the embedded model takes 5 ms and each token more in the same pass 0.7 ms. So
4 tokens of scoring make an answer 1.6 times as long, and 8 of a prompt twice. Passes of more than 64 tokens
are not faster per token (0.79 ms at 32, 0.73 at 64, 0.80 at 256), and a request that arrives waits for one.
"""


def budget_of(decoder: Decoder) -> Budget:
    """Return the budget of a decoder's steps."""
    if decoder.device.type != "cpu":
        return GPU_BUDGET
    return RAGGED_CPU_BUDGET if getattr(decoder, "ragged", False) else CPU_BUDGET


def too_large(sequence: Sequence, error: BaseException) -> BaseException:
    """Return the error for a request that does not fit in memory even when it runs alone."""
    length = len(sequence.request.prompt) + len(sequence.generated)
    failure = RequestTooLarge(
        f"expected room for the KV cache of one sequence of {length} tokens, found none, with no other "
        f"request running ({error}); shorten the prompt, or load the model with a smaller window"
    )
    failure.__cause__ = error
    return failure


@dataclass(slots=True)
class StepPlan:
    """The tokens of one step.

    Attributes:
        decode: The sequences that get their next token.
        prompts: Sequences whose prompts are prefilled, each with its number of tokens.
        scores: Strands of scoring, each with its number of tokens.
    """

    decode: list[Sequence]
    prompts: list[tuple[Sequence, int]] = field(default_factory=list)
    scores: list[tuple[Strand, int]] = field(default_factory=list)


class Scheduler:
    """The waiting and the active sequences of one engine.

    Args:
        decoder: The decoder.
        table: Its slots.
        scores: The scoring jobs.
        max_batch: Maximum number of sequences that hold a slot at once.
        on_release: Called with each sequence that loses its slot, before the slot is released.
    """

    def __init__(
        self,
        decoder: Decoder,
        table: SlotTable,
        scores: ScoreQueue,
        *,
        max_batch: int,
        on_release: Callable[[Sequence], None],
    ) -> None:
        self.waiting: list[Sequence] = []
        self.active: list[Sequence] = []
        self.budget = budget_of(decoder)
        self._table, self._scores = table, scores
        self._max_batch = self._limit = max_batch
        self._on_release = on_release
        self._steps = 0
        self._score_next = True

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Queue sequences."""
        self.waiting += sequences

    @property
    def busy(self) -> bool:
        """Whether a sequence could go on now: one whose reader keeps up."""
        return any(not s.lagging for s in [*self.active, *self.waiting])

    # ---- What runs -----------------------------------------------------------------------------

    def plan(self) -> StepPlan:
        """Return the tokens of the next step."""
        self._steps += 1
        plan = StepPlan([s for s in self.active if 0 < s.schedulable <= SHORT and not s.lagging])
        left = self.budget.next_to_decode if plan.decode else self.budget.prompts
        for sequence in sorted((s for s in self.active if s.pending > SHORT), key=lambda s: s.turn):
            if (count := min(sequence.pending, left)) <= 0:
                break
            left -= count
            sequence.turn = self._steps
            plan.prompts.append((sequence, count))
        if self._scores.active and not self._scores.running and self._table.available == 0:
            self._pause()  # The slots of slow readers would otherwise be taken for ever.
        others = plan.decode or plan.prompts
        scores = self.budget.next_to_others if others else self.budget.scores
        plan.scores = list(self._scores.portions(scores, self._spare()))
        return plan

    def _spare(self) -> int:
        """Return the number of slots that new rows of scoring may take: those that no sequence waits for."""
        coming = sum(1 for s in self.waiting if not s.lagging)
        coming = min(coming, max(0, self._limit - len(self.active)))
        if self._table.available - coming <= 0 and not self._scores.running and self._score_next:
            return min(1, self._table.available)
        return self._table.available - coming

    # ---- Who has a slot ------------------------------------------------------------------------

    def retire(self) -> None:
        """Release the slots of finished sequences, and end those whose callers have left."""
        for sequence in [*self.active, *self.waiting]:
            if not sequence.finished and sequence.abandoned:
                sequence.finish()
        self.waiting = [s for s in self.waiting if not s.finished]
        over = [s for s in self.active if s.finished]
        if over:
            self.active = [s for s in self.active if not s.finished]
            self._limit = self._max_batch
            for sequence in over:
                self._release(sequence)

    def admit(self, begin: Callable[[Sequence], None]) -> None:
        """Give slots to waiting sequences, first come, first served.

        A sequence waits while its prompt shares a longer prefix with a prompt that is being prefilled than
        with anything cached. Eight requests with one system prompt therefore prefill it once.

        Args:
            begin: Called with each sequence before it is given its first slot.
        """
        for sequence in [s for s in self.waiting if not s.lagging]:
            if len(self.active) >= self._limit and not self._pause():
                return
            if self._left_to_scores():
                return
            if self._table.available == 0 or self._shares_soon(sequence):
                continue
            while self.active and self._missing(sequence) > self._table.room:
                if not self._pause():
                    return  # Its prompt would evict running sequences, or itself.
            if not sequence.generated:
                begin(sequence)
            if not sequence.finished:
                self._place(sequence)

    def _left_to_scores(self) -> bool:
        """Return whether scoring has the last free slot. It takes turns with sequences that wait for one."""
        if not self._scores.active or self._scores.running or self._table.available != 1:
            return False
        self._score_next = not self._score_next
        return not self._score_next

    def _place(self, sequence: Sequence) -> None:
        """Give a waiting sequence a slot, and reuse the cached prefix of its tokens."""
        tokens = sequence.tokens
        try:
            slot, cached = self._table.acquire(tokens)
        except Exception as error:
            memory = out_of_memory(error)
            if not (memory and (self._table.evict() or self.make_room())):
                self.waiting.remove(sequence)
                sequence.finish(too_large(sequence, error) if memory else error)
            return
        self.waiting.remove(sequence)
        self.active.append(sequence)
        if sequence.phase is Phase.WAITING:
            sequence.cached_tokens = min(cached, len(sequence.request.prompt))
        sequence.phase, sequence.slot, sequence.pending = Phase.RUNNING, slot, len(tokens) - cached

    def _missing(self, sequence: Sequence) -> int:
        """Return the number of tokens of a waiting sequence that are not cached."""
        tokens = sequence.tokens
        return len(tokens) - self._table.best(tokens)[1]

    def _shares_soon(self, sequence: Sequence) -> bool:
        """Return whether a running prefill is about to cache a prefix that is worth waiting for."""
        prompt = sequence.request.prompt
        running = (s for s in self.active if s.pending > SHORT)
        soon = max((common_prefix(s.request.prompt, prompt) for s in running), default=0)
        return soon >= MIN_SHARED and soon >= self._table.best(list(prompt))[1] + MIN_SHARED

    def _pause(self) -> bool:
        """Pause a sequence whose reader is slow. It loses its slot, and its KV stays cached."""
        slow = (s for s in self.active if s.lagging and s.pending_step is None and not s.finished)
        if (sequence := next(slow, None)) is None:
            return False
        self._requeue(sequence, keep=True)
        return True

    def make_room(self) -> bool:
        """Pause something when no cached prefix is left to evict: a slow reader, scoring, or the youngest.

        What is paused waits until something else finishes. Returns False if only one sequence or row of
        scoring is left, which is then too large for the memory.
        """
        if self._pause():
            return True
        running = [s for s in self.active if not s.finished]
        if len(running) + len(self._scores.running) < 2:
            return False
        if self._scores.preempt():
            return True
        self._requeue(running[-1], keep=False)
        self._limit = len(running) - 1
        return True

    def _requeue(self, sequence: Sequence, *, keep: bool) -> None:
        self.active.remove(sequence)
        self.waiting.append(sequence)
        self._release(sequence, keep=keep)
        sequence.phase = Phase.PAUSED

    # ---- Failures ------------------------------------------------------------------------------

    def restart(self, lost: Collection[int]) -> None:
        """Let the sequences in these slots, which were emptied, wait to be computed again."""
        hit = [s for s in self.active if s.slot in lost]
        self.active = [s for s in self.active if s not in hit]
        for sequence in hit:
            self._on_release(sequence)
            sequence.slot, sequence.pending = None, 0
            if not sequence.finished:
                sequence.phase = Phase.PAUSED
                self.waiting.insert(0, sequence)

    def fail(self, sequences: Iterable[Sequence], error: BaseException) -> None:
        """End sequences with an error and drop their KV, which may be incomplete or NaN."""
        for sequence in sequences:
            sequence.finish(error)
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            if sequence in self.active:
                self.active.remove(sequence)
                self._release(sequence, keep=False)
                self._limit = self._max_batch

    def _release(self, sequence: Sequence, *, keep: bool = True) -> None:
        assert sequence.slot is not None
        self._on_release(sequence)
        slot, sequence.slot, sequence.pending = sequence.slot, None, 0
        self._table.release(slot, keep=keep)
