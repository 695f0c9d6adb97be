"""What must see a token's logits on the host: penalty, bias, grammar mask, log-probabilities.

Knows one row of logits and the request it belongs to; refuses to know slots and batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llms.engine_request import Handle, Request, TokenInfo
from llms.sampling import sample


def choose(logits: Tensor, handle: Handle) -> tuple[int, TokenInfo | None]:
    """Pick the next token of one request.

    Args:
        logits: fp32 [V].
        handle: The request and what it has generated.

    Returns:
        The token, and its log-probability under the model's own distribution where that was asked for.
    """
    request, generated = handle.request, handle.generated
    steered = _steered(logits, request, generated)
    if request.constraint is not None:
        mask = request.constraint.mask(request.max_tokens - len(generated))
        steered = steered.masked_fill(~mask[: steered.numel()].to(steered.device), -torch.inf)
    position = len(request.prompt) + len(generated)
    token = int(sample(steered[None], [request.sampling], [position]))
    if request.constraint is not None:
        token = request.constraint.settle(token, request.max_tokens - len(generated))
    if request.top_logprobs is None:
        return token, None
    return token, _info(logits, token, request.top_logprobs)


def _steered(logits: Tensor, request: Request, generated: list[int]) -> Tensor:
    """Apply repetition penalty and logit bias to a copy."""
    if request.repetition_penalty == 1.0 and not request.logit_bias:
        return logits
    steered = logits.clone()
    if request.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*request.prompt, *generated}), device=logits.device)
        values = steered[seen]
        penalty = request.repetition_penalty
        steered[seen] = torch.where(values > 0, values / penalty, values * penalty)
    for token, bias in request.logit_bias.items():
        steered[token] += bias
    return steered


def _info(logits: Tensor, token: int, alternatives: int) -> TokenInfo:
    """Return log-probabilities (nats) of the token and of the most probable ones."""
    logprobs = logits.log_softmax(-1)
    top: tuple[tuple[int, float], ...] = ()
    if alternatives:
        values, tokens = logprobs.topk(min(alternatives, logprobs.numel()))
        top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return TokenInfo(token, float(logprobs[token]), top)
