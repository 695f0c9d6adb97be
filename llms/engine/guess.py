"""The engine's guesses: who gets any, how they are verified, and whether they pay.

Knows handles, the slot table and the decoder; refuses to know batches and errors. Only a request that runs
alone is guessed for, and only where its decoder names a number of `guesses` worth verifying at once: while
memory is what limits a GPU, seven columns more cost a fraction of a step, but on a CPU nearly a token each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from llms.decoder import Decoder
from llms.engine.prefix import SlotTable
from llms.engine.request import Handle
from llms.engine.speculation import Course, Kind, verify


class Guesser:
    """Prompt look-up for one engine.

    Args:
        decoder: Its attribute `guesses`, where it has one, is the most tokens to guess.
        table: The decoder's slots.
    """

    def __init__(self, decoder: Decoder, table: SlotTable) -> None:
        self._decoder, self._table = decoder, table
        self._most = int(getattr(decoder, "guesses", 0))
        self._courses: WeakKeyDictionary[Handle, Course] = WeakKeyDictionary()
        self._last: tuple[Handle | None, float] = (None, 0.0)

    def watched(self, active: Sequence[Handle]) -> Handle | None:
        """Return the request that is alone and worth guessing for: each token must be read as it comes.

        Args:
            active: The requests that hold a slot.
        """
        if not self._most or len(active) != 1:
            return None
        handle, request = active[0], active[0].request
        if request.on_host or request.top_logprobs is not None or handle.done or not handle.checked:
            return None
        if handle not in self._courses:
            self._courses[handle] = Course(request.prompt, self._most)
            self._courses[handle].note(handle.generated)
        return handle if self._courses[handle].pace.pays() else None

    def guess(self, handle: Handle) -> list[int]:
        """Return guesses of a watched request's next tokens."""
        if handle.pending != 1 or handle.slot is None:
            return []
        left = handle.request.max_tokens - len(handle.generated) - 1
        room = min(left, self._decoder.window - self._decoder.length(handle.slot) - 1)
        return self._courses[handle].text.guess(min(self._most, room))

    def run(self, handle: Handle, guesses: Sequence[int]) -> list[int]:
        """Verify guesses in one step; return the tokens decided, all but the last of them in the cache."""
        slot, last = handle.slot, handle.due(1)
        assert slot is not None
        held = self._decoder.length(slot)
        result = self._decoder.step([slot], [[*last, *guesses]], [handle.sampling], all_logits=True)
        assert result.drawn is not None
        new = verify(result.drawn[0].tolist(), guesses)
        self._table.extend(slot, [*last, *guesses])
        self._table.rewind(slot, held + len(new))
        return new

    def saw(self, handle: Handle, tokens: Sequence[int], kind: Kind) -> None:
        """Take note of the tokens that a step gave a request which may be guessed for."""
        course = self._courses.get(handle)
        if course is None:
            return
        course.note(tokens)
        before, now = self._last, time.perf_counter()
        self._last = handle, now
        if before[0] is handle:
            course.pace.took(kind, now - before[1])
