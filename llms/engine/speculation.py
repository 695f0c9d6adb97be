"""Speculation by prompt lookup: guess the next tokens from an earlier place in the text, verify them at once.

Knows token ids and how long steps take. Refuses to know text, weights and batches. Acceptance is exact: every
position is decided by the rules and the random number that plain decoding would use there, and a guess stays
only where it is that very token. Method: n-gram look-up in the request's own tokens (Saxena 2023, "Prompt
Lookup Decoding"); verification as in Leviathan et al. 2023, which for a guess without a distribution of its
own comes down to drawing from the model's and comparing.

The engine's guesses: who gets any, how they are verified, and whether they pay.

Knows handles, the slot table and the decoder; refuses to know batches and errors. Only a request that runs
alone is guessed for, and only where its decoder names a number of `guesses` worth verifying at once: while
memory is what limits a GPU, seven columns more cost a fraction of a step, but on a CPU nearly a token each.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakKeyDictionary

from llms.decoders.base import Decoder
from llms.engine.prefix import SlotTable
from llms.engine.request import Handle

SIZES = (3, 2)
"""Tokens of context that must recur, longest first. Of one token, four guesses in five were wrong."""

Kind = Literal["ahead", "plain", "verify"]
"""Steps: launched before the one ahead is read; after that; with guesses."""


class Ngrams:
    """Where each n-gram of a growing text was last followed by something.

    Args:
        tokens: The text so far.
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens."""
        for token in tokens:
            at = len(self.tokens)
            for size in SIZES:
                if at >= size:
                    self._after[tuple(self.tokens[at - size :])] = at
            self.tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """Return up to `most` tokens that followed the last n-gram's latest earlier occurrence."""
        for size in SIZES:
            at = self._after.get(tuple(self.tokens[-size:])) if len(self.tokens) > size else None
            if at is not None:
                return self.tokens[at : at + max(0, most)]
        return []


@dataclass
class Pace:
    """Decides whether guesses are worth their steps, from how they fare and what steps take.

    Attributes:
        gain: Running mean of the tokens that a step with guesses where there are any decides; like `share`
            it begins where texts that quote are, because answers are short.
        share: Running mean of the part of such steps that has guesses.
        cost: Time of a step over that of one launched ahead, until `took` has seen a few of its kind; the
            defaults are Mistral-7B's on an H100.
    """

    gain: float = 1.5
    share: float = 0.3
    cost: dict[Kind, float] = field(default_factory=lambda: {"ahead": 1.0, "plain": 1.2, "verify": 1.65})
    _seconds: dict[Kind, deque[float]] = field(default_factory=dict, repr=False)

    def learn(self, guessed: int, decided: int) -> None:
        """Take note of one step, run or merely followed: how many guesses it had, and tokens it decided."""
        self.gain += 0.1 * (decided - self.gain)
        self.share += 0.1 * (bool(guessed) - self.share)

    def took(self, kind: Kind, seconds: float) -> None:
        """Take note of how long a step took, from the end of the one before to its own."""
        self._seconds.setdefault(kind, deque(maxlen=15)).append(seconds)

    def pays(self) -> bool:
        """Tell whether steps with guesses give more tokens a second than steps launched ahead."""
        steps = (1 - self.share) * self._costs("plain") + self.share * self._costs("verify")
        return self.share > 0 and self.gain > steps

    def _costs(self, kind: Kind) -> float:
        seen, base = self._seconds.get(kind, ()), self._seconds.get("ahead", ())
        if min(len(seen), len(base)) < 3:
            return self.cost[kind]
        return statistics.median(seen) / statistics.median(base)


class Course:
    """One request's text and what guesses make of it, whether or not they are verified.

    While steps run ahead of the host nothing can be guessed in time, but every token that arrives tells what
    a guess would have been worth: so it costs nothing to find out when to begin.

    Args:
        prompt: The request's tokens.
        most: Most tokens to guess.
    """

    def __init__(self, prompt: Sequence[int], most: int) -> None:
        self.text = Ngrams(prompt)
        self.pace = Pace()
        self._most = most
        self._guess: list[int] = self.text.guess(most)
        self._decided = 0

    def note(self, tokens: Iterable[int]) -> None:
        """Append tokens that the model wrote, and follow how guesses would have fared."""
        for token in tokens:
            self.text.extend([token])
            self._decided += 1
            if self._decided <= len(self._guess) and self._guess[self._decided - 1] == token:
                continue
            self.pace.learn(len(self._guess), self._decided)
            self._guess, self._decided = self.text.guess(self._most), 0


def verify(drawn: Sequence[int], guesses: Sequence[int]) -> list[int]:
    """Return the tokens that plain decoding would give, 1 to 1 + guesses of them.

    Args:
        drawn: 1 + guesses tokens: what the model gives after the text, and after each guess.
        guesses: The guessed tokens.
    """
    kept = 0
    while kept < len(guesses) and drawn[kept] == guesses[kept]:
        kept += 1
    return list(drawn[: kept + 1])


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
