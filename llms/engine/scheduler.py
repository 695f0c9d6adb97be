"""The scheduler decides which requests wait and which hold a slot, and makes room when memory runs out.

It does not see logits. Only the engine's leader changes the list of active requests. Other threads may add
waiting requests and remove them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch

from llms.engine.prefix import MIN_SHARED, SlotTable, common_prefix
from llms.engine.request import Stream
from llms.errors import LLMError, NotEnoughMemory, RequestTooLarge


def out_of_memory(error: Exception) -> bool:
    """Return whether an error means that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error).lower()
    )


def too_large(stream: Stream, error: Exception) -> Exception:
    """Return the error for a request that does not fit in memory even when it runs alone."""
    length = len(stream.request.prompt) + len(stream.generated)
    failure = RequestTooLarge(
        f"expected room for the KV cache of one sequence of {length} tokens, found none, with no other "
        f"request running ({error}); shorten the prompt, or load the model with a smaller window"
    )
    failure.__cause__ = error
    return failure


def not_enough(error: Exception) -> Exception:
    """Return the error for a scoring batch that does not fit in memory."""
    failure = NotEnoughMemory(
        f"expected room for the KV cache of this scoring batch, found none ({error}); use shorter prompts"
    )
    failure.__cause__ = error
    return failure


SHORT = 8
"""Maximum number of pending tokens that run in a decode step. More of them are run as a prefill."""


class Scheduler:
    """The waiting and the active requests of one engine.

    Args:
        table: The decoder's slots.
        max_batch: Maximum number of requests that hold a slot at once.
        lock: The engine's lock.
        on_release: Called with each request that loses its slot, before the slot is released.
    """

    def __init__(
        self,
        table: SlotTable,
        *,
        max_batch: int,
        lock: threading.Lock,
        on_release: Callable[[Stream], None],
    ) -> None:
        self.waiting: list[Stream] = []
        self.active: list[Stream] = []
        self._table = table
        self._lock = lock
        self._max_batch = self._limit = max_batch
        self._on_release = on_release

    def add(self, stream: Stream) -> None:
        """Queue a request."""
        with self._lock:
            self.waiting.append(stream)

    def drop(self, stream: Stream) -> None:
        """Remove a waiting request. The caller holds the lock."""
        if stream in self.waiting:
            self.waiting.remove(stream)

    def prefilling(self) -> list[Stream]:
        """Return the active requests whose prompt still has to be prefilled."""
        with self._lock:
            return [h for h in self.active if h.pending > SHORT and not h.done]

    def decoding(self) -> list[Stream]:
        """Return the active requests that can be given their next token now."""
        with self._lock:
            return [h for h in self.active if 0 < h.schedulable <= SHORT and not h.ahead and not h.done]

    def release_finished(self) -> None:
        """Release the slots of finished requests."""
        with self._lock:
            over = [h for h in self.active if h.done]
            self.active = [h for h in self.active if not h.done]
            if over:
                self._limit = self._max_batch
        for stream in over:
            self._release(stream)

    def admit(self, begin: Callable[[Stream], None]) -> None:
        """Give slots to waiting requests, first come, first served.

        A request waits if its prompt shares a longer prefix with a prompt that is being prefilled right now
        than with anything cached. Eight requests with one system prompt therefore prefill it once.

        Args:
            begin: Called with each request before it is given its first slot.
        """
        with self._lock:
            self.waiting = [h for h in self.waiting if not h.done]
            waiting = [h for h in self.waiting if not h.ahead]
        for stream in waiting:
            if len(self.active) >= self._limit and not self._pause():
                return
            if self._table.available == 0 or self._shares_soon(stream):
                continue
            while self.active and self._missing(stream) > self._table.room:
                if not self._pause():
                    return  # Its prompt would evict running requests, or itself.
            if not stream.generated:
                begin(stream)
            if not stream.done:
                self._place(stream)

    def _place(self, stream: Stream) -> None:
        """Give a waiting request a slot, and reuse the cached prefix of its tokens."""
        sequence = [*stream.request.prompt, *stream.generated]
        try:
            slot, cached = self._table.acquire(sequence)
        except Exception as error:
            room = out_of_memory(error) and (self._table.evict() or self.make_room())
            if not room:
                self._end([stream], too_large(stream, error) if out_of_memory(error) else error)
            return
        with self._lock:
            if stream not in self.waiting:  # It was cancelled in the meantime.
                self._table.release(slot)
                return
            self.waiting.remove(stream)
            self.active.append(stream)
        stream.slot, stream.pending = slot, len(sequence) - cached
        if not stream.started:
            stream.cached_tokens, stream.started = min(cached, len(stream.request.prompt)), True

    def _missing(self, stream: Stream) -> int:
        """Return the number of tokens of a waiting request that are not cached."""
        sequence = [*stream.request.prompt, *stream.generated]
        return len(sequence) - self._table.best(sequence)[1]

    def _shares_soon(self, stream: Stream) -> bool:
        """Return whether waiting for a running prefill saves more tokens than the cache does now."""
        prompt = stream.request.prompt
        running = [h for h in self.active if h.pending > SHORT]
        soon = max((common_prefix(h.request.prompt, prompt) for h in running), default=0)
        return soon >= self._table.best(prompt)[1] + 2 * MIN_SHARED

    def _pause(self) -> bool:
        """Pause a request whose reader is slow. It loses its slot, and its KV stays cached."""
        with self._lock:
            lagging = (h for h in self.active if h.ahead and h.pending_step is None and not h.done)
            paused = next(lagging, None)
        if paused is not None:
            self._requeue(paused, keep=True)
        return paused is not None

    def make_room(self) -> bool:
        """Pause a request when no cached prefix is left to evict: one with a slow reader, or the youngest.

        A paused request waits until another one finishes. Returns False if only one request is left, which is
        then too large for the memory.
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

    def _requeue(self, stream: Stream, *, keep: bool) -> None:
        with self._lock:
            self.active.remove(stream)
            self.waiting.append(stream)
        self._release(stream, keep=keep)

    def restart(self, error: Exception | None, broken: Stream | None) -> None:
        """Move all requests back to waiting without calling the decoder. They are computed again.

        Args:
            error: If given, it ends all requests instead.
            broken: A request that cannot go on because an interrupt came while it was given a token.
        """
        with self._lock:
            self.waiting, self.active = [*self.active, *self.waiting], []
            self._limit = self._max_batch
            for stream in self.waiting:
                stream.slot, stream.pending, stream.pending_step = None, 0, None
            ended = self.waiting if error is not None else []
        self._end(list(ended), error)
        if broken is not None and not broken.done:
            self._end(
                [broken],
                LLMError("expected to deliver a token, found an interrupt meanwhile; ask again"),
            )

    def _end(self, streams: Sequence[Stream], error: Exception | None) -> None:
        """End waiting requests with an error."""
        with self._lock:
            for stream in streams:
                self.drop(stream)
                if error is not None:
                    stream.fail(error)

    def discard(self, streams: Sequence[Stream]) -> None:
        """Remove failed requests and drop their KV, which may be incomplete or NaN."""
        with self._lock:
            self.active = [h for h in self.active if h not in streams]
            self._limit = self._max_batch
        for stream in streams:
            if stream.slot is not None:
                self._release(stream, keep=False)

    def _release(self, stream: Stream, *, keep: bool = True) -> None:
        assert stream.slot is not None
        self._on_release(stream)
        self._table.release(stream.slot, keep=keep)
        stream.slot = None
