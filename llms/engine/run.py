"""Running requests: launches steps for them, reads what these gave, hands tokens to their readers.

Knows handles, the decoder and the slot table; refuses to know who waits, who leads and scoring. Where the
decoder runs ahead, a step is launched before the one ahead of it is read. Whose token the host must pick
(a grammar) is read first; who turns out to be over (an end token, a stop string, a caller that left) has had
one token too many computed, of which nothing is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from llms.decoder import Decoder
from llms.engine.flight import Flight, Flights
from llms.engine.guess import Guesser
from llms.engine.logits import choose, report
from llms.engine.memory import out_of_memory, too_large
from llms.engine.prefix import SlotTable
from llms.engine.queue import Queue
from llms.engine.request import Handle, TokenInfo
from llms.errors import DamagedCheckpoint

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
