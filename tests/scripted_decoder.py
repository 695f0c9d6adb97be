"""A decoder without a model: logits are computed from a slot's tokens, and the cache is a page pool."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llms.decoders.base import SlotChecks, StepResult
from llms.decoders.pages import Pages
from llms.decoders.sampling import Sampling, sample
from llms.errors import NotEnoughMemory

VOCABULARY = 40
PAGE = 4
TABLE = 3.0 * torch.randn(499, VOCABULARY, generator=torch.Generator().manual_seed(5))


def logits_after(tokens: Sequence[int]) -> Tensor:
    """Return logits fp32 [V]. Different tokens give different logits."""
    state = 1
    for token in tokens:
        state = (state * 31 + token + 1) % 499
    return TABLE[state]


class ScriptedDecoder(SlotChecks):
    """Keeps the tokens of every slot, and a record of its steps.

    Args:
        ahead: The value of `runs_ahead`.
        pages: Number of pages in the pool, of 4 tokens each.
        slots: Number of slots.
        draft: The value of `max_draft`.
        pause: Duration of a step in seconds.

    Attributes:
        held: The tokens of each slot.
        steps: For each step, the number of tokens by slot, and the number of rows given as a tensor.
        copies: Number of steps whose given tokens were not the very tensor of the previous step.
        refused: Number of steps for which the pool had no room.
    """

    vocab_size, window, bytes_per_token = VOCABULARY, 64, 100
    device = torch.device("cpu")

    def __init__(
        self, *, ahead: bool = True, pages: int = 500, slots: int = 12, draft: int = 0, pause: float = 0.0
    ) -> None:
        self.pause = pause
        self.max_slots, self.runs_ahead, self.max_draft = slots, ahead, draft
        self.pages = Pages(pages + 1, PAGE, slots)
        self.held: list[list[int]] = [[] for _ in range(slots)]
        self.steps: list[tuple[dict[int, int], int]] = []
        self.copies = self.refused = 0
        self._last: Tensor | None = None

    def length(self, slot: int) -> int:
        self._check_slot(slot)
        return len(self.held[slot])

    def room(self) -> int:
        return self.pages.free_pages * PAGE

    def prefill(self, slot: int, tokens: Sequence[int]) -> Tensor:
        return torch.as_tensor(self.step([slot], [tokens]).logits)[0]

    def step(
        self,
        slots: Sequence[int],
        tokens: Any,
        sampling: Sequence[Sampling] | None = None,
        all_logits: bool = False,
        given: Tensor | None = None,
    ) -> StepResult:
        if self.pause:
            time.sleep(self.pause)
        first = [] if given is None else given.tolist()
        lists = [*([t] for t in first), *map(list, tokens)]
        self._check(slots, lists)
        for how in sampling or ():
            self._check_sampling([how], 1)
        needed = sum(self.pages.needed(s, len(t)) for s, t in zip(slots, lists, strict=True))
        if needed > self.pages.free_pages:
            self.refused += 1
            raise NotEnoughMemory("no page left")
        self.copies += given is not None and given is not self._last
        self.steps.append(({s: len(t) for s, t in zip(slots, lists, strict=True)}, len(first)))
        rows: list[Tensor] = []
        for slot, row in zip(slots, lists, strict=True):
            self.pages.grow(slot, len(row))
            self.pages.lengths[slot] += len(row)
            before, self.held[slot] = self.held[slot], self.held[slot] + row
            ends = range(len(before) + 1, len(self.held[slot]) + 1)
            rows.append(torch.stack([logits_after(self.held[slot][:end]) for end in ends]))
        if all_logits:
            drawn = [self._draw(*a) for a in zip(slots, rows, sampling or (), strict=False)]
            return StepResult(rows, torch.stack([d[-1] for d in drawn]) if drawn else None, drawn or None)
        last = torch.stack([row[-1] for row in rows])
        chosen = None
        if sampling is not None:
            held = [self.held[slot] for slot in slots]
            chosen = sample(last, sampling, [len(h) for h in held], held)
        self._last = chosen
        return StepResult(last, chosen)

    def _draw(self, slot: int, rows: Tensor, how: Sampling) -> Tensor:
        held = self.held[slot]
        ends = range(len(held) - len(rows) + 1, len(held) + 1)
        return sample(rows, [how] * len(rows), ends, [held[:end] for end in ends])

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        length = self._check_length(source, self.length(source) if length is None else length)
        self._check_slot(target)
        self.pages.fork(source, target, length)
        self.held[target] = self.held[source][:length]

    def truncate(self, slot: int, length: int) -> None:
        self.pages.truncate(slot, self._check_length(slot, length))
        del self.held[slot][length:]

    def free(self, slot: int) -> None:
        self.truncate(slot, 0)

    def describe(self) -> str:
        return "scripted"
