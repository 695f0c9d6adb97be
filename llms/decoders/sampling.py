"""Sampling: penalty, biases, temperature, top-k, top-p and min-p, with counter-based random numbers.

The random number of a token depends only on the request's seed and the token's position, so a request draws
the same numbers in any batch and on any decoder.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_BIASES = 1024
"""Maximum length of `Sampling.logit_bias`."""

_MASK64 = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """The sampling parameters of one request. The defaults are greedy.

    Attributes:
        temperature: Divides the logits. 0 takes the most probable token.
        top_k: Keep the k most probable tokens. 0 keeps all.
        top_p: Keep the smallest set of most probable tokens whose probabilities sum to this. 1 keeps all.
        min_p: Keep tokens at least this fraction as probable as the most probable one. 0 keeps all.
        seed: 64-bit seed of the request. The random number at a position is a hash of seed and position.
        repetition_penalty: Divides positive logits of the slot's tokens and multiplies negative ones (Keskar
            et al. 2019). 1 switches it off.
        logit_bias: Pairs of a token and the value added to its logit. Each token may occur once, and there
            may be at most `MOST_BIASES` pairs.

    Example:
        >>> Sampling(temperature=0.7, top_p=0.9, seed=1).top_p
        0.9
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def changes_logits(self) -> bool:
        """Whether penalty or biases change the logits before a token is chosen."""
        return self.repetition_penalty != 1.0 or bool(self.logit_bias)


def uniform(seed: int, position: int) -> float:
    """Return the uniform number in [0, 1) for one token (splitmix64, Steele, Lea and Flood 2014).

    Args:
        seed: The request's seed.
        position: Number of tokens in the slot before the sampled one.
    """
    z = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & _MASK64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & _MASK64
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def process_logits(logits: Tensor, how: Sampling, held: Collection[int]) -> Tensor:
    """Return one row of logits with penalty and biases applied: a copy, or the row itself if there are none.

    Args:
        logits: fp32 [V].
        how: The sampling parameters.
        held: The tokens before the next one. Each is penalized once.
    """
    if not how.changes_logits:
        return logits
    processed = logits.clone()
    if how.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(held)), device=logits.device)
        values, penalty = processed[seen], how.repetition_penalty
        processed[seen] = torch.where(values > 0, values / penalty, values * penalty)
    for token, bias in how.logit_bias:
        processed[token] += bias
    return processed


def sample(
    logits: Tensor,
    sampling: Sequence[Sampling],
    positions: Sequence[int],
    held: Sequence[Collection[int]] | None = None,
) -> Tensor:
    """Sample one token per row.

    The order is that of transformers: penalty, biases, temperature, top-k, top-p, min-p. The token is then
    the inverse of the cumulative distribution at `uniform(seed, position)`.

    Args:
        logits: fp32 [n, V] on any device.
        sampling: n sampling parameters.
        positions: Number of tokens before the sampled one, for each row.
        held: The tokens before the sampled one, for each row. Only rows with a penalty need them.

    Returns:
        The tokens, int64 [n] on the device of the logits.
    """
    if any(how.changes_logits for how in sampling):
        before = held or [()] * len(sampling)
        logits = torch.stack([process_logits(*row) for row in zip(logits, sampling, before, strict=True)])
    chosen = logits.argmax(-1)
    for row, (how, position) in enumerate(zip(sampling, positions, strict=True)):
        if how.temperature > 0:
            chosen[row] = _draw(logits[row], how, uniform(how.seed, position))
    return chosen


def sample_each(
    rows: Sequence[Tensor],
    sampling: Sequence[Sampling],
    lengths: Sequence[int],
    held: Sequence[Sequence[int]],
) -> tuple[Tensor, list[Tensor]]:
    """Sample after each of several tokens of n sequences; return the last samples int64 [n], and all of them.

    Args:
        rows: n tensors fp32 [k, V], the logits after the last k tokens of a sequence.
        sampling: n settings.
        lengths: n lengths, those k tokens included.
        held: n lists of all tokens.
    """
    found = []
    for logits, how, length, tokens in zip(rows, sampling, lengths, held, strict=True):
        ends = range(length - len(logits) + 1, length + 1)
        found.append(sample(logits, [how] * len(logits), ends, [tokens[:end] for end in ends]))
    return torch.stack([tokens[-1] for tokens in found]), found


def _draw(logits: Tensor, how: Sampling, number: float) -> Tensor:
    """Sample from one row of logits [V] with a uniform number. Return int64 []."""
    if not how.top_k and how.top_p >= 1 and how.min_p <= 0:
        total = torch.softmax(logits / how.temperature, -1).cumsum(-1)
        index = torch.searchsorted(total, (number * total[-1]).reshape(1), right=True)
        return index.clamp(max=logits.numel() - 1).reshape(())
    probs, tokens = _most_probable(logits, how)
    keep = torch.ones_like(probs, dtype=torch.bool)
    if how.top_p < 1:
        keep &= (probs.cumsum(-1) - probs) < how.top_p
    if how.min_p > 0:
        keep &= probs >= how.min_p * probs[0]
    total = torch.where(keep, probs, 0.0).cumsum(-1)
    index = torch.searchsorted(total, (number * total[-1]).reshape(1), right=True)
    return tokens[index.clamp(max=keep.sum() - 1)].reshape(())


def _most_probable(logits: Tensor, how: Sampling) -> tuple[Tensor, Tensor]:
    """Return the probabilities and ids of all tokens that the filters can keep, most probable first.

    Sorting 49,152 logits costs several times as much as finding the top 1,024. So these are tried first, and
    the whole row is sorted only if they do not reach the probability that top-p asks for.
    """
    if how.top_k:
        values, tokens = logits.topk(min(how.top_k, logits.numel()))
        return torch.softmax(values / how.temperature, -1), tokens
    norm = (logits / how.temperature).logsumexp(-1)
    values, tokens = logits.topk(min(1024, logits.numel()))
    probs = torch.exp(values / how.temperature - norm)
    enough = probs.sum() >= how.top_p if how.top_p < 1 else probs[-1] < how.min_p * probs[0]
    if bool(enough):
        return probs, tokens
    values, tokens = logits.sort(descending=True)
    return torch.exp(values / how.temperature - norm), tokens
