"""What must see a token's logits on the host: grammar masks, long lists of biases, log-probabilities.

Knows one row of logits and the request it belongs to; refuses to know slots and batches.

Steps under way: launched, their tokens not read by the host yet.

Knows handles, rows of a launched step, and tensors on their way to the host; refuses to know slots and text.
A decoder that runs ahead is given step k + 1 before step k's tokens are read: they go from step to step on
the device, and the host's work on a token costs no time while the GPU's work on the next takes longer.

Running requests: launches steps for them, reads what these gave, hands tokens to their readers.

Knows handles, the decoder and the slot table; refuses to know who waits, who leads and scoring. Where the
decoder runs ahead, a step is launched before the one ahead of it is read. Whose token the host must pick
(a grammar) is read first; who turns out to be over (an end token, a stop string, a caller that left) has had
one token too many computed, of which nothing is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llms.decoders.base import Decoder, StepResult
from llms.decoders.sampling import sample, steer
from llms.engine.prefix import SlotTable
from llms.engine.request import Handle, TokenInfo
from llms.engine.scheduler import Queue, out_of_memory, too_large
from llms.engine.speculation import Guesser
from llms.errors import DamagedCheckpoint


def choose(logits: Tensor, handle: Handle) -> int:
    """Pick the next token of one request by its own rules and its grammar's.

    Args:
        logits: fp32 [V].
        handle: The request and what it has generated.
    """
    request, generated = handle.request, handle.generated
    steered = steer(logits, request.steering, [*request.prompt, *generated])
    if request.constraint is not None:
        mask = request.constraint.mask(request.max_tokens - len(generated))
        steered = steered.masked_fill(~mask[: steered.numel()].to(steered.device), -torch.inf)
    position = len(request.prompt) + len(generated)
    token = int(sample(steered[None], [request.sampling], [position]))
    if request.constraint is not None:
        token = request.constraint.settle(token, request.max_tokens - len(generated))
    return token


def report(logits: Tensor, token: int, alternatives: int) -> TokenInfo:
    """Return log-probabilities (nats) of a token and of the most probable ones, by the model's own logits.

    Args:
        logits: fp32 [V], neither masked nor steered.
        token: The one taken.
        alternatives: How many others to report.
    """
    logprobs = logits.log_softmax(-1)
    top: tuple[tuple[int, float], ...] = ()
    if alternatives:
        values, tokens = logprobs.topk(min(alternatives, logprobs.numel()))
        top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return TokenInfo(token, float(logprobs[token]), top)


class Incoming:
    """A small tensor on its way to the host: it can be read without waiting for what was launched later."""

    def __init__(self, tensor: Tensor) -> None:
        """Start the copy behind what is on the current stream."""
        self._event: Any = None
        self._host = tensor
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> list[Any]:
        """Return the values, waiting for this tensor alone."""
        if self._event is not None:
            self._event.synchronize()
        found: list[Any] = self._host.tolist()
        return found


class Flight:
    """One launched step.

    Args:
        handles: The request of each row.
        result: What the decoder gave back.

    Attributes:
        rows: Row of each request that takes its token; who leaves meanwhile is taken out.
        tokens: int64 [n] on the decoder's device.
        logits: fp32 [n, V] on the decoder's device.
    """

    def __init__(self, handles: Sequence[Handle], result: StepResult) -> None:
        assert result.tokens is not None and isinstance(result.logits, Tensor)
        self.tokens, self.logits = result.tokens, result.logits
        self.rows = {handle: row for row, handle in enumerate(handles) if handle.pending == 0}
        self._count = len(handles)
        self._coming = Incoming(result.tokens)
        self._fresh = [h for h in self.rows if not h.checked]
        rows = [self.rows[h] for h in self._fresh]
        self._bad = Incoming(result.logits[rows].isnan().any(-1)) if rows else None

    def read(self) -> list[int]:
        """Return the tokens of all rows, waiting for this step."""
        return self._coming.read()

    def damaged(self) -> set[Handle]:
        """Return the requests whose first logits hold NaN."""
        if self._bad is None:
            return set()
        return {h for h, bad in zip(self._fresh, self._bad.read(), strict=True) if bad}

    def take(self, handles: Sequence[Handle]) -> Tensor:
        """Return int64 [handles], their tokens on the device; no copy where these are all rows in order."""
        rows = [self.rows[handle] for handle in handles]
        if rows == list(range(self._count)):
            return self.tokens
        index = torch.tensor(rows, pin_memory=self.tokens.is_cuda)
        return self.tokens[index.to(self.tokens.device, non_blocking=True)]


class Flights:
    """The steps under way, in order of launch."""

    def __init__(self) -> None:
        """None yet."""
        self._flights: list[Flight] = []

    def __len__(self) -> int:
        """Return how many steps the host has not read."""
        return len(self._flights)

    def add(self, flight: Flight) -> None:
        """Take note of a launched step."""
        self._flights.append(flight)
        for handle in flight.rows:
            handle.flight = flight

    def pop(self) -> Flight:
        """Return the oldest step, which is about to be read."""
        flight = self._flights.pop(0)
        for handle in flight.rows:
            if handle.flight is flight:
                handle.flight = None
        return flight

    def clear(self) -> None:
        """Forget every step under way."""
        for flight in self._flights:
            for handle in flight.rows:
                handle.flight = None
        self._flights.clear()

    def forget(self, handle: Handle) -> None:
        """Drop what is under way for a request that leaves its slot; no other row is touched."""
        for flight in self._flights:
            flight.rows.pop(handle, None)
        handle.flight = None

    def fed(self, handles: Sequence[Handle]) -> tuple[list[Handle], Tensor | None]:
        """Return those handles whose token is under way, in the order of their rows, and these tokens."""
        ordered: list[Handle] = []
        parts: list[Tensor] = []
        for flight in self._flights:
            mine = sorted((h for h in handles if h.flight is flight), key=flight.rows.__getitem__)
            if mine:
                ordered += mine
                parts.append(flight.take(mine))
        if not parts:
            return [], None
        return ordered, parts[0] if len(parts) == 1 else torch.cat(parts)


PREFILL_TOKENS = 1024
"""Prompt tokens (padding included) that one step prefills: running requests wait no longer than that."""


class Runner:
    """Launches and lands the steps of one engine; only the leader is here.

    Args:
        decoder: What runs the steps.
        table: Its slots.
        queue: Who is active.
        lock: The engine's lock.
    """

    def __init__(self, decoder: Decoder, table: SlotTable, queue: Queue, lock: threading.Lock) -> None:
        self._decoder, self._table, self._queue, self._lock = decoder, table, queue, lock
        self._ahead = bool(getattr(decoder, "runs_ahead", False))
        self.flights = Flights()
        self.guesser = Guesser(decoder, table)
        self._watched: Handle | None = None
        self._taking: Handle | None = None
        queue.left = self.flights.forget

    def settle(self) -> None:
        """Read what is under way where the next step depends on it: the host picks a token, or guesses."""
        active = self._queue.active
        self._watched = self.guesser.watched(active)
        if self._watched or any(h.flight is not None and h.request.on_host for h in active):
            self.land()

    def launch(self, batch: Sequence[Handle]) -> None:
        """Launch the pending tokens of a batch (a chunk of them, for a long prompt), or those under way."""
        fed, given = self.flights.fed(batch)
        batch = [*fed, *(h for h in batch if h.flight is None)]
        slots = [handle.slot for handle in batch if handle.slot is not None]
        lists = [handle.due(PREFILL_TOKENS) for handle in batch[len(fed) :]]
        how = [handle.sampling for handle in batch]
        while True:
            try:
                result = self._decoder.step(slots, lists, how, given=given)
                break
            except Exception as error:
                if not out_of_memory(error):
                    self.fail(batch, error)
                elif self._table.evict():
                    continue
                elif len(self.flights):
                    self.land()  # who is over by now gives back what it holds
                elif not self._queue.make_room():
                    self.fail(batch, too_large(batch[0], error))
                return
        for slot, handle, tokens in zip(slots[len(fed) :], batch[len(fed) :], lists, strict=True):
            self._table.extend(slot, tokens)
            handle.pending -= len(tokens)
        try:
            self.flights.add(Flight(batch, result))
        except Exception as error:  # a device's errors come late
            self.fail(batch, error)
            return
        if not self._ahead:
            self.land()

    def decode(self, ready: Sequence[Handle]) -> None:
        """Launch one step for everybody who wants a token; alone, a request may have several guessed."""
        if self._watched is None or list(ready) != [self._watched]:
            self.launch(ready)
            return
        guesses = self.guesser.guess(self._watched)
        if not guesses or not self._verify(self._watched, guesses):
            self.launch(ready)
            self.land()

    def land(self, count: int | None = None) -> None:
        """Read the oldest `count` steps under way (all of them by default) and deliver their tokens."""
        for _ in range(len(self.flights) if count is None else min(count, len(self.flights))):
            flight = self.flights.pop()
            try:
                tokens, damaged = flight.read(), flight.damaged()
            except Exception as error:
                self.fail(list(flight.rows), error)
                continue
            for handle, row in list(flight.rows.items()):
                if handle in damaged:
                    self.fail([handle], _damaged())
                elif not handle.done:
                    self._take(handle, flight, row, tokens[row])

    def _take(self, handle: Handle, flight: Flight, row: int, token: int) -> None:
        """Deliver one request's next token, and those that its grammar forces after it."""
        request = handle.request
        info: TokenInfo | None = None
        complete = False
        handle.checked = True
        try:
            if request.on_host:
                token = choose(flight.logits[row], handle)
            if request.top_logprobs is not None:
                info = report(flight.logits[row], token, request.top_logprobs)
            self._taking = handle
            if request.constraint is not None:
                complete = request.constraint.accept(token)
            forced = [] if complete else self._forced(handle, spent=1)
        except Exception as error:
            self.fail([handle], error)
            return
        self._deliver(handle, [(token, complete), *forced], info)
        self.guesser.saw(handle, [token], "plain" if handle is self._watched else "ahead")
        if handle.flight is None:
            return
        # The next step has been launched with this token, which has been pending for the host only.
        assert handle.slot is not None
        if not handle.done:
            self._table.extend(handle.slot, [token])
            handle.pending -= 1

    def begin(self, handle: Handle) -> None:
        """Write what a request's grammar forces before its first token is asked for."""
        try:
            self._taking = handle
            forced = self._forced(handle)
        except Exception as error:
            self.fail([handle], error)
            return
        self._deliver(handle, forced)

    def _verify(self, handle: Handle, guesses: list[int]) -> bool:
        """Decide 1 + guesses tokens in one step; False where memory has no room for it."""
        try:
            new = self.guesser.run(handle, guesses)
        except Exception as error:
            if out_of_memory(error):
                return False
            self.fail([handle], error)
            return True
        handle.pending = 1 - len(new)  # all of them but the last are in the cache
        self._taking = handle
        self._deliver(handle, [(token, False) for token in new])
        self.guesser.saw(handle, new, "verify")
        return True

    def _forced(self, handle: Handle, spent: int = 0) -> list[tuple[int, bool]]:
        """Return the tokens that a grammar forces now, each with whether it completes the text.

        They need no logits, so all of them run in the pass that gives the next free token's. Where
        log-probabilities are reported each token is asked for.
        """
        request = handle.request
        if request.constraint is None or request.top_logprobs is not None:
            return []
        left = request.max_tokens - len(handle.generated) - spent
        found: list[tuple[int, bool]] = []
        for token in request.constraint.forced()[: max(0, left)]:
            found.append((token, request.constraint.accept(token)))
        return found

    def _deliver(
        self, handle: Handle, tokens: Sequence[tuple[int, bool]], info: TokenInfo | None = None
    ) -> None:
        """Hand tokens to their reader; they are pending for the decoder."""
        with self._lock:
            for token, complete in tokens:
                if not handle.done:
                    handle.push(token, info, complete)
                    handle.pending += 1
        self._taking = None

    def drop(self) -> Handle | None:
        """Forget every step under way; return the request that was being handed a token."""
        self.flights.clear()
        broken, self._taking, self._watched = self._taking, None, None
        return broken

    def fail(self, batch: Sequence[Handle], error: BaseException) -> None:
        """End requests with an error."""
        self._taking = None
        with self._lock:
            for handle in batch:
                self._queue.drop(handle)
                handle.fail(error)
        self._queue.discard(batch)


def _damaged() -> DamagedCheckpoint:
    return DamagedCheckpoint(
        "Expected finite logits, found NaN at the first token. The weights are damaged, or overflow in this "
        "dtype: load with dtype='float32', or fetch the checkpoint anew."
    )
