"""Requests to a scripted decoder, the tokens that each must give, and checks of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from engine_samples import until
from scripted_decoder import VOCABULARY, ScriptedDecoder, logits_after

from llms.decoders.sampling import process_logits, sample
from llms.engine.engine import Engine
from llms.engine.request import GenerationRequest, Piece
from llms.engine.stream import Stream


def decode(ids: list[int]) -> str:
    return "".join(chr(0x4E00 + i) for i in ids)


class Even:
    """A grammar of even tokens that ends after `count` of them, and forces a 2 after every 4."""

    def __init__(self, count: int) -> None:
        self.left, self.last = count, 0

    def mask(self, remaining: int) -> torch.Tensor:
        return torch.arange(VOCABULARY) % 2 == 0

    def fit_budget(self, token: int, remaining: int) -> int:
        return token

    def accept(self, token: int) -> bool:
        self.left, self.last = self.left - 1, token
        return self.left <= 0

    def forced(self) -> list[int]:
        return [2] if self.last == 4 and self.left > 0 else []


def request(asked: dict[str, Any]) -> GenerationRequest:
    count = asked["constraint"]
    return GenerationRequest(**{**asked, "constraint": count and Even(count)}, decode=decode)


def whole(pieces: Sequence[Piece]) -> tuple[Any, ...]:
    """Return everything that a caller sees."""
    infos = [(i.token, round(i.logprob, 4), [t for t, _ in i.top]) for p in pieces for i in p.logprobs]
    tokens = [t for p in pieces for t in p.tokens]
    return tokens, "".join(p.text for p in pieces), infos, {p.finish_reason for p in pieces}


def by_hand(asked: dict[str, Any]) -> list[int]:
    """Return the tokens of a request, computed by the rules without an engine."""
    one, tokens, grammar = request(asked), list(asked["prompt"]), None
    if one.constraint is not None:
        grammar = one.constraint
    made: list[int] = []
    while len(made) < one.max_tokens:
        if grammar is not None and one.top_logprobs is None and made and (forced := grammar.forced()):
            token = forced[0]
        else:
            logits = process_logits(logits_after(tokens), one.device_sampling, tokens)
            if grammar is not None:
                logits = logits.masked_fill(~grammar.mask(0), -torch.inf)
            token = int(sample(logits[None], [one.sampling], [len(tokens)]))
        made.append(token)
        tokens.append(token)
        over = grammar is not None and grammar.accept(token)
        if over or token in one.end_ids or any(stop in decode(made) for stop in one.stops):
            break
    return made


def check_cache(
    engine: Engine, decoder: ScriptedDecoder, streams: Sequence[Stream], left: Sequence[Stream] = ()
) -> None:
    """Check that slots hold what the table says: of a finished request, at most all tokens but the last."""
    last = engine.submit(request({**plain([39, 38], 1), "run_ahead": 0}))
    last.result()
    until(lambda: not engine.scheduler.active and not engine.table._busy and not engine.runner.pending_steps)
    sequences = [[*h.request.prompt, *h.generated] for h in [*streams, last]]
    sequences = [s if h in left else s[:-1] for s, h in zip(sequences, [*streams, last], strict=True)]
    for slot in range(decoder.max_slots):
        held = decoder.held[slot]
        assert held == engine.table._tokens.get(slot, [])
        assert not held or any(held == s[: len(held)] for s in sequences)
    assert all(s.sequence.slot is None and s.sequence.pending_step is None for s in streams)


def plain(prompt: Sequence[int], count: int, **more: Any) -> dict[str, Any]:
    return {"prompt": tuple(prompt), "max_tokens": count, "constraint": None, **more}


def limit_steps(engine: Engine, most: int) -> None:
    """Fail if an engine makes more than `most` steps, because then no request gets on."""
    step = engine._step

    def counted() -> bool:
        busy = step()
        assert engine.steps < most, "no request gets on"
        return busy

    engine._step = counted  # type: ignore[method-assign]
