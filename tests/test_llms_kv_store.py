"""The paged KV cache: what counts, what forks share, and what a failed call leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cpu_models import model_of
from cpu_sets import needs_kernels
from test_llms_decoder import tiny

from llms.decoders import kv_store
from llms.decoders.cpu.decoder import CpuDecoder
from llms.decoders.reference import ReferenceDecoder
from llms.decoders.reference_plan import PAGE
from llms.decoders.sampling import Sampling
from llms.models.weights import weights_of

KINDS = {
    "reference": lambda: ReferenceDecoder(tiny(None), max_slots=6),
    "cpu": lambda: CpuDecoder(weights_of(model_of(None)), max_slots=6),
}


@pytest.fixture(params=[pytest.param("cpu", marks=needs_kernels), "reference"])
def decoder(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


def test_only_pages_that_hold_tokens_count(decoder: Any) -> None:
    page = PAGE * decoder.bytes_per_token
    decoder.prefill(0, [1] * (PAGE + 1))
    decoder.prefill(1, [2])
    assert decoder.bytes_held([0]) == 2 * page and decoder.bytes_held([0, 1]) == 3 * page
    assert decoder._store.allocated == 3 * page
    decoder.truncate(0, PAGE)
    assert decoder.bytes_held([0, 1, 2]) == 2 * page


def test_growth_moves_nothing(decoder: Any) -> None:
    decoder.prefill(0, [1, 2, 3])
    decoder.prefill(1, [4])
    before = [page.data_ptr() for slot in (0, 1) for page in decoder._store.tensors(slot)]
    decoder.step([0], [[5] * (3 * PAGE)])
    after = [decoder._store.tensors(slot)[0].data_ptr() for slot in (0, 1)]
    assert after == before


def test_forks_share_pages_and_copy_the_one_they_write_to(decoder: Any) -> None:
    page = PAGE * decoder.bytes_per_token
    tokens = [(5 * i) % 90 for i in range(2 * PAGE + 7)]
    decoder.prefill(0, tokens)
    for slot in (1, 2, 3):
        decoder.fork(0, slot)
    assert decoder.bytes_held(range(4)) == 3 * page
    found = decoder.step([1, 2, 3], [[8], [9], [8]]).logits
    assert decoder.bytes_held(range(4)) == 6 * page
    assert torch.allclose(found[0], found[2], atol=1e-5)
    decoder.free(0)
    decoder.prefill(4, [*tokens, 9])
    assert torch.allclose(
        decoder.prefill(4, [3]), torch.as_tensor(decoder.step([2], [[3]]).logits)[0], atol=1e-4
    )


def test_free_pages_go_back_to_the_system(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE * decoder.bytes_per_token
    monkeypatch.setattr(kv_store, "SPARE_BYTES", 2 * page)
    decoder.prefill(0, [1] * (5 * PAGE))
    decoder.prefill(1, [1])
    decoder.free(0)
    assert decoder._store.allocated == 3 * page
    decoder.trim()
    assert decoder._store.allocated == decoder.bytes_held([1]) == page


@pytest.mark.parametrize("allowed", [0, 1, 2, 3])
def test_pages_that_cannot_be_made_leave_every_slot_as_it_was(
    decoder: Any, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocation of the first page fails, then of the second, and so on."""
    decoder.prefill(0, [1] * (PAGE - 1))
    decoder.fork(0, 1)
    expected = decoder.step([0, 1], [[2, 3, 4], [5]]).logits
    decoder.truncate(0, PAGE - 1)
    decoder.truncate(1, PAGE - 1)
    decoder.trim()
    held, made = decoder.bytes_held([0, 1]), []
    new_page = decoder._store._new_page

    def fails() -> Any:
        if len(made) == allowed:
            raise MemoryError("no memory for a page")
        made.append(1)
        return new_page()

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(decoder._store, "_new_page", fails)
        decoder.step([0, 1, 2], [[2] * PAGE, [5] * PAGE, [1] * (2 * PAGE)], [Sampling()] * 3)
    assert [decoder.length(slot) for slot in (0, 1, 2)] == [PAGE - 1, PAGE - 1, 0]
    assert decoder.bytes_held([0, 1, 2]) == held
    again = decoder.step([0, 1], [[2, 3, 4], [5]]).logits
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("call", ["step", "prefill"])
def test_an_error_after_the_pass_leaves_every_slot_as_it_was(
    decoder: Any, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder.prefill(0, [1, 2, 3])
    store_append, calls = decoder._store.append, []

    def fails_at_the_second(slot: int, tokens: Any) -> None:
        store_append(slot, tokens)
        calls.append(slot)
        if len(calls) == 2:
            raise MemoryError("planted")

    monkeypatch.setattr(f"{type(decoder).__module__}.PREFILL_CHUNK", 4)
    with monkeypatch.context() as patch, pytest.raises(MemoryError, match="planted"):
        patch.setattr(decoder._store, "append", fails_at_the_second)
        if call == "step":
            decoder.step([0, 1], [[4], [5, 6]])
        else:
            decoder.prefill(0, list(range(10)))
    assert [decoder.length(0), decoder.length(1)] == [3, 0] and decoder._store.tokens[:2] == [[1, 2, 3], []]
