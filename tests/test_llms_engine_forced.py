"""Tokens that a grammar forces need no logits: no pass is run for them, and the tokens are the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from engine_samples import MODEL, Crowded, prompt, request, tokens

from llms.decoders.reference import ReferenceDecoder
from llms.engine.engine import Engine
from llms.engine.stream import gather


class Spelled:
    """A grammar of one text with free places (None), which forces the rest or only masks it."""

    def __init__(self, text: Sequence[int | None], *, forces: bool) -> None:
        self.text, self.forces, self.place = list(text), forces, 0

    def mask(self, remaining: int) -> torch.Tensor:
        allowed = torch.ones(128, dtype=torch.bool)
        if (token := self.text[self.place]) is not None:
            allowed[:] = False
            allowed[token] = True
        return allowed

    def fit_budget(self, token: int, remaining: int) -> int:
        return token

    def accept(self, token: int) -> bool:
        assert self.text[self.place] in (None, token)
        self.place += 1
        return self.place == len(self.text)

    def forced(self) -> list[int]:
        if not self.forces:
            return []
        rest = self.text[self.place :]
        return [t for t in rest[: next((i for i, t in enumerate(rest) if t is None), len(rest))] if t]


@pytest.mark.parametrize(
    ("text", "expected"),
    [([5, 6, 7, None, 8, None, None, 9, 10], [9, 3]), ([5, 6], [2, 0]), ([None, 7, 7, 7], [4, 1])],
)
def test_forced_tokens_cost_no_pass_and_change_no_token(text: list[int | None], expected: list[int]) -> None:
    found, passes = [], []
    for forces in (False, True):
        decoder = Crowded(1000)
        engine = Engine(decoder)
        asked = [request(prompt(i), 30, constraint=Spelled(text, forces=forces)) for i in range(2)]
        found.append([tokens(p) for p in gather([engine.submit(one) for one in asked])])
        passes.append(decoder.passes)
    assert found[0] == found[1] and len(found[0][0]) == len(text)
    assert passes == expected


def test_forced_tokens_stop_at_the_limit_and_give_way_to_logprobs() -> None:
    engine = Engine(ReferenceDecoder(MODEL, max_slots=16))
    cut = request(prompt(1), 3, constraint=Spelled([1, 2, 3, 4, 5], forces=True))
    pieces = engine.submit(cut).result()
    assert tokens(pieces) == [1, 2, 3] and pieces[-1].finish_reason == "length"
    asked = request(prompt(1), 9, constraint=Spelled([1, None, 3], forces=True), top_logprobs=1)
    assert all(len(piece.logprobs) == 1 for piece in engine.submit(asked).result())
