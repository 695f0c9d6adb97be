"""Rows of different sizes are put into batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from llms.engine.score import PASS_TOKENS, packed


def cost(batches: Sequence[Sequence[int]]) -> int:
    """Return the cost of a plan: padded tokens, and the fixed cost of each pass."""
    return sum(PASS_TOKENS + len(batch) * max(batch) for batch in batches)


def cuts(rows: list[int]) -> list[list[list[int]]]:
    """Yield every way to cut sorted rows between different sizes."""
    runs = [list(run) for _, run in itertools.groupby(sorted(rows, reverse=True))]
    found = []
    for marks in itertools.product([False, True], repeat=max(0, len(runs) - 1)):
        batches = [list(runs[0])]
        for run, cut in zip(runs[1:], marks, strict=True):
            batches.append([]) if cut else None
            batches[-1] += run
        found.append(batches)
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=9), st.sampled_from([60, 200, 2048]))
def test_batches_hold_every_row_within_the_budget(rows: list[int], budget: int) -> None:
    batches = packed(rows, lambda row: row, budget)
    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    assert all(len(batch) == 1 or len(batch) * batch[0] <= budget for batch in batches)
    assert batches == sorted(batches, key=lambda batch: -batch[0])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=9))
def test_no_other_cut_costs_less(rows: list[int]) -> None:
    assert cost(packed(rows, lambda row: row, 10_000)) == min(cost(one) for one in cuts(rows))


def test_nothing_makes_no_batch() -> None:
    assert packed([], len, 100) == []
