"""From a loaded bitsandbytes model to packed weights, and the reasons why a model cannot be taken.

Knows transformers' module names and bitsandbytes' quantization state. Refuses to know kernels and slots.
Codes and absmax bytes are taken over as they are; nothing is quantized again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llms.decoders.cuda.layout import (
    BLOCK,
    GROUP,
    Matrix,
    Packed,
    gate_up_runs,
    pack,
    packed_bytes,
    plain_runs,
    qkv_runs,
)

KINDS = ("mistral", "llama")
"""Architectures whose layer this decoder implements; what differs inside one is checked by `why_not`."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a model.

    Attributes:
        sliding: How far back attention reaches, in tokens; 0: all the way.
        nested: Whether absmax values are 8-bit (double quantization) and rows whole records.
    """

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    eps: float
    sliding: int
    nested: bool


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer: four products and two norms."""

    qkv: Packed
    out: Packed
    gate_up: Packed
    down: Packed
    attention_gain: Tensor
    mlp_gain: Tensor


@dataclass(frozen=True, kw_only=True)
class Weights:
    """All that a step reads.

    Attributes:
        embedding: bf16 [vocabulary, width].
        head: bf16 [vocabulary, width]; the same tensor where tied.
        code2: fp32 [256], the second quantization's code book.
        codes: fp32 [16], the NF4 code book.
        rope: fp32 [positions, head_dim / 2, 2], cosine and sine as the model itself rounds them.
    """

    shape: Shape
    layers: list[Layer]
    embedding: Tensor
    head: Tensor
    gain: Tensor
    code2: Tensor
    codes: Tensor
    rope: Tensor

    @property
    def nbytes(self) -> int:
        """Size of the weights in bytes, tied tensors once."""
        ends = {t.data_ptr(): t.numel() * t.element_size() for t in (self.embedding, self.head)}
        return sum(ends.values()) + self.step_bytes - self.head.numel() * 2

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that a step of one token reads."""
        packed = sum(p.nbytes for x in self.layers for p in (x.qkv, x.out, x.gate_up, x.down))
        return packed + self.head.numel() * 2


def why_not(model: Any) -> str | None:
    """Return in one line what keeps the fast decoder from taking a model; None where nothing does."""
    reason = _device_reason(model) or _shape_reason(model)
    if reason:
        return reason
    for layer in model.model.layers:
        for linear in _linears(layer):
            if reason := _linear_reason(linear):
                return reason
    return None


def _device_reason(model: Any) -> str | None:
    device = torch.device(getattr(model, "device", "cpu"))
    if device.type != "cuda":
        return f"it runs on CUDA GPUs, the model is on {device.type}"
    if torch.version.hip:
        return "it runs on NVIDIA GPUs"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"bf16 tensor cores start at compute capability 8.0, this GPU has {major}.{minor}"
    try:
        from cuda.bindings import driver, nvrtc  # noqa: F401
    except ImportError as error:
        return f"it needs the package cuda-bindings ({error})"
    return None


def _shape_reason(model: Any) -> str | None:
    c = model.config
    if getattr(c, "model_type", None) not in KINDS or not hasattr(model, "model"):
        return f"it knows {' and '.join(KINDS)} layers, the model is {getattr(c, 'model_type', '?')}"
    dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    group = c.num_attention_heads // c.num_key_value_heads
    rope = (getattr(c, "rope_parameters", None) or {}).get("rope_type", "default")
    checks = [
        (c.hidden_act == "silu", f"hidden_act={c.hidden_act!r}"),
        (dim in (64, 96, 128), f"head_dim={dim!r}"),
        (group <= 16, f"{group} query heads per KV head"),
        (c.hidden_size % BLOCK == 0 and c.intermediate_size % BLOCK == 0, f"width {c.hidden_size}"),
        (rope in ("default", "linear", "llama3", "yarn"), f"rope_type={rope!r}"),
        (model.get_input_embeddings().weight.dtype == torch.bfloat16, "weights that are not bfloat16"),
        (max(c.hidden_size, c.intermediate_size, c.num_attention_heads * dim) <= 36_864, "rows too long"),
    ]
    return next((f"it does not take {what}" for good, what in checks if not good), None)


def _linear_reason(linear: Any) -> str | None:
    state = getattr(linear.weight, "quant_state", None)
    if state is None or state.quant_type != "nf4" or state.blocksize != BLOCK:
        return f"it takes layers in NF4 with blocks of {BLOCK}, found {type(linear).__name__}"
    if linear.bias is not None:
        return "it does not take layers with a bias"
    if getattr(state, "state2", None) is not None and state.state2.blocksize != GROUP:
        return f"it takes nested blocks of {GROUP}, found {state.state2.blocksize!r}"
    return None


def _linears(layer: Any) -> list[Any]:
    a, m = layer.self_attn, layer.mlp
    return [a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj]


def shape_of(model: Any) -> Shape:
    """Read a model's sizes."""
    c = model.config
    dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    states = [linear.weight.quant_state for layer in model.model.layers for linear in _linears(layer)]
    whole = all(s.shape[1] % (4 * BLOCK) == 0 for s in states)
    kinds = set(getattr(c, "layer_types", None) or ())
    return Shape(
        layers=c.num_hidden_layers,
        width=c.hidden_size,
        inner=c.intermediate_size,
        heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads,
        head_dim=dim,
        vocabulary=model.get_output_embeddings().weight.shape[0],
        eps=c.rms_norm_eps,
        sliding=0 if kinds == {"full_attention"} else getattr(c, "sliding_window", None) or 0,
        nested=whole and all(s.nested for s in states),
    )


def matrix(linear: Any, nested: bool) -> Matrix:
    """Take a bitsandbytes layer's codes and absmax over; where not `nested`, absmax as fp32 values."""
    state = linear.weight.quant_state
    rows, width = state.shape
    codes = linear.weight.data.view(torch.uint8).reshape(rows, width // 2)
    if nested:
        offset = float(state.offset)
        absmax = state.absmax.reshape(rows, width // BLOCK)
        return Matrix(codes=codes, absmax=absmax, absmax2=state.state2.absmax, offset=offset)
    absmax = state.absmax
    if state.nested:
        import bitsandbytes.functional as bnb

        absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    return Matrix(codes=codes, absmax=absmax.float().reshape(rows, width // BLOCK))


@torch.inference_mode()
def extract(model: Any, *, positions: int, release: bool = True) -> Weights:
    """Pack a model's weights, layer by layer.

    Args:
        model: A model that `why_not` has nothing against.
        positions: How many positions the rotary table covers.
        release: Drop each layer's bitsandbytes weights once packed, so that both never exist at once; the
            model then serves no forward pass any more.
    """
    shape = shape_of(model)
    qkv_order = qkv_runs(shape.heads, shape.kv_heads, shape.head_dim)
    gate_up_order, plain_order = gate_up_runs(shape.inner), plain_runs(shape.width)
    state = model.model.layers[0].mlp.down_proj.weight.quant_state
    device = state.absmax.device
    code2 = state.state2.code.float().clone() if shape.nested else torch.zeros(256, device=device)
    codes = state.code.float().clone()
    layers = []
    for layer in model.model.layers:
        q, k, v, o, gate, up, down = (matrix(x, shape.nested) for x in _linears(layer))
        qkv, out, gate_up, last = _pack_layer(
            [([q, k, v], qkv_order), ([o], plain_order), ([gate, up], gate_up_order), ([down], plain_order)]
        )
        layers.append(
            Layer(
                qkv=qkv,
                out=out,
                gate_up=gate_up,
                down=last,
                attention_gain=layer.input_layernorm.weight.detach().to(torch.bfloat16),
                mlp_gain=layer.post_attention_layernorm.weight.detach().to(torch.bfloat16),
            )
        )
        del q, k, v, o, gate, up, down
        if release:
            _release(layer)
            if device.type == "cuda":
                # Or the next layer's small matrices split what this one leaves: 27 MB a layer.
                torch.cuda.empty_cache()
    return Weights(
        shape=shape,
        layers=layers,
        embedding=model.get_input_embeddings().weight.detach(),
        head=model.get_output_embeddings().weight.detach(),
        gain=model.model.norm.weight.detach().to(torch.bfloat16),
        code2=code2,
        codes=codes,
        rope=_rope(model, positions),
    )


def _pack_layer(parts: list[tuple[list[Matrix], Tensor]]) -> list[Packed]:
    """Pack a layer's products into one block of memory: the allocator rounds each up, to 2 or 20 MiB."""
    nested = parts[0][0][0].absmax2 is not None
    sizes = [packed_bytes(len(runs), matrices[0].codes.shape[1] * 2, nested) for matrices, runs in parts]
    memory = torch.empty(sum(sizes), dtype=torch.uint8, device=parts[0][0][0].codes.device)
    places = torch.split(memory, sizes)
    return [pack(matrices, runs, place) for (matrices, runs), place in zip(parts, places, strict=True)]


def _release(layer: Any) -> None:
    for linear in _linears(layer):
        linear.weight.data = linear.weight.data.new_empty(0)
        linear.weight.quant_state = None


def _rope(model: Any, positions: int) -> Tensor:
    like = model.get_input_embeddings().weight[:1]
    cos, sin = model.model.rotary_emb(like, torch.arange(positions, device=like.device)[None])
    half = cos.shape[-1] // 2
    return torch.stack([cos[0, :, :half].float(), sin[0, :, :half].float()], -1).contiguous()
