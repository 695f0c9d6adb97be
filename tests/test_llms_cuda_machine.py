"""The CUDA decoder's choices for a GPU: shared memory that fits, and grids whose blocks all run at once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llms.decoders.cuda.attend import attention
from llms.decoders.cuda.layout import Packed
from llms.decoders.cuda.machine import Machine
from llms.decoders.cuda.weights import ModelShape

MISTRAL = ModelShape(
    layers=32, width=4096, inner=14336, heads=32, kv_heads=8, head_dim=128, vocabulary=32768, eps=1e-5,
    sliding=0, nested=True,
)  # fmt: skip
SMOLLM = ModelShape(
    layers=30, width=576, inner=1536, heads=9, kv_heads=3, head_dim=64, vocabulary=49152, eps=1e-5,
    sliding=0, nested=False,
)  # fmt: skip
GPUS = {  # compute capability, multiprocessors, shared memory a block and a multiprocessor (CUDA C++ guide)
    "H100": (9, 0, 132, 232_448, 233_472),
    "A100": (8, 0, 108, 166_912, 167_936),
    "RTX 4090": (8, 9, 128, 101_376, 102_400),
    "RTX 3060": (8, 6, 28, 101_376, 102_400),
}


class FakeModule:
    """Records the shared memory that each kernel asks for."""

    def __init__(self, asked: dict[str, int]) -> None:
        self.asked = asked

    def kernel(self, name: str, *, threads: int, shared_bytes: int = 0, overlap: bool = False) -> str:
        self.asked[name] = max(shared_bytes, self.asked.get(name, 0))
        return name


@pytest.fixture(params=list(GPUS))
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    major, minor, count, block, processor = GPUS[request.param]
    properties = SimpleNamespace(
        major=major, minor=minor, multi_processor_count=count, name=request.param,
        shared_memory_per_block_optin=block, shared_memory_per_multiprocessor=processor,
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return GPUS[request.param]


def build(shape: ModelShape, monkeypatch: pytest.MonkeyPatch) -> tuple[Machine, dict[str, int]]:
    asked: dict[str, int] = {}
    monkeypatch.setattr(Machine, "_module", lambda *arguments: FakeModule(asked))
    return Machine(shape, torch.device("cuda"), Path("unused")), asked


@pytest.mark.parametrize("shape", [MISTRAL, SMOLLM], ids=["mistral", "smollm"])
def test_every_kernel_fits_a_multiprocessor(
    shape: ModelShape, gpu: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, asked = build(shape, monkeypatch)
    assert max(asked.values()) <= gpu[3], asked
    assert machine.overlap == (gpu[0] >= 9)
    assert machine.columns == (64 if gpu[0] >= 9 else 16)
    assert f"gemm{machine.columns // 8}_qkv" in asked


def test_blocks_that_wait_for_each_other_all_run_at_once(
    gpu: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, asked = build(MISTRAL, monkeypatch)
    for nt in (1, 2, 4, 8):
        if nt * 8 > machine.columns:
            continue
        room = gpu[2] * min(2 if nt <= 2 else 1, gpu[4] // (asked[f"gemm{nt}_qkv"] + 1024))
        for tiles, units in ((384, 16), (256, 16), (1792, 16), (256, 56)):
            rows, splits = machine.blocks(tiles, units, nt)
            assert rows * machine._together * machine._rows[nt] >= tiles and 1 <= splits <= units
            assert splits == 1 or rows * splits <= room


@pytest.mark.parametrize("columns", [1, 2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("kv_heads", [1, 3, 8, 32])
@pytest.mark.parametrize("length", [1, 16, 17, 250, 256, 257, 4096, 32_000])
def test_attention_sees_every_key_once(columns: int, kv_heads: int, length: int) -> None:
    plan = attention(132, kv_heads, columns)
    step = plan.warps * 16
    assert plan.least % step == 0 and 1 <= plan.splits <= 32
    share = (length + plan.splits - 1) // plan.splits
    run = max(plan.least, (share + step - 1) // step * step)  # as kernels/attention.cu has it
    runs = [(i * run, min((i + 1) * run, length)) for i in range(-(-length // run))]
    assert len(runs) <= plan.splits
    assert [key for a, b in runs for key in range(a, b)] == list(range(length))


def test_choices_can_be_overridden_for_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    properties: Any = SimpleNamespace(
        major=9, minor=0, multi_processor_count=132, name="H100",
        shared_memory_per_block_optin=232_448, shared_memory_per_multiprocessor=233_472,
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    machine = Machine.__new__(Machine)
    machine.shape, machine._limit, machine.overlap, machine.wgmma = MISTRAL, 232_448, True, True
    machine.processors, machine._record = 132, 2112
    chosen = machine._choose({"STAGES": 4, "RT1": 2})
    assert chosen["gemv"]["STAGES"] == 4 and chosen["gemm"]["RT1"] == 2 and "STAGES" not in chosen["gemm"]
    assert chosen["attention/8"]["ATTENTION_WARPS"] == 8


@pytest.mark.parametrize(("tiles", "units"), [(384, 16), (256, 56), (36, 3), (1, 1)])
def test_what_is_asked_for_ahead_lies_within_the_weights(
    tiles: int, units: int, gpu: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, _ = build(MISTRAL, monkeypatch)
    records = torch.empty(tiles, units, 2112, dtype=torch.uint8)
    packed = Packed(records=records, tiles=records, absmax2=records, rows=tiles * 16, width=units * 256)
    assert machine.ahead(packed, 0).pieces == 0  # type: ignore[attr-defined]
    for nt in (1, 2):
        asked: Any = machine.ahead(packed, nt)
        for piece in (0, asked.pieces - 1):  # as kernels/common.cuh has it
            start = asked.n * piece // asked.pieces * asked.grain
            assert 0 < asked.bytes and start + asked.bytes <= records.numel()
