"""The CUDA decoder's bookkeeping, on a CPU: pages, columns of a step, arithmetic of the sampling kernel."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llms.decoders.cuda.columns import encode, lay_out, pieces
from llms.decoders.cuda.graphs import FIELDS, tiles_of_columns
from llms.decoders.pages import Pages
from llms.decoders.sampling import Sampling, sample, uniform
from llms.errors import NotEnoughMemory

SIZE = 4


class Store:
    """The reference for pages: a list of tokens for each slot, written through page tables."""

    def __init__(self, pages: Pages, count: int) -> None:
        self.pages, self.memory = pages, [[0] * SIZE for _ in range(count)]

    def append(self, slot: int, tokens: list[int]) -> None:
        self.pages.grow(slot, len(tokens), self.copy)
        for token in tokens:
            at = self.pages.lengths[slot]
            self.memory[self.pages.tables[slot][at // SIZE]][at % SIZE] = token
            self.pages.lengths[slot] += 1

    def copy(self, old: int, new: int, count: int) -> None:
        self.memory[new][:count] = self.memory[old][:count]

    def read(self, slot: int) -> list[int]:
        table = self.pages.tables[slot]
        return [self.memory[table[i // SIZE]][i % SIZE] for i in range(self.pages.lengths[slot])]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["append", "fork", "truncate"]),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 9),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 300)), min_size=1, max_size=8), st.integers(1, 16)
)
def test_what_a_step_writes_of_a_slot_begins_no_further_back_than_attention_looks(
    parts: list[tuple[int, int]], group_tokens: int
) -> None:
    """kernels/attention.cu fetches keys from `pos - column` of a group's first column on after the wait."""
    lengths = [length for _, length in parts]
    lists = [[0] * count for count, _ in parts]
    columns = lay_out(range(len(parts)), lists, lengths, None, group_tokens)
    for index, column in enumerate(columns):
        if column.group:
            assert column.pos - index <= lengths[column.slot]


@settings(max_examples=200, deadline=None)
@given(ACTIONS)
def test_pages_behave_like_lists(actions: list[tuple[str, int, int, int]]) -> None:
    count = 24
    store = Store(Pages(count, SIZE, 4), count)
    pages, expected, serial = store.pages, [[] for _ in range(4)], 0  # type: ignore[var-annotated]
    for action, slot, other, n in actions:
        if action == "append":
            tokens = list(range(serial, serial + n))
            serial += n
            if pages.needed(slot, n) > pages.free_pages:
                with pytest.raises(NotEnoughMemory):
                    pages.grow(slot, n)
                continue
            store.append(slot, tokens)
            expected[slot] += tokens
        elif action == "fork":
            length = min(n, len(expected[slot]))
            pages.fork(slot, other, length)
            expected[other] = expected[slot][:length]
        else:
            length = min(n, len(expected[slot]))
            pages.truncate(slot, length)
            expected[slot] = expected[slot][:length]
        assert [store.read(s) for s in range(4)] == expected
    for slot in range(4):
        pages.truncate(slot, 0)
    assert pages.free_pages == count - 1


def test_page_zero_is_never_handed_out() -> None:
    pages = Pages(5, SIZE, 1)
    pages.grow(0, 4 * SIZE)
    assert sorted(pages.tables[0]) == [1, 2, 3, 4]


def test_ragged_lists_become_columns_and_groups() -> None:
    how = [Sampling(temperature=0.5, top_k=7, seed=2**63 + 5), Sampling(repetition_penalty=1.5)]
    columns = lay_out([3, 1], [[10, 11, 12, 13, 14], [20]], [0, 4, 0, 8], how, group_tokens=4)
    assert [c.token for c in columns] == [10, 11, 12, 13, 14, 20]
    assert [c.pos for c in columns] == [8, 9, 10, 11, 12, 4]
    assert [c.group for c in columns] == [4, 0, 0, 0, 1, 1]
    values = np.full((len(FIELDS), 8), 99, np.int32)
    encode(columns, 9, values)
    rows = dict(zip(FIELDS, values.tolist(), strict=True))
    assert rows["slot"] == [3, 3, 3, 3, 3, 1, 9, 9]
    assert rows["group_first"][:3] == [0, 4, 5] and rows["group_count"] == [4, 1, 1, 0, 0, 0, 0, 0]
    assert struct.unpack("<f", struct.pack("<i", rows["temperature"][4]))[0] == 0.5
    assert rows["top_k"] == [0, 0, 0, 0, 7, 0, 0, 0] and rows["temperature"][5] == 0
    low, high = rows["seed_low"][4] & 0xFFFFFFFF, rows["seed_high"][4] & 0xFFFFFFFF
    assert high << 32 | low == 2**63 + 5
    assert rows["penalty"][4] == 0
    assert struct.unpack("<f", struct.pack("<i", rows["penalty"][5]))[0] == 1.5
    assert rows["biases"][5] == 0
    biased = lay_out([0], [[3, 4]], [6], [Sampling(logit_bias=((1, 2.0), (2, 3.0)))], 4, every=True)
    encode(biased, 9, values)
    assert values[FIELDS.index("biases")].tolist() == [2, 2, 0, 0, 0, 0, 0, 0]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=12), st.sampled_from([16, 64]))
def test_pieces_keep_order_and_fit(counts: list[int], columns: int) -> None:
    passes = pieces(counts, columns)
    assert all(sum(b - a for _, a, b in p) <= columns for p in passes)
    flat = [(i, j) for p in passes for i, a, b in p for j in range(a, b)]
    assert flat == [(i, j) for i, count in enumerate(counts) for j in range(count)]


def test_buckets_are_whole_tiles() -> None:
    assert [tiles_of_columns(b) for b in (1, 2, 4, 8, 16, 32, 64)] == [0, 1, 1, 1, 2, 4, 8]


class KernelSampler:
    """kernels/sample.cu in integers: weights of 2^32, halvings of a 32-bit key, ties by token id.

    Args:
        logits: fp32 [V] of bf16 values.
        history: The slot's tokens before this step's.
        step: (slot, position, token) of each column up to this one, which is the last.
    """

    def __init__(
        self, logits: torch.Tensor, how: Sampling, history: list[int], step: list[tuple[int, int, int]]
    ) -> None:
        self.how, self.position, self.grain = how, step[-1][1] + 1, 1 << 16
        if how.changes_logits:
            logits, self.grain = self.changed(logits, history, step), 1
        bits = logits.view(torch.int32).tolist()
        self.keys = [~b & 0xFFFFFFFF if b < 0 else b | 0x80000000 for b in bits]
        self.best = max(range(len(bits)), key=lambda i: (self.keys[i], -i))
        top = float(logits.max())
        warmth = how.temperature or 1.0
        self.weights = [int(math.exp((float(x) - top) / warmth) * 2**32) for x in logits]
        self.cut, self.least = (0, len(bits)), 0

    def changed(
        self, logits: torch.Tensor, history: list[int], step: list[tuple[int, int, int]]
    ) -> torch.Tensor:
        wide, seen, slot = logits.clone(), set(), step[-1][0]
        if self.how.repetition_penalty != 1:
            first = min(position for s, position, _ in step if s == slot)
            for i in range(first + len(step)):
                if i >= first and step[i - first][0] != slot:
                    continue
                token = history[i] if i < first else step[i - first][2]
                if token not in seen:
                    seen.add(token)
                    v = wide[token]
                    wide[token] = (
                        v / self.how.repetition_penalty if v > 0 else v * self.how.repetition_penalty
                    )
        for token, bias in self.how.logit_bias:
            wide[token] += bias
        return wide

    def kept(self) -> list[int]:
        key, last = self.cut
        inside = [i for i, k in enumerate(self.keys) if k > key or (k == key and i <= last)]
        return [i for i in inside if self.weights[i] >= self.least]

    def find(self, weights: list[int], target: int, by_id: bool = False) -> int:
        kept, at = self.kept(), 0
        if not by_id:
            for bit in (1 << b for b in range(31, -1, -1) if 1 << b >= self.grain):
                if sum(weights[i] for i in kept if self.keys[i] >= at | bit) > target:
                    at |= bit
            target -= sum(weights[i] for i in kept if self.keys[i] >= at + self.grain)
            kept = [i for i in kept if at <= self.keys[i] < at + self.grain]
        for i in kept:
            target -= weights[i]
            if target < 0:
                return i
        raise AssertionError("the target lies beyond the mass")

    def draw(self) -> int:
        how = self.how
        if how.temperature == 0:
            return self.best
        if 0 < how.top_k < len(self.keys):
            last = self.find([1] * len(self.keys), how.top_k - 1)
            self.cut = (self.keys[last], last)
        if how.top_p < 1:
            mass = sum(self.weights[i] for i in self.kept())
            last = self.find(self.weights, max(math.ceil(how.top_p * mass) - 1, 0))
            self.cut = (self.keys[last], last)
        self.least = int(how.min_p * 2**32)
        total = sum(self.weights[i] for i in self.kept())
        number = int(uniform(how.seed, self.position) * 2**53)
        plain = how.top_k <= 0 and how.top_p >= 1 and how.min_p <= 0
        return self.find(self.weights, number * total >> 53, by_id=plain)


@pytest.mark.parametrize(
    "how",
    [
        {}, {"top_k": 1}, {"top_k": 20}, {"top_p": 0.8}, {"min_p": 0.05},
        {"top_k": 40, "top_p": 0.9, "min_p": 0.02},
        {"repetition_penalty": 1.3}, {"repetition_penalty": 0.8, "temperature": 0.0},
        {"logit_bias": ((3, 5.0), (70, -2.5), (11, 8.25))},
        {"logit_bias": ((5, 1.1),), "repetition_penalty": 1.7, "top_k": 12, "top_p": 0.9},
    ],
)  # fmt: skip
def test_the_kernels_sampling_agrees_with_the_rules(how: dict[str, Any]) -> None:
    random = torch.Generator().manual_seed(0)
    agree = 0
    for seed in range(40):
        # Distinct bf16 values: among equal logits, which ones top-k keeps is not defined.
        logits = torch.unique((torch.randperm(600, generator=random).float() / 64).to(torch.bfloat16))
        logits = logits[torch.randperm(len(logits), generator=random)].float()
        setting = Sampling(**{"temperature": 0.9, "seed": seed} | how)
        held = torch.randint(0, len(logits), (seed + 3,), generator=random).tolist()
        # Columns of another slot lie between, and the slot has 1 to 3 of its own in this step.
        own = [(7, at, held[at]) for at in range(len(held) - 1 - seed % 3, len(held))]
        step = [(2, 50, 0), *(column for one in own for column in ((4, 9, 1), one))]
        found = KernelSampler(logits, setting, held[: own[0][1]], step).draw()
        agree += found == int(sample(logits[None], [setting], [seed + 3], [held]))
    assert agree == 40
