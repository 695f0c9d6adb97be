"""Decode steps: launching them, reading their results, and delivering these to the callers.

If the decoder can run ahead, the next step is launched before the tokens of the last one are read. If the
host has to choose a token (a grammar), that step is read first. A request that turns out to be finished, by
an end token, a stop string or a caller that left, may have had one extra token computed. It is discarded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llms.decoders.base import Decoder, StepResult
from llms.decoders.sampling import Sampling, process_logits, sample
from llms.engine.prefix import SlotTable, out_of_memory
from llms.engine.request import Sequence, TokenInfo
from llms.engine.scheduler import Scheduler, StepPlan, too_large
from llms.engine.score import ScoreQueue, Strand, not_enough, packed
from llms.engine.speculation import Drafter
from llms.errors import DamagedCheckpoint

Portion = tuple[Sequence | Strand, int]
"""A sequence or a strand of scoring, and the number of its tokens in a step."""


def choose(logits: Tensor, sequence: Sequence) -> int:
    """Return the next token of one request, chosen by its sampling parameters and its grammar.

    Args:
        logits: fp32 [V].
        sequence: The request and the tokens that it has generated.
    """
    request, generated = sequence.request, sequence.generated
    held = sequence.tokens if request.repetition_penalty != 1.0 else ()
    processed = process_logits(logits, request.device_sampling, held)
    if request.constraint is not None:
        mask = request.constraint.mask(request.max_tokens - len(generated))
        processed = processed.masked_fill(~mask[: processed.numel()].to(processed.device), -torch.inf)
    position = len(request.prompt) + len(generated)
    token = int(sample(processed[None], [request.sampling], [position]))
    if request.constraint is not None:
        token = request.constraint.fit_budget(token, request.max_tokens - len(generated))
    return token


def report(logits: Tensor, token: int, alternatives: int) -> TokenInfo:
    """Return the log-probabilities (nats) of a token and of the most probable tokens.

    Args:
        logits: fp32 [V], the model's own: neither masked nor processed.
        token: The token that was chosen.
        alternatives: Number of most probable tokens to report.
    """
    logprobs = logits.log_softmax(-1)
    top: tuple[tuple[int, float], ...] = ()
    if alternatives:
        values, tokens = logprobs.topk(min(alternatives, logprobs.numel()))
        top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return TokenInfo(token, float(logprobs[token]), top)


class HostCopy:
    """An asynchronous copy of tensors to the host. Reading them waits once, and not for later launches.

    Args:
        tensors: Tensors on one device. They are copied after the work that is on its current CUDA stream.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._event: Any = None
        self._host: list[Tensor] = []
        for tensor in tensors:
            if not tensor.is_cuda:
                self._host.append(tensor)
                continue
            self._host.append(torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True))
            self._host[-1].copy_(tensor, non_blocking=True)
            self._event = self._event or torch.cuda.Event()  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record()

    def read(self) -> list[Tensor]:
        """Wait for these tensors and return them."""
        if self._event is not None:
            self._event.synchronize()
        return self._host


class PendingStep:
    """A step that was launched and whose results the host has not read.

    Everything that the host will need is copied to it in one go: tokens, checks for NaN, the logits of
    requests whose token the host chooses or reports on, and scores.

    Args:
        portions: The sequence or strand of each row, and the number of its tokens.
        result: The decoder's result.

    Attributes:
        rows: The row of each sequence that takes its token. Sequences that end in the meantime are removed.
        tokens: int64 [n] on the decoder's device.
    """

    def __init__(self, portions: list[Portion], result: StepResult) -> None:
        assert result.tokens is not None
        self.tokens, self._count = result.tokens, len(portions)
        self.rows: dict[Sequence, int] = {}
        self._strands: list[Strand] = []
        scores: list[Tensor] = []
        for row, (owner, count) in enumerate(portions):
            if isinstance(owner, Sequence):
                if owner.pending == 0:
                    self.rows[owner] = row
                continue
            logits = result.logits[row]
            if not owner.every and logits.ndim == 2:
                logits = logits[-1]
            if (values := owner.values(logits, owner.fed - count)) is not None:
                self._strands.append(owner)
                scores.append(values)
        self._fresh = [s for s in self.rows if not s.checked]
        self._shown = [s for s in self.rows if s.request.on_host or s.request.top_logprobs is not None]
        copies = [result.tokens]
        if self._fresh:
            copies.append(_last(result, [self.rows[s] for s in self._fresh]).isnan().any(-1))
        if self._shown:
            copies.append(_last(result, [self.rows[s] for s in self._shown]))
        self._copy = HostCopy([*copies, *scores])
        for strand in self._strands:
            strand.row.reads += 1

    def read(self) -> StepReading:
        """Wait for this step and return its results."""
        tensors = iter(self._copy.read())
        tokens: list[int] = next(tensors).tolist()
        nan = next(tensors).tolist() if self._fresh else []
        logits = next(tensors) if self._shown else ()
        return StepReading(
            tokens,
            {s for s, bad in zip(self._fresh, nan, strict=True) if bad},
            dict(zip(self._shown, logits, strict=True)),
            [(strand, values.tolist()) for strand, values in zip(self._strands, tensors, strict=True)],
        )

    @property
    def strands(self) -> list[Strand]:
        """The strands of scoring that get values."""
        return self._strands

    def take(self, sequences: list[Sequence]) -> Tensor:
        """Return the tokens of sequences on the device, int64 [n], without a copy if possible."""
        rows = [self.rows[sequence] for sequence in sequences]
        if rows == list(range(self._count)):
            return self.tokens
        index = torch.tensor(rows, pin_memory=self.tokens.is_cuda)
        return self.tokens[index.to(self.tokens.device, non_blocking=True)]


class StepReading(NamedTuple):
    """What the host reads of a step.

    Attributes:
        tokens: The token of each row.
        damaged: The sequences whose first logits contain NaN.
        logits: fp32 [V] on the host, for sequences that need them.
        scores: The values of each strand.
    """

    tokens: list[int]
    damaged: set[Sequence]
    logits: dict[Sequence, Tensor]
    scores: list[tuple[Strand, list[float]]]


def _last(result: StepResult, rows: list[int]) -> Tensor:
    """Return the logits after the last token of some rows, fp32 [rows, V]."""
    if isinstance(result.logits, Tensor):
        return result.logits if rows == list(range(len(result.logits))) else result.logits[rows]
    return torch.stack([result.logits[row][-1] for row in rows])


class PendingSteps:
    """The steps in flight, in the order of their launch."""

    def __init__(self) -> None:
        self._steps: list[PendingStep] = []

    def __len__(self) -> int:
        """Return the number of steps in flight."""
        return len(self._steps)

    def add(self, pending_step: PendingStep) -> None:
        """Add a step that was just launched."""
        self._steps.append(pending_step)
        for sequence in pending_step.rows:
            sequence.pending_step = pending_step

    def pop(self) -> PendingStep:
        """Remove and return the oldest step."""
        pending_step = self._steps.pop(0)
        for sequence in pending_step.rows:
            if sequence.pending_step is pending_step:
                sequence.pending_step = None
        return pending_step

    def clear(self) -> None:
        """Drop all steps in flight."""
        for pending_step in self._steps:
            for sequence in pending_step.rows:
                sequence.pending_step = None
        self._steps.clear()

    def forget(self, sequence: Sequence) -> None:
        """Drop the pending token of a sequence that loses its slot. Other rows are not affected."""
        for pending_step in self._steps:
            pending_step.rows.pop(sequence, None)
        sequence.pending_step = None

    def device_inputs(self, sequences: list[Sequence]) -> tuple[list[Sequence], Tensor | None]:
        """Return the sequences whose token is in flight, ordered by row, and those tokens on the device."""
        ordered: list[Sequence] = []
        parts: list[Tensor] = []
        for pending_step in self._steps:
            mine = sorted(
                (s for s in sequences if s.pending_step is pending_step), key=pending_step.rows.__getitem__
            )
            if mine:
                ordered += mine
                parts.append(pending_step.take(mine))
        if not parts:
            return [], None
        return ordered, parts[0] if len(parts) == 1 else torch.cat(parts)


class StepRunner:
    """Launches the steps of one engine and delivers their results. Only the engine's thread uses it.

    Args:
        decoder: The decoder that runs the steps.
        table: The decoder's slots.
        scheduler: Knows the active sequences.
        scores: The scoring jobs.
        pending: The steps in flight.
    """

    def __init__(
        self,
        decoder: Decoder,
        table: SlotTable,
        scheduler: Scheduler,
        scores: ScoreQueue,
        pending: PendingSteps,
    ) -> None:
        self._decoder, self._table, self._scheduler, self._scores = decoder, table, scheduler, scores
        self._ahead = bool(getattr(decoder, "runs_ahead", False))
        self._ragged = bool(getattr(decoder, "ragged", False))
        self.pending_steps = pending
        self.drafter = Drafter(decoder, table)
        self._candidate: Sequence | None = None

    def settle(self) -> None:
        """Read the steps in flight if the next one depends on them: a grammar's token, or a draft."""
        active = self._scheduler.active
        self._candidate = self.drafter.candidate(active)
        if self._candidate or any(s.pending_step is not None and s.request.on_host for s in active):
            self.read_back()

    def run(self, plan: StepPlan) -> None:
        """Launch the passes of a plan.

        A decoder whose rows may differ in length at no cost (`ragged`) runs all tokens in one pass.
        Otherwise rows of similar lengths run together.
        """
        decode: list[Portion] = [(sequence, sequence.schedulable) for sequence in plan.decode]
        more: list[Portion] = [*plan.prompts, *plan.scores]
        if self._ragged and more:
            self.launch([*decode, *more])
            return
        for batch in self._batches(more):
            self.launch(batch)
        alone = self._candidate if [self._candidate] == plan.decode and not more else None
        draft = self.drafter.propose(alone) if alone is not None else []
        if alone is None or not draft or not self._verify(alone, draft):
            self.launch(decode)
            if alone is not None:
                self.read_back()

    def _batches(self, portions: list[Portion]) -> Iterator[list[Portion]]:
        """Yield portions that run in one pass: of similar sizes, and with the same kind of logits."""
        budget = max(self._scheduler.budget)
        for every in (False, True):
            same = [p for p in portions if isinstance(p[0], Strand) and p[0].every]
            if not every:
                same = [p for p in portions if p not in same]
            most = min(budget, self._scores.most_every) if every else budget
            yield from packed(same, lambda p: p[1], most)

    def launch(self, portions: list[Portion]) -> None:
        """Launch one pass over tokens of prompts, decoding sequences and strands of scoring."""
        portions = [(owner, count) for owner, count in portions if _present(owner)]
        if not portions:
            return
        sequences = [owner for owner, _ in portions if isinstance(owner, Sequence)]
        ahead, given = self.pending_steps.device_inputs(sequences)
        counts = dict(portions)
        ordered: list[Portion] = [(sequence, 1) for sequence in ahead]
        ordered += [(s, counts[s]) for s in sequences if s.pending_step is None]
        ordered += [p for p in portions if isinstance(p[0], Strand)]
        fed = ordered[len(ahead) :]
        lists = [_next_tokens(owner, count) for owner, count in fed]
        every = any(isinstance(owner, Strand) and owner.every for owner, _ in ordered)
        how = [owner.sampling if isinstance(owner, Sequence) else Sampling() for owner, _ in ordered]
        try:
            slots = [owner.slot for owner, _ in ordered if owner.slot is not None]
            result = self._decoder.step(slots, lists, how, all_logits=every, given=given)
        except BaseException as error:
            self._failed([owner for owner, _ in ordered], error)
            return
        for (owner, _), tokens in zip(fed, lists, strict=True):
            if isinstance(owner, Strand):
                self._scores.ran(owner, tokens)
            else:
                assert owner.slot is not None
                self._table.extend(owner.slot, tokens)
                owner.pending -= len(tokens)
        try:
            self.pending_steps.add(PendingStep(ordered, result))
        except BaseException as error:  # CUDA reports errors late.
            self._fail([owner for owner, _ in ordered], error)
            return
        if not self._ahead:
            self.read_back()

    def _failed(self, owners: list[Sequence | Strand], error: BaseException) -> None:
        """Repair the cache after a call of the decoder has failed; make room, or end what it was for."""
        flying = len(self.pending_steps) > 0
        self.read_back()  # Sequences that turn out to be finished release their slots.
        self.repair()
        if not out_of_memory(error):
            self._fail(owners, error)
        elif not (self._table.evict() or flying or self._scheduler.make_room()):
            self._fail(owners, error)

    def repair(self) -> None:
        """Make the decoder hold what is recorded, and compute again what it lost. No step is in flight."""
        if lost := self._table.repair():
            self._scheduler.restart(lost)
            self._scores.restart(lost)

    def _fail(self, owners: Iterable[Sequence | Strand], error: BaseException) -> None:
        """End sequences and scoring jobs with an error."""
        memory = out_of_memory(error)
        for owner in owners:
            if isinstance(owner, Sequence):
                self._scheduler.fail([owner], too_large(owner, error) if memory else error)
            elif owner.row.owners:
                self._scores.fail([owner.row], not_enough(error) if memory else error)

    def read_back(self, count: int | None = None) -> None:
        """Read the oldest `count` steps in flight (all of them by default) and deliver their results."""
        for _ in range(len(self.pending_steps) if count is None else min(count, len(self.pending_steps))):
            pending_step = self.pending_steps.pop()
            try:
                read = pending_step.read()
            except BaseException as error:
                self._fail([*pending_step.rows, *pending_step.strands], error)
                continue
            for sequence, row in list(pending_step.rows.items()):
                if sequence in read.damaged:
                    self._fail([sequence], _damaged())
                elif not sequence.finished:
                    self._take(sequence, read.tokens[row], read.logits.get(sequence))
            for strand, values in read.scores:
                strand.take(values)

    def _take(self, sequence: Sequence, token: int, logits: Tensor | None) -> None:
        """Deliver the next token of a sequence, and the tokens that its grammar forces after it."""
        request = sequence.request
        info: TokenInfo | None = None
        complete = False
        sequence.checked = True
        try:
            if logits is not None and request.on_host:
                token = choose(logits, sequence)
            if logits is not None and request.top_logprobs is not None:
                info = report(logits, token, request.top_logprobs)
            if request.constraint is not None:
                complete = request.constraint.accept(token)
            forced = [] if complete else self._forced(sequence, spent=1)
            self._deliver(sequence, [(token, complete), *forced], info)
        except BaseException as error:
            self._fail([sequence], error)
            return
        self.drafter.observe(sequence, [token], "plain" if sequence is self._candidate else "ahead")
        if sequence.pending_step is not None and not sequence.finished:
            # The next step was launched with this token, so it was pending on the host only.
            assert sequence.slot is not None
            self._table.extend(sequence.slot, [token])
            sequence.pending -= 1

    def begin(self, sequence: Sequence) -> None:
        """Deliver the tokens that a grammar forces before the first token is sampled."""
        try:
            self._deliver(sequence, self._forced(sequence))
        except BaseException as error:
            self._fail([sequence], error)

    def _verify(self, sequence: Sequence, draft: list[int]) -> bool:
        """Verify a draft in one step. Return False if memory has no room for it."""
        try:
            new = self.drafter.run(sequence, draft)
        except BaseException as error:
            self.repair()
            if out_of_memory(error) and sequence.slot is not None:
                return False
            if not out_of_memory(error):
                self._fail([sequence], error)
            return True
        sequence.pending = 1 - len(new)  # All but the last are in the cache.
        try:
            self._deliver(sequence, [(token, False) for token in new])
        except BaseException as error:
            self._fail([sequence], error)
            return True
        self.drafter.observe(sequence, new, "verify")
        return True

    def _forced(self, sequence: Sequence, spent: int = 0) -> list[tuple[int, bool]]:
        """Return the tokens that a grammar forces now, each with whether it completes the text.

        They need no logits, so they all run in the pass that computes the next free token. If the request
        wants log-probabilities, every token is computed on its own.
        """
        request = sequence.request
        if request.constraint is None or request.top_logprobs is not None:
            return []
        left = request.max_tokens - len(sequence.generated) - spent
        found: list[tuple[int, bool]] = []
        for token in request.constraint.forced()[: max(0, left)]:
            found.append((token, request.constraint.accept(token)))
        return found

    def _deliver(
        self, sequence: Sequence, tokens: list[tuple[int, bool]], info: TokenInfo | None = None
    ) -> None:
        """Add tokens to the sequence. The decoder has yet to see them, so they become pending."""
        for token, complete in tokens:
            if not sequence.finished:
                sequence.push(token, info, complete)
                sequence.pending += 1


def _next_tokens(owner: Sequence | Strand, count: int) -> list[int]:
    if isinstance(owner, Strand):
        return owner.tokens[owner.fed : owner.fed + count]
    return owner.next_tokens(count)


def _present(owner: Sequence | Strand) -> bool:
    """Return whether something planned still has its slot, which a failure since may have taken."""
    if isinstance(owner, Strand):
        return owner in owner.row.strands
    return owner.slot is not None and not owner.finished


def _damaged() -> DamagedCheckpoint:
    return DamagedCheckpoint(
        "expected finite logits, found NaN at the first token, so the weights are damaged or overflow in "
        "this dtype; load with dtype='float32', or fetch the checkpoint again"
    )
