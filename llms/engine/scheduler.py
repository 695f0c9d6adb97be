"""When memory runs out: how to tell, and how to name what did not fit.

Knows exceptions and messages; refuses to know how room is made (`queue`, `prefix`).

Which requests wait and which hold a slot: admission, pauses, and making room when memory runs out.

Knows handles and the slot table; refuses to know logits and sampling. Only the thread that leads the engine
changes what is active; callers may add to and take from what waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch

from llms.engine.prefix import MIN_SHARED, SlotTable, common_prefix
from llms.engine.request import Handle
from llms.errors import LLMError, NotEnoughMemory, RequestTooLarge


def out_of_memory(error: Exception) -> bool:
    """Tell whether an error means that something did not fit."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error).lower()
    )


def too_large(handle: Handle, error: Exception) -> Exception:
    """Name a request that does not fit in memory by itself."""
    length = len(handle.request.prompt) + len(handle.generated)
    failure = RequestTooLarge(
        f"Expected room for the KV cache of one sequence of {length} tokens, found none, with no other "
        f"request running ({error}). Shorten the prompt, or load the model with a smaller window."
    )
    failure.__cause__ = error
    return failure


def not_enough(error: Exception) -> Exception:
    """Name an out-of-memory error in this package's terms."""
    failure = NotEnoughMemory(
        f"Expected room for the KV cache of this scoring batch, found none ({error}). Use shorter prompts."
    )
    failure.__cause__ = error
    return failure


SHORT = 8
"""Pending tokens that join the others' decode step: more are a prefill of their own."""


class Queue:
    """Waiting and active requests of one engine.

    Args:
        table: The decoder's slots.
        max_batch: Most requests that hold a slot at once.
        lock: The engine's lock.

    Attributes:
        left: Called with each request that loses its slot, before the slot is given back.
    """

    def __init__(self, table: SlotTable, *, max_batch: int, lock: threading.Lock) -> None:
        self.waiting: list[Handle] = []
        self.active: list[Handle] = []
        self._table = table
        self._lock = lock
        self._max_batch = self._limit = max_batch
        self.left: Callable[[Handle], None] = lambda handle: None

    def add(self, handle: Handle) -> None:
        """Queue a request."""
        with self._lock:
            self.waiting.append(handle)

    def drop(self, handle: Handle) -> None:
        """Forget a request that holds no slot; the lock is held."""
        if handle in self.waiting:
            self.waiting.remove(handle)

    def prefilling(self) -> list[Handle]:
        """Return the active requests that still have much of their prompt to run."""
        with self._lock:
            return [h for h in self.active if h.pending > SHORT and not h.done]

    def decoding(self) -> list[Handle]:
        """Return the active requests that want their next token now."""
        with self._lock:
            return [h for h in self.active if 0 < h.wants <= SHORT and not h.ahead and not h.done]

    def reap(self) -> None:
        """Take back the slots of requests that are over."""
        with self._lock:
            over = [h for h in self.active if h.done]
            self.active = [h for h in self.active if not h.done]
            if over:
                self._limit = self._max_batch
        for handle in over:
            self._release(handle)

    def admit(self, begin: Callable[[Handle], None]) -> None:
        """Give slots to waiting requests, first come first served.

        A request whose prompt shares more with one that is being prefilled right now than with anything
        cached waits for it: eight prompts with one system prompt prefill that once.

        Args:
            begin: Called with each request before its first slot.
        """
        with self._lock:
            self.waiting = [h for h in self.waiting if not h.done]
            waiting = [h for h in self.waiting if not h.ahead]
        for handle in waiting:
            if len(self.active) >= self._limit and not self._pause():
                return
            if self._table.available == 0 or self._shares_soon(handle):
                continue
            while self.active and self._missing(handle) > self._table.room:
                if not self._pause():
                    return  # its prompt would push out those that run, or itself
            if not handle.generated:
                begin(handle)
            if not handle.done:
                self._place(handle)

    def _place(self, handle: Handle) -> None:
        """Move a request from waiting to a slot, with what is cached of it."""
        sequence = [*handle.request.prompt, *handle.generated]
        try:
            slot, cached = self._table.acquire(sequence)
        except Exception as error:
            room = out_of_memory(error) and (self._table.evict() or self.make_room())
            if not room:
                self._end([handle], too_large(handle, error) if out_of_memory(error) else error)
            return
        with self._lock:
            if handle not in self.waiting:  # cancelled meanwhile
                self._table.release(slot)
                return
            self.waiting.remove(handle)
            self.active.append(handle)
        handle.slot, handle.pending = slot, len(sequence) - cached
        if not handle.started:
            handle.cached_tokens, handle.started = min(cached, len(handle.request.prompt)), True

    def _missing(self, handle: Handle) -> int:
        """Return how many tokens of a waiting request are not cached."""
        sequence = [*handle.request.prompt, *handle.generated]
        return len(sequence) - self._table.best(sequence)[1]

    def _shares_soon(self, handle: Handle) -> bool:
        """Tell whether waiting for a running prefill spares more than the cache does now."""
        prompt = handle.request.prompt
        running = [h for h in self.active if h.pending > SHORT]
        soon = max((common_prefix(h.request.prompt, prompt) for h in running), default=0)
        return soon >= self._table.best(prompt)[1] + 2 * MIN_SHARED

    def _pause(self) -> bool:
        """Move a request whose reader lags out of its slot; its KV stays cached."""
        with self._lock:
            lagging = (h for h in self.active if h.ahead and h.flight is None and not h.done)
            paused = next(lagging, None)
        if paused is not None:
            self._requeue(paused, keep=True)
        return paused is not None

    def make_room(self) -> bool:
        """Take a lagging reader's KV, else the youngest request's, once no cached prefix is left to evict.

        What lost its slot waits until another request is over. False where one request alone is left: it is
        too large by itself.
        """
        if self._pause():
            return True
        with self._lock:
            running = [h for h in self.active if not h.done]
        if len(running) < 2:
            return False
        self._requeue(running[-1], keep=False)
        self._limit = len(running) - 1
        return True

    def _requeue(self, handle: Handle, *, keep: bool) -> None:
        with self._lock:
            self.active.remove(handle)
            self.waiting.append(handle)
        self._release(handle, keep=keep)

    def restart(self, error: Exception | None, broken: Handle | None) -> None:
        """Take the slot of every request without touching the decoder; they wait to be computed again.

        Args:
            error: What ends all of them instead; None for nothing.
            broken: A request that cannot go on, because an interrupt came while a token was handed to it.
        """
        with self._lock:
            self.waiting, self.active = [*self.active, *self.waiting], []
            self._limit = self._max_batch
            for handle in self.waiting:
                handle.slot, handle.pending, handle.flight = None, 0, None
            ended = self.waiting if error is not None else []
        self._end(list(ended), error)
        if broken is not None and not broken.done:
            self._end(
                [broken], LLMError("Expected to hand a token over, found an interrupt meanwhile. Ask again.")
            )

    def _end(self, handles: Sequence[Handle], error: Exception | None) -> None:
        """End waiting requests with an error."""
        with self._lock:
            for handle in handles:
                self.drop(handle)
                if error is not None:
                    handle.fail(error)

    def discard(self, handles: Sequence[Handle]) -> None:
        """Take failed requests out and drop their KV, which may be half-written or NaN."""
        with self._lock:
            self.active = [h for h in self.active if h not in handles]
            self._limit = self._max_batch
        for handle in handles:
            if handle.slot is not None:
                self._release(handle, keep=False)

    def _release(self, handle: Handle, *, keep: bool = True) -> None:
        assert handle.slot is not None
        self.left(handle)
        self._table.release(handle.slot, keep=keep)
        handle.slot = None
