"""Speculative decoding by prompt lookup: draft tokens from an earlier place in the text, then verify them.

Acceptance is exact. Each position is decided by the rules and the random number that plain decoding would use
there, and a drafted token is accepted only if it is that token. The method is n-gram lookup in the request's
own tokens (Saxena 2023, "Prompt Lookup Decoding"). Verification follows Leviathan et al. 2023; for a draft
without a distribution of its own, it comes down to sampling from the model and comparing.

Only a request that runs alone is given drafts, and only if its decoder has a `max_draft`. On a GPU that is
limited by memory bandwidth, seven more columns cost a fraction of a step. On a CPU they cost almost a token
each.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakKeyDictionary

from llms.decoders.base import Decoder
from llms.engine.prefix import SlotTable
from llms.engine.request import Sequence

SIZES = (3, 2)
"""Lengths of the n-grams that are looked up, longest first. With one token, four drafts in five were
wrong."""

Kind = Literal["ahead", "plain", "verify"]
"""A step that is launched before the last one is read, one launched after it, and one with a draft."""


class Ngrams:
    """The last place of each n-gram in a growing text.

    Args:
        tokens: The text so far.

    Example:
        >>> Ngrams([5, 6, 7, 1, 5, 6]).propose(2)
        [7, 1]
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

    def propose(self, most: int) -> list[int]:
        """Return up to `most` tokens that followed the last n-gram when it occurred before."""
        for size in SIZES:
            at = self._after.get(tuple(self.tokens[-size:])) if len(self.tokens) > size else None
            if at is not None:
                return self.tokens[at : at + max(0, most)]
        return []


@dataclass
class AcceptanceTracker:
    """Measures whether drafts pay, from how many tokens are accepted and how long steps take.

    Attributes:
        gain: Moving average of the tokens that one speculative step gives. It starts at a value typical of
            quoting text, since answers are too short to learn it. The same holds for `share`.
        share: Moving average of the share of steps that have a draft.
        cost: Time of each kind of step relative to one that runs ahead. It is used until `took` has recorded
            three of that kind. The defaults are those of Mistral-7B on an H100.
    """

    gain: float = 1.5
    share: float = 0.3
    cost: dict[Kind, float] = field(default_factory=lambda: {"ahead": 1.0, "plain": 1.2, "verify": 1.65})
    _seconds: dict[Kind, deque[float]] = field(default_factory=dict, repr=False)

    def learn(self, drafted: int, decided: int) -> None:
        """Record a step, real or simulated: the length of its draft, and the number of tokens it gave."""
        self.gain += 0.1 * (decided - self.gain)
        self.share += 0.1 * (bool(drafted) - self.share)

    def took(self, kind: Kind, seconds: float) -> None:
        """Record the time of a step, from the end of the one before it to its own end."""
        self._seconds.setdefault(kind, deque(maxlen=15)).append(seconds)

    def pays(self) -> bool:
        """Return whether speculative steps give more tokens per second than steps that run ahead."""
        steps = (1 - self.share) * self._costs("plain") + self.share * self._costs("verify")
        return self.share > 0 and self.gain > steps

    def _costs(self, kind: Kind) -> float:
        seen, base = self._seconds.get(kind, ()), self._seconds.get("ahead", ())
        if min(len(seen), len(base)) < 3:
            return self.cost[kind]
        return statistics.median(seen) / statistics.median(base)


class DraftTracker:
    """The text of one request, and how well drafts predict it, whether or not they are verified.

    While steps run ahead of the host, a draft would come too late. But each token that arrives shows what a
    draft would have gained, so it costs nothing to find out when drafting begins to pay.

    Args:
        prompt: The request's tokens.
        most: Maximum number of tokens to draft.
    """

    def __init__(self, prompt: Tokens[int], most: int) -> None:
        self.text = Ngrams(prompt)
        self.acceptance = AcceptanceTracker()
        self._most = most
        self._draft: list[int] = self.text.propose(most)
        self._decided = 0

    def note(self, tokens: Iterable[int]) -> None:
        """Append tokens that the model wrote, and record how a draft would have fared."""
        for token in tokens:
            self.text.extend([token])
            self._decided += 1
            if self._decided <= len(self._draft) and self._draft[self._decided - 1] == token:
                continue
            self.acceptance.learn(len(self._draft), self._decided)
            self._draft, self._decided = self.text.propose(self._most), 0


def verify(drawn: Tokens[int], draft: Tokens[int]) -> list[int]:
    """Return the tokens that plain decoding would give: the accepted part of the draft and one token more.

    Args:
        drawn: The model's tokens after the text and after each drafted token; one more than `draft` has.
        draft: The drafted tokens.

    Example:
        >>> verify([5, 6, 9], [5, 6])
        [5, 6, 9]
        >>> verify([5, 8, 9], [5, 6])
        [5, 8]
    """
    kept = 0
    while kept < len(draft) and drawn[kept] == draft[kept]:
        kept += 1
    return list(drawn[: kept + 1])


class Drafter:
    """Drafts and verifies tokens for one engine.

    Args:
        decoder: Its attribute `max_draft`, if it has one, is the maximum number of tokens to draft.
        table: The decoder's slots.
    """

    def __init__(self, decoder: Decoder, table: SlotTable) -> None:
        self._decoder, self._table = decoder, table
        self._most = int(getattr(decoder, "max_draft", 0))
        self._trackers: WeakKeyDictionary[Sequence, DraftTracker] = WeakKeyDictionary()
        self._last: tuple[Sequence | None, float] = (None, 0.0)

    def candidate(self, active: list[Sequence]) -> Sequence | None:
        """Return the request that is alone and worth drafting for; its tokens must be read one by one.

        Args:
            active: The requests that hold a slot.
        """
        if not self._most or len(active) != 1:
            return None
        sequence, request = active[0], active[0].request
        if request.on_host or request.top_logprobs is not None or sequence.finished or not sequence.checked:
            return None
        if sequence not in self._trackers:
            self._trackers[sequence] = DraftTracker(request.prompt, self._most)
            self._trackers[sequence].note(sequence.generated)
        return sequence if self._trackers[sequence].acceptance.pays() else None

    def propose(self, sequence: Sequence) -> list[int]:
        """Return drafted tokens that may come next in a request's text."""
        if sequence.pending != 1 or sequence.slot is None:
            return []
        left = sequence.request.max_tokens - len(sequence.generated) - 1
        room = min(left, self._decoder.window - self._decoder.length(sequence.slot) - 1)
        return self._trackers[sequence].text.propose(min(self._most, room))

    def run(self, sequence: Sequence, draft: Tokens[int]) -> list[int]:
        """Verify a draft in one step. Return the tokens that it gave; all but the last are in the cache."""
        slot, last = sequence.slot, sequence.next_tokens(1)
        assert slot is not None
        held = self._decoder.length(slot)
        result = self._decoder.step([slot], [[*last, *draft]], [sequence.sampling], all_logits=True)
        assert result.drawn is not None
        new = verify(result.drawn[0].tolist(), draft)
        # The record comes last: if truncating fails, all of the step is taken back.
        self._decoder.truncate(slot, held + len(new))
        self._table.extend(slot, [*last, *draft][: len(new)])
        return new

    def observe(self, sequence: Sequence, tokens: Tokens[int], kind: Kind) -> None:
        """Record the tokens that a step gave to a request that may be drafted for."""
        tracker = self._trackers.get(sequence)
        if tracker is None:
            return
        tracker.note(tokens)
        before, now = self._last, time.perf_counter()
        self._last = sequence, now
        if before[0] is sequence:
            tracker.acceptance.took(kind, now - before[1])
