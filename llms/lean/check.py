"""Compiled code is used only where it computes what PyTorch does, for all weights and numbers of rows.

Knows a model of one layer, made up here, and what its logits are. A compiler that miscompiles, or a file that
is not what its name says, costs the machine code and not the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llms.decoders.reference import Plan, Shape, SlotStore
from llms.lean.compiler import SETS, InstructionSet, code, sets, why_not
from llms.lean.machine import Machine, packed
from llms.lean.weights import BLOCK

CASES = ((4, 32), (8, 64), (16, 96), (4, 128))
"""Bits of a weight and dimensions of a head: every form and every width that the source has code for."""

STEPS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Tokens of a pass, one after the other: every number of rows that the source has code for."""

TOLERANCE = 0.02
"""Largest relative error of a row of logits: 0.004 to 0.007 is what keys and values in bf16 leave."""

WIDTH, HEADS, VOCABULARY = 64, 2, 40


@cache
def checked(name: str | None = None) -> tuple[InstructionSet, Callable[..., None]] | str:
    """Return compiled code and its instruction set, the best that computes; in a few words why there is none.

    Args:
        name: The only set to take; None: any that this CPU has.

    Raises:
        ValueError: There is no set of that name.
    """
    if name not in (None, *(names := [one.name for one in SETS])):
        raise ValueError(f"Expected an instruction set of {', '.join(names)}, or None; found {name!r}.")
    if reason := why_not():
        return reason
    if not (allowed := [one for one in sets() if name in (None, one.name)]):
        return f"a CPU without {name}"
    reason = "the compiler failed"
    for instructions in allowed:
        if (compiled := code(instructions)) is None:
            continue
        if computes(compiled.lean_pass):
            return instructions, compiled.lean_pass
        reason = "what the compiler made computes something else"
    return reason


@torch.inference_mode()
def computes(run: Callable[..., None]) -> bool:
    """Tell whether compiled code gives the logits of a layer of PyTorch's operators."""
    return all(_error(run, bits, dim) <= TOLERANCE for bits, dim in CASES)


def _error(run: Callable[..., None], bits: int, dim: int) -> float:
    """Return the largest relative error of a row of logits."""
    model, ids = _model(bits, dim), torch.arange(sum(STEPS)) * 7 % VOCABULARY
    places = torch.arange(len(ids))
    angles = torch.outer(places, 10_000 ** -(torch.arange(dim // 2) / (dim // 2)))
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    cos, sin = torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None]
    blocks = packed(model)
    alone, team = (Machine(run, model, blocks, cos, sin, sliding=0, threads=count) for count in (1, 0))
    one = Shape(
        layers=1, heads=1, key_dim=dim, value_dim=dim, dtype=torch.bfloat16, device=torch.device("cpu")
    )
    store = SlotStore(one, len(ids))
    store.reserve(1, len(ids))
    found = [
        machine(ids[None, at], places[None, at], Plan(0, 1, len(ids)), store, 0)[0]
        for machine, at in (*((alone, at) for at in torch.split(places, list(STEPS))), (team, places))
    ]
    exact = _logits(model, ids, cos.float(), sin.float()).repeat(2, 1)
    errors = (torch.cat(found) - exact).norm(dim=-1) / exact.norm(dim=-1)
    return float(errors.nan_to_num(torch.inf).max())


def _model(bits: int, dim: int) -> Any:
    """Make up one layer of weights that lie on a lattice of so many bits."""
    draw = torch.Generator().manual_seed(bits + dim)

    def matrix(rows: int, width: int) -> Any:
        if bits == 16:
            return SimpleNamespace(weight=(torch.randn(rows, width, generator=draw) / 8).bfloat16())
        low, high = {4: (0, 15), 8: (-127, 127)}[bits]
        codes = torch.randint(low, high + 1, (rows, width), generator=draw)
        codes[:, ::BLOCK], codes[:, 1::BLOCK] = low, high
        weight = (codes - (low + high + 1) // 2) * 2.0 ** (1 - bits) / 4
        return SimpleNamespace(weight=weight.bfloat16())

    def norm(width: int) -> Any:
        gain = 0.5 + torch.rand(width, generator=draw)
        return SimpleNamespace(weight=gain.bfloat16(), variance_epsilon=1e-5)

    names = {"q_proj": HEADS * dim, "k_proj": dim, "v_proj": dim}
    attention = {name: matrix(rows, WIDTH) for name, rows in names.items()}
    layer = SimpleNamespace(
        self_attn=SimpleNamespace(**attention, o_proj=matrix(WIDTH, HEADS * dim)),
        mlp=SimpleNamespace(
            gate_proj=matrix(2 * WIDTH, WIDTH),
            up_proj=matrix(2 * WIDTH, WIDTH),
            down_proj=matrix(WIDTH, 2 * WIDTH),
        ),
        input_layernorm=norm(WIDTH),
        post_attention_layernorm=norm(WIDTH),
    )
    inner = SimpleNamespace(embed_tokens=matrix(VOCABULARY, WIDTH), layers=[layer], norm=norm(WIDTH))
    config = SimpleNamespace(hidden_size=WIDTH, num_attention_heads=HEADS, num_key_value_heads=1)
    return SimpleNamespace(model=inner, lm_head=matrix(VOCABULARY, WIDTH), config=config)


def _logits(model: Any, ids: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Compute fp32 [k, vocabulary] by PyTorch's operators."""
    layer, dim = model.model.layers[0], cos.shape[-1]

    def norm(x: Tensor, by: Any) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], by.weight.float(), by.variance_epsilon)

    def times(x: Tensor, by: Any) -> Tensor:
        return F.linear(x, by.weight.float())

    x = model.model.embed_tokens.weight[ids].float()
    attention, mlp, read = layer.self_attn, layer.mlp, norm(x, layer.input_layernorm)
    q, k, v = (
        times(read, by).view(len(x), -1, dim) for by in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    q, k = (t * cos + t.roll(dim // 2, -1) * sin for t in (q, k))
    seen = F.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1).expand(HEADS, -1, -1), v.transpose(0, 1).expand(HEADS, -1, -1),
        is_causal=True,
    )  # fmt: skip
    x = x + times(seen.transpose(0, 1).flatten(1), attention.o_proj)
    read = norm(x, layer.post_attention_layernorm)
    x = x + times(F.silu(times(read, mlp.gate_proj)) * times(read, mlp.up_proj), mlp.down_proj)
    return times(norm(x, model.model.norm), model.lm_head)
