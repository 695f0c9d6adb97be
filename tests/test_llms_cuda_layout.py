"""NF4 weights packed for tensor cores lose nothing, and each byte is where the kernels expect it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from llms.decoders import cuda
from llms.decoders.cuda import layout, machine
from llms.decoders.cuda.compiler import FOLDER
from llms.decoders.cuda.prompt import Prefill
from llms.decoders.cuda.synthetic import synthetic_model
from llms.decoders.cuda.weights import extract, matrix, unsupported
from llms.models.checkpoint import Checkpoint
from llms.models.weights import weights_of
from llms.params import LoadSettings

SHAPES = [(64, 256), (48, 512), (32, 64), (16, 576), (160, 320)]


def random_matrix(rows: int, width: int, nested: bool, seed: int = 0) -> layout.Matrix:
    random = torch.Generator().manual_seed(seed + rows * width)
    codes = torch.randint(0, 256, (rows, width // 2), dtype=torch.uint8, generator=random)
    if not nested:
        absmax = torch.rand(rows, width // 64, generator=random)
        return layout.Matrix(codes=codes, absmax=absmax)
    absmax = torch.randint(0, 256, (rows, width // 64), dtype=torch.uint8, generator=random)
    seconds = torch.rand(-(-absmax.numel() // 256), generator=random)
    return layout.Matrix(codes=codes, absmax=absmax, absmax2=seconds, offset=0.25 + seed)


def runs_for(order: str, rows: int) -> Tensor:
    """Runs over two joined matrices of `rows` rows each."""
    return layout.gate_up_runs(rows) if order == "gate_up" else layout.plain_runs(2 * rows)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("order", ["plain", "gate_up"])
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_unpacking_gives_back_every_bit(rows: int, width: int, order: str, nested: bool) -> None:
    both = [random_matrix(rows, width, nested, seed) for seed in (0, 1)]
    codes, absmax = layout.unpack(layout.pack(both, runs_for(order, rows)))
    assert torch.equal(codes, torch.cat([m.codes for m in both]))
    assert torch.equal(absmax, torch.cat([m.absmax for m in both]))


def test_records_lie_where_they_are_told_to() -> None:
    both = [random_matrix(48, 512, True, seed) for seed in (0, 1)]
    runs = layout.plain_runs(96)
    memory = torch.zeros(2 * layout.packed_bytes(len(runs), 512, True), dtype=torch.uint8)
    packed = layout.pack(both, runs, memory[len(memory) // 2 :])
    assert packed.records.data_ptr() == memory.data_ptr() + len(memory) // 2
    assert torch.equal(packed.records, layout.pack(both, runs).records)
    assert not memory[: len(memory) // 2].any()


def fragments(record: Tensor) -> dict[tuple[int, int], int]:
    """Read a record as a warp does: (row of the tile, column of the unit) -> byte, by its definition."""
    found = {}
    for block in range(4):
        for lane in range(32):
            g, t = divmod(lane, 4)
            for step in range(4):
                for register in range(4):
                    byte = int(record[block * 512 + lane * 16 + step * 4 + register])
                    row = g + 8 * (register & 1)
                    column = block * 64 + step * 16 + 8 * (register >> 1) + 2 * t
                    found[row, column] = byte
    return found


def test_every_lane_finds_its_fragment() -> None:
    m = random_matrix(32, 512, True)
    packed = layout.pack([m], layout.rotary_runs(1, 32))
    for tile, (low, high) in enumerate(packed.tiles[:, :2].tolist()):
        for unit in range(2):
            for (row, column), byte in fragments(packed.records[tile, unit]).items():
                source = low + row if row < 8 else high + row - 8
                assert byte == int(m.codes[source, (unit * 256 + column) // 2])


def test_absmax_is_found_through_the_tile_table() -> None:
    both = [random_matrix(16, 1024, True, seed) for seed in (0, 1)]
    packed = layout.pack(both, layout.gate_up_runs(16))
    expected = torch.cat([m.absmax2.repeat_interleave(256)[: m.absmax.numel()].view(16, -1) for m in both])  # type: ignore[union-attr]
    for low, high, start_low, start_high, _, _ in packed.tiles.tolist():
        for first, start in ((low, start_low), (high, start_high)):
            for g in range(8):
                for unit in range(4):
                    found = packed.absmax2[(start + g * 16 + unit * 4) >> 8]
                    assert (expected[first + g, unit * 4 : unit * 4 + 4] == found).all()
    assert packed.tiles[0, 4:].view(torch.float32).tolist() == [0.25, 1.25]


@pytest.mark.parametrize("wgmma", [False, True])
@pytest.mark.parametrize("columns", [1, 8, 16, 64])
def test_activations_lie_where_the_kernels_write_them(columns: int, wgmma: bool) -> None:
    x = torch.arange(columns * 64, dtype=torch.float32).view(columns, 64)
    packed = layout.pack_activations(x, wgmma)
    assert torch.equal(layout.unpack_activations(packed, columns, wgmma), x)
    nt = 0 if columns == 1 else columns // 8
    for m in range(columns):
        for k in range(64):
            assert packed[packed_index(k, m, nt, wgmma)] == x[m, k]


def packed_index(k: int, m: int, nt: int, wgmma: bool) -> int:
    """`packed` of kernels/common.cuh."""
    t, inside = (k >> 1) & 3, ((k >> 4) & 1) * 4 + ((k >> 3) & 1) * 2 + (k & 1)
    if nt == 0:
        return ((k >> 5) * 4 + t) * 8 + inside
    if wgmma:
        return ((k >> 3) * nt + (m >> 3)) * 64 + (m & 7) * 8 + (k & 7)
    return (((k >> 5) * nt + (m >> 3)) * 32 + (m & 7) * 4 + t) * 8 + inside


def test_runs_cover_every_row_once() -> None:
    for runs, rows in (
        (layout.qkv_runs(9, 3, 64), 15 * 64),
        (layout.qkv_runs(32, 8, 128), 48 * 128),
        (layout.gate_up_runs(1536), 3072),
    ):
        covered = (runs[:, :, None] + torch.arange(8)).flatten()
        assert torch.equal(covered.sort().values, torch.arange(rows))


def c_fields(name: str) -> list[str]:
    """Read the field names of a struct in the kernels' sources."""
    text = "\n".join(path.read_text() for path in sorted(FOLDER.iterdir()))
    body = re.search(rf"struct {name} {{(.*?)\n}};", text, re.S)
    assert body is not None
    lines = [re.sub(r"\[\d+\]", "", line.split("//")[0]) for line in body[1].splitlines()]
    declared = [part for line in lines for part in line.rstrip("; ").split(",") if part.strip()]
    return [re.findall(r"\w+", part)[-1] for part in declared]


@pytest.mark.parametrize(
    "name", ["Linear", "Attention", "Ahead", "Embed", "Norm", "Unpack", "Rotate", "Product", "Sample"]
)
def test_python_and_c_agree_on_arguments(name: str) -> None:
    fields: Any = getattr(machine, name)._fields_
    assert [field for field, _ in fields] == c_fields(name)


def test_a_bitsandbytes_model_is_taken_over_bit_for_bit() -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "head_dim": 64,
    }
    model = synthetic_model("cpu", num_hidden_layers=2, num_key_value_heads=2, vocab_size=512, **sizes)
    reason = unsupported(weights_of(model))
    assert reason is not None and "CUDA" in reason
    weights = extract(weights_of(model), positions=16, release=False)
    assert weights.shape.nested
    for layer, packed in zip(model.model.layers, weights.layers, strict=True):
        a, m = layer.self_attn, layer.mlp
        for joined, linears in (
            (packed.qkv, [a.q_proj, a.k_proj, a.v_proj]),
            (packed.out, [a.o_proj]),
            (packed.gate_up, [m.gate_proj, m.up_proj]),
            (packed.down, [m.down_proj]),
        ):
            codes, absmax = layout.unpack(joined)
            own = [matrix(linear.weight, True) for linear in linears]
            assert torch.equal(codes, torch.cat([x.codes for x in own]))
            assert torch.equal(absmax, torch.cat([x.absmax for x in own]))
    before = weights.nbytes
    released = extract(weights_of(model), positions=16, release=True)
    assert released.nbytes == before
    assert model.model.layers[0].mlp.down_proj.weight.numel() == 0


def small_model(**changes: Any) -> Any:
    sizes: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "head_dim": 64,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    }
    return synthetic_model("cpu", **(sizes | changes))


def biased(model: Any) -> Any:
    model.model.layers[1].self_attn.q_proj.bias = torch.nn.Parameter(torch.zeros(256, dtype=torch.bfloat16))
    return model


def unquantized(model: Any) -> Any:
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(256, 512, bias=False, dtype=torch.bfloat16)
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (small_model, None),
        (lambda: small_model(nested=False), None),
        (lambda: small_model(tie_word_embeddings=True), None),
        (lambda: small_model(rope_parameters=YARN), None),
        (lambda: small_model(head_dim=32), "head_dim=32"),
        (lambda: small_model(hidden_act="gelu"), "hidden_act='gelu'"),
        (lambda: biased(small_model()), "layers with a bias"),
        (lambda: unquantized(small_model()), "layers in NF4 with blocks of 64, found torch.bfloat16"),
    ],
)
def test_on_a_gpu_what_it_does_not_take_it_would_name(
    build: Any, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llms.decoders.cuda.weights._device_reason", lambda _device: None)
    found = unsupported(weights_of(build()))
    assert found is None if reason is None else reason in str(found)


YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 1e6}, YARN])
def test_angles_are_those_of_the_model(rope: dict[str, Any]) -> None:
    model = small_model(rope_parameters=rope, max_position_embeddings=512)
    table = extract(weights_of(model), positions=300, release=False).rope
    like, places = model.model.embed_tokens.weight[:1], torch.arange(300)[None]
    cos, sin = model.model.rotary_emb(like, places)
    assert torch.equal(table, torch.stack([cos[0, :, :32].float(), sin[0, :, :32].float()], -1))


def test_the_workspace_that_is_planned_is_the_one_that_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffers of `Prefill`, and six times the residual stream of a chunk."""
    monkeypatch.setattr(cuda, "SLICE", 100_000)  # so that each matrix is unpacked in several slices
    model = small_model(intermediate_size=1024)
    weights: Any = extract(weights_of(model), positions=16, release=False)
    prefill = Prefill(SimpleNamespace(device="cpu"), weights, torch.empty(0))  # type: ignore[arg-type]
    buffers = sum(2 * t.numel() for t in (prefill._scratch, prefill._wide, prefill._hidden))
    checkpoint = Checkpoint(
        folder=Path("model"),
        config=model.config.to_dict(),
        headers=(),
        weight_bytes=0,
        tokenizer=True,
        chat_template=True,
    )
    planned = cuda.memory(checkpoint, LoadSettings(dtype="bfloat16"), prefill.chunk).workspace
    assert planned == buffers + 2 * prefill.chunk * 6 * 256
