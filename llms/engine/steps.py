"""Decode steps: launching them, reading their tokens, and delivering these to the streams.

If the decoder can run ahead, the next step is launched before the tokens of the last one are read. If the
host has to choose a token (a grammar), that step is read first. A request that turns out to be finished, by
an end token, a stop string or a caller that left, may have had one extra token computed. It is discarded.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llms.decoders.base import Decoder, StepResult
from llms.decoders.sampling import process_logits, sample
from llms.engine.prefix import SlotTable
from llms.engine.request import Stream, TokenInfo
from llms.engine.scheduler import Scheduler, out_of_memory, too_large
from llms.engine.speculation import Drafter
from llms.errors import DamagedCheckpoint


def choose(logits: Tensor, stream: Stream) -> int:
    """Return the next token of one request, chosen by its sampling parameters and its grammar.

    Args:
        logits: fp32 [V].
        stream: The request and the tokens that it has generated.
    """
    request, generated = stream.request, stream.generated
    processed = process_logits(logits, request.device_sampling, [*request.prompt, *generated])
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
    """An asynchronous copy of a small tensor to the host. Reading it does not wait for later launches."""

    def __init__(self, tensor: Tensor) -> None:
        """Start the copy. It runs after the work that is on the current CUDA stream."""
        self._event: Any = None
        self._host = tensor
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> list[Any]:
        """Wait for this tensor and return its values."""
        if self._event is not None:
            self._event.synchronize()
        found: list[Any] = self._host.tolist()
        return found


class PendingStep:
    """A step that was launched and whose tokens the host has not read.

    Args:
        streams: The request of each row.
        result: The decoder's result.

    Attributes:
        rows: The row of each request that takes its token. Requests that end in the meantime are removed.
        tokens: int64 [n] on the decoder's device.
        logits: fp32 [n, V] on the decoder's device.
    """

    def __init__(self, streams: Sequence[Stream], result: StepResult) -> None:
        assert result.tokens is not None and isinstance(result.logits, Tensor)
        self.tokens, self.logits = result.tokens, result.logits
        self.rows = {stream: row for row, stream in enumerate(streams) if stream.pending == 0}
        self._count = len(streams)
        self._coming = HostCopy(result.tokens)
        self._fresh = [h for h in self.rows if not h.checked]
        rows = [self.rows[h] for h in self._fresh]
        self._bad = HostCopy(result.logits[rows].isnan().any(-1)) if rows else None

    def read(self) -> list[int]:
        """Wait for this step and return the tokens of all rows."""
        return self._coming.read()

    def damaged(self) -> set[Stream]:
        """Return the requests whose first logits contain NaN."""
        if self._bad is None:
            return set()
        return {h for h, bad in zip(self._fresh, self._bad.read(), strict=True) if bad}

    def take(self, streams: Sequence[Stream]) -> Tensor:
        """Return the tokens of these streams on the device, int64 [streams], without a copy if possible."""
        rows = [self.rows[stream] for stream in streams]
        if rows == list(range(self._count)):
            return self.tokens
        index = torch.tensor(rows, pin_memory=self.tokens.is_cuda)
        return self.tokens[index.to(self.tokens.device, non_blocking=True)]


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
        for stream in pending_step.rows:
            stream.pending_step = pending_step

    def pop(self) -> PendingStep:
        """Remove and return the oldest step."""
        pending_step = self._steps.pop(0)
        for stream in pending_step.rows:
            if stream.pending_step is pending_step:
                stream.pending_step = None
        return pending_step

    def clear(self) -> None:
        """Drop all steps in flight."""
        for pending_step in self._steps:
            for stream in pending_step.rows:
                stream.pending_step = None
        self._steps.clear()

    def forget(self, stream: Stream) -> None:
        """Drop the pending token of a request that loses its slot. Other rows are not affected."""
        for pending_step in self._steps:
            pending_step.rows.pop(stream, None)
        stream.pending_step = None

    def device_inputs(self, streams: Sequence[Stream]) -> tuple[list[Stream], Tensor | None]:
        """Return the streams whose token is in flight, ordered by row, and those tokens on the device."""
        ordered: list[Stream] = []
        parts: list[Tensor] = []
        for pending_step in self._steps:
            mine = sorted(
                (h for h in streams if h.pending_step is pending_step), key=pending_step.rows.__getitem__
            )
            if mine:
                ordered += mine
                parts.append(pending_step.take(mine))
        if not parts:
            return [], None
        return ordered, parts[0] if len(parts) == 1 else torch.cat(parts)


PREFILL_TOKENS = 1024
"""Maximum number of prompt tokens (padding included) that one step prefills, so that running requests are
not held up for longer."""


class StepRunner:
    """Launches the steps of one engine and delivers their tokens. Only the leader calls it.

    Args:
        decoder: The decoder that runs the steps.
        table: The decoder's slots.
        scheduler: Knows the active requests.
        pending: The steps in flight.
        lock: The engine's lock.
    """

    def __init__(
        self,
        decoder: Decoder,
        table: SlotTable,
        scheduler: Scheduler,
        pending: PendingSteps,
        lock: threading.Lock,
    ) -> None:
        self._decoder, self._table, self._scheduler, self._lock = decoder, table, scheduler, lock
        self._ahead = bool(getattr(decoder, "runs_ahead", False))
        self.pending_steps = pending
        self.drafter = Drafter(decoder, table)
        self._candidate: Stream | None = None
        self._taking: Stream | None = None

    def settle(self) -> None:
        """Read the steps in flight if the next one depends on them: a grammar's token, or a draft."""
        active = self._scheduler.active
        self._candidate = self.drafter.candidate(active)
        if self._candidate or any(h.pending_step is not None and h.request.on_host for h in active):
            self.read_back()

    def launch(self, batch: Sequence[Stream]) -> None:
        """Launch a step over the pending tokens of a batch (a chunk of a long prompt), or those in flight."""
        device_inputs, given = self.pending_steps.device_inputs(batch)
        batch = [*device_inputs, *(h for h in batch if h.pending_step is None)]
        slots = [stream.slot for stream in batch if stream.slot is not None]
        lists = [stream.next_tokens(PREFILL_TOKENS) for stream in batch[len(device_inputs) :]]
        how = [stream.sampling for stream in batch]
        while True:
            try:
                result = self._decoder.step(slots, lists, how, given=given)
                break
            except Exception as error:
                if not out_of_memory(error):
                    self.fail(batch, error)
                elif self._table.evict():
                    continue
                elif len(self.pending_steps):
                    self.read_back()  # Requests that turn out to be finished release their slots.
                elif not self._scheduler.make_room():
                    self.fail(batch, too_large(batch[0], error))
                return
        for slot, stream, tokens in zip(
            slots[len(device_inputs) :], batch[len(device_inputs) :], lists, strict=True
        ):
            self._table.extend(slot, tokens)
            stream.pending -= len(tokens)
        try:
            self.pending_steps.add(PendingStep(batch, result))
        except Exception as error:  # CUDA reports errors late.
            self.fail(batch, error)
            return
        if not self._ahead:
            self.read_back()

    def decode(self, ready: Sequence[Stream]) -> None:
        """Launch a step for all requests that need a token, or verify a draft of one that is alone."""
        if self._candidate is None or list(ready) != [self._candidate]:
            self.launch(ready)
            return
        draft = self.drafter.propose(self._candidate)
        if not draft or not self._verify(self._candidate, draft):
            self.launch(ready)
            self.read_back()

    def read_back(self, count: int | None = None) -> None:
        """Read the oldest `count` steps in flight (all of them by default) and deliver their tokens."""
        for _ in range(len(self.pending_steps) if count is None else min(count, len(self.pending_steps))):
            pending_step = self.pending_steps.pop()
            try:
                tokens, damaged = pending_step.read(), pending_step.damaged()
            except Exception as error:
                self.fail(list(pending_step.rows), error)
                continue
            for stream, row in list(pending_step.rows.items()):
                if stream in damaged:
                    self.fail([stream], _damaged())
                elif not stream.done:
                    self._take(stream, pending_step, row, tokens[row])

    def _take(self, stream: Stream, pending_step: PendingStep, row: int, token: int) -> None:
        """Deliver the next token of a request, and the tokens that its grammar forces after it."""
        request = stream.request
        info: TokenInfo | None = None
        complete = False
        stream.checked = True
        try:
            if request.on_host:
                token = choose(pending_step.logits[row], stream)
            if request.top_logprobs is not None:
                info = report(pending_step.logits[row], token, request.top_logprobs)
            self._taking = stream
            if request.constraint is not None:
                complete = request.constraint.accept(token)
            forced = [] if complete else self._forced(stream, spent=1)
        except Exception as error:
            self.fail([stream], error)
            return
        self._deliver(stream, [(token, complete), *forced], info)
        self.drafter.observe(stream, [token], "plain" if stream is self._candidate else "ahead")
        if stream.pending_step is None:
            return
        # The next step was launched with this token, so it was pending on the host only.
        assert stream.slot is not None
        if not stream.done:
            self._table.extend(stream.slot, [token])
            stream.pending -= 1

    def begin(self, stream: Stream) -> None:
        """Deliver the tokens that a grammar forces before the first token is sampled."""
        try:
            self._taking = stream
            forced = self._forced(stream)
        except Exception as error:
            self.fail([stream], error)
            return
        self._deliver(stream, forced)

    def _verify(self, stream: Stream, draft: list[int]) -> bool:
        """Verify a draft in one step. Return False if memory has no room for it."""
        try:
            new = self.drafter.run(stream, draft)
        except Exception as error:
            if out_of_memory(error):
                return False
            self.fail([stream], error)
            return True
        stream.pending = 1 - len(new)  # All but the last are in the cache.
        self._taking = stream
        self._deliver(stream, [(token, False) for token in new])
        self.drafter.observe(stream, new, "verify")
        return True

    def _forced(self, stream: Stream, spent: int = 0) -> list[tuple[int, bool]]:
        """Return the tokens that a grammar forces now, each with whether it completes the text.

        They need no logits, so they all run in the pass that computes the next free token. If the request
        wants log-probabilities, every token is computed on its own.
        """
        request = stream.request
        if request.constraint is None or request.top_logprobs is not None:
            return []
        left = request.max_tokens - len(stream.generated) - spent
        found: list[tuple[int, bool]] = []
        for token in request.constraint.forced()[: max(0, left)]:
            found.append((token, request.constraint.accept(token)))
        return found

    def _deliver(
        self, stream: Stream, tokens: Sequence[tuple[int, bool]], info: TokenInfo | None = None
    ) -> None:
        """Push tokens to the stream. The decoder has yet to see them, so they become pending."""
        with self._lock:
            for token, complete in tokens:
                if not stream.done:
                    stream.push(token, info, complete)
                    stream.pending += 1
        self._taking = None

    def drop(self) -> Stream | None:
        """Drop all steps in flight. Return the request that was being given a token, if there was one."""
        self.pending_steps.clear()
        broken, self._taking, self._candidate = self._taking, None, None
        return broken

    def fail(self, batch: Sequence[Stream], error: BaseException) -> None:
        """End requests with an error."""
        self._taking = None
        with self._lock:
            for stream in batch:
                self._scheduler.drop(stream)
                stream.fail(error)
        self._scheduler.discard(batch)


def _damaged() -> DamagedCheckpoint:
    return DamagedCheckpoint(
        "expected finite logits, found NaN at the first token, so the weights are damaged or overflow in "
        "this dtype; load with dtype='float32', or fetch the checkpoint again"
    )
