"""The engine's guesses: who gets any, how they are verified, and whether they pay.

Knows handles, the slot table and the decoder; refuses to know batches and errors. Only a request that runs
alone is guessed for, and only where its decoder names a number of `guesses` worth verifying at once: while
memory is what limits a GPU, seven columns more cost a fraction of a step, but on a CPU nearly a token each.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from llms.decoder import Decoder
from llms.engine_request import Handle
from llms.prefix import SlotTable
from llms.speculation import Pace, lookup, verify


class Guesser:
    """Prompt look-up for one engine.

    Args:
        decoder: Its attribute `guesses`, where it has one, is the most tokens to guess.
        table: The decoder's slots.
    """

    def __init__(self, decoder: Decoder, table: SlotTable) -> None:
        self._decoder, self._table = decoder, table
        self._most = int(getattr(decoder, "guesses", 0))
        self._paces: WeakKeyDictionary[Handle, Pace] = WeakKeyDictionary()

    def guess(self, ready: Sequence[Handle], active: int) -> list[int]:
        """Return guesses of the next tokens; none for a batch, or where a token needs the host's logits.

        Args:
            ready: The requests that want their next token.
            active: How many requests hold a slot.
        """
        handle = ready[0]
        if not self._most or active > 1 or handle.pending != 1 or handle.slot is None:
            return []
        if handle.request.on_host:
            return []
        pace = self._paces.setdefault(handle, Pace(self._most))
        left = handle.request.max_tokens - len(handle.generated) - 1
        room = min(left, self._decoder.window - self._decoder.length(handle.slot) - 1)
        wanted = min(pace.wanted(), room)
        return lookup([*handle.request.prompt, *handle.generated], wanted) if wanted > 0 else []

    def run(self, handle: Handle, guesses: Sequence[int]) -> list[int]:
        """Verify guesses in one step; return the tokens decided, all but the last of them in the cache."""
        slot, last = handle.slot, handle.due(1)
        assert slot is not None
        held = self._decoder.length(slot)
        result = self._decoder.step([slot], [[*last, *guesses]], all_logits=True)
        new, _ = verify(result.logits[0], guesses, handle.request.sampling, held + 1)
        self._table.extend(slot, [*last, *guesses])
        self._table.rewind(slot, held + len(new))
        self._paces[handle].learn(len(guesses), len(new) - 1)
        return new

    def took(self, handle: Handle, guessed: bool, seconds: float) -> None:
        """Take note of how long a request's step took."""
        if pace := self._paces.get(handle):
            pace.took(guessed, seconds)
