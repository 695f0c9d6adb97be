"""What must see a token's logits on the host: grammar masks, long lists of biases, log-probabilities.

Knows one row of logits and the request it belongs to; refuses to know slots and batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llms.engine.request import Handle, TokenInfo
from llms.engine.sampling import sample, steer


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
