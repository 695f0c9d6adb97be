"""Speculation by prompt lookup: guess the next tokens from an earlier place in the text, verify them at once.

Knows token ids, a `Decoder` and one slot of it. Refuses to know text, weights and batches. Acceptance is
exact: every position is decided by the rules and the random number that plain decoding would use there, and a
guess stays only where it is that very token. Method: n-gram look-up in the request's own tokens (Saxena 2023,
"Prompt Lookup Decoding"); verification as in Leviathan et al. 2023, which for a guess without a distribution
of its own comes down to drawing from the model's and comparing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llms.decoder import Decoder
from llms.sampling import Sampling, sample

LONGEST, SHORTEST = 3, 2
"""Tokens of context that must recur. Of one token, four guesses in five were wrong on summaries."""


def lookup(tokens: Sequence[int], most: int, longest: int = LONGEST, shortest: int = SHORTEST) -> list[int]:
    """Return up to `most` tokens that followed the latest earlier occurrence of the text's last n-gram.

    Args:
        tokens: Prompt and answer so far.
        most: Most tokens to guess.
        longest: n-gram size tried first.
        shortest: n-gram size tried last.
    """
    tokens = list(tokens)
    for size in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        key = tokens[-size:]
        for at in range(len(tokens) - size - 1, -1, -1):
            if tokens[at] == key[0] and tokens[at : at + size] == key:
                return tokens[at + size : at + size + most]
    return []


@dataclass
class Pace:
    """Decides how many tokens to guess, from how the last guesses fared and what steps took.

    Attributes:
        most: Most tokens to guess; the verifying step has one column more.
        cost: Time of a verifying step over that of a plain one, until `took` has measured both.
        kept: Running mean of guesses kept a step; guessing stops where it is less than the cost.
    """

    most: int = 7
    cost: float = 1.3
    kept: float = 1.0
    _idle: int = field(default=0, repr=False)
    _seconds: dict[bool, float] = field(default_factory=dict, repr=False)

    def wanted(self) -> int:
        """Return how many tokens to guess now: none while it does not pay, but for a try now and then."""
        if 1 + self.kept >= self.cost:
            return self.most
        self._idle += 1
        return self.most if self._idle % 16 == 0 else 0

    def learn(self, guessed: int, kept: int) -> None:
        """Take note of one step that had guesses."""
        if guessed:
            self.kept += 0.15 * (kept - self.kept)

    def took(self, guessed: bool, seconds: float) -> None:
        """Take note of how long a step took, from the host's request to its tokens."""
        before = self._seconds.get(guessed, seconds)
        self._seconds[guessed] = before + 0.15 * (seconds - before)
        if len(self._seconds) == 2:
            self.cost = self._seconds[True] / self._seconds[False]


def verify(logits: Tensor, guesses: Sequence[int], how: Sampling, position: int) -> tuple[list[int], Tensor]:
    """Decide a verifying step.

    Args:
        logits: fp32 [1 + guesses, V], row j after the j-th token given.
        guesses: The guessed tokens.
        how: The request's sampling.
        position: Number of tokens in the slot before the first one decided here.

    Returns:
        The tokens that plain decoding would give, 1 to 1 + guesses of them, and the logits of the last's row.
    """
    rows = len(guesses) + 1
    drawn = sample(logits, [how] * rows, range(position, position + rows)).tolist()
    kept = 0
    while kept < len(guesses) and drawn[kept] == guesses[kept]:
        kept += 1
    return drawn[: kept + 1], logits[kept]


class Speculation:
    """One request that decodes with guesses.

    Args:
        decoder: Any decoder.
        slot: The request's slot; it holds all of `tokens` but the last.
        tokens: Prompt and answer so far.
        how: The request's sampling.
        pace: How eagerly to guess.
    """

    def __init__(
        self, decoder: Decoder, slot: int, tokens: Sequence[int], how: Sampling, pace: Pace | None = None
    ) -> None:
        self.tokens = list(tokens)
        self.pace = pace or Pace()
        self.accepted: list[int] = []
        self._decoder, self._slot, self._how = decoder, slot, how

    @torch.inference_mode()
    def advance(self) -> list[int]:
        """Run one step; return the 1 or more tokens it decided, which `tokens` then ends with."""
        held = self._decoder.length(self._slot)
        room = self._decoder.window - held - 1
        guesses = lookup(self.tokens, min(self.pace.wanted(), room))
        result = self._decoder.step([self._slot], [[self.tokens[-1], *guesses]], all_logits=True)
        new, _ = verify(result.logits[0], guesses, self._how, held + 1)
        self._decoder.truncate(self._slot, held + len(new))
        self.pace.learn(len(guesses), len(new) - 1)
        self.accepted.append(len(new))
        self.tokens += new
        return new
