"""Packed weights from a model in bitsandbytes' NF4, and the reasons why a model cannot be packed.

The weights are read by their names in a checkpoint (`ModelWeights`), with bitsandbytes' quantization states.
Codes and absmax bytes are used unchanged; nothing is quantized again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llms.decoders.cuda import ARCHITECTURES
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
from llms.models.weights import ATTENTION, MLP, ModelWeights


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a model.

    Attributes:
        sliding: Number of tokens that attention reaches back; 0 if it reaches all of them.
        nested: Whether absmax values are 8-bit (double quantization) and rows are whole records.
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
class CudaWeights:
    """Everything that a step reads.

    Attributes:
        embedding: bf16 [vocabulary, width].
        head: bf16 [vocabulary, width]; the same tensor if tied.
        code2: fp32 [256], the code book of the second quantization.
        codes: fp32 [16], the NF4 code book.
        rope: fp32 [positions, head_dim / 2, 2], cosine and sine, rounded as in the model.
    """

    shape: ModelShape
    layers: list[Layer]
    embedding: Tensor
    head: Tensor
    gain: Tensor
    code2: Tensor
    codes: Tensor
    rope: Tensor

    @property
    def nbytes(self) -> int:
        """Return the size of the weights in bytes; tied tensors count once."""
        ends = {t.data_ptr(): t.numel() * t.element_size() for t in (self.embedding, self.head)}
        return sum(ends.values()) + self.step_bytes - self.head.numel() * 2

    @property
    def step_bytes(self) -> int:
        """Return the bytes of weights that a step of one token reads."""
        packed = sum(p.nbytes for x in self.layers for p in (x.qkv, x.out, x.gate_up, x.down))
        return packed + self.head.numel() * 2


def unsupported(weights: ModelWeights) -> str | None:
    """Return why the decoder does not take these weights, in one line; None if it does."""
    if reason := _device_reason(weights.device) or _shape_reason(weights):
        return reason
    if any(name.endswith("_proj.bias") for name in weights.tensors):
        return "it does not take layers with a bias"
    reasons = (_matrix_reason(one) for index in range(_layers(weights)) for one in _matrices(weights, index))
    return next((reason for reason in reasons if reason), None)


def _device_reason(device: torch.device) -> str | None:
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


def _shape_reason(weights: ModelWeights) -> str | None:
    c, dim = weights.config, weights.head_dim
    if c.get("model_type") not in ARCHITECTURES:
        return f"it runs {' and '.join(ARCHITECTURES)} layers, the model is {c.get('model_type', '?')}"
    hidden, inner, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
    group = heads // c["num_key_value_heads"]
    rope = (c.get("rope_parameters") or {}).get("rope_type", "default")
    checks = [
        (c["hidden_act"] == "silu", f"hidden_act={c['hidden_act']!r}"),
        (dim in (64, 96, 128), f"head_dim={dim!r}"),
        (group <= 16, f"{group} query heads per KV head"),
        (hidden % BLOCK == 0 and inner % BLOCK == 0, f"width {hidden}"),
        (rope in ("default", "linear", "llama3", "yarn"), f"rope_type={rope!r}"),
        (weights.dtype == torch.bfloat16, "weights that are not bfloat16"),
        (max(hidden, inner, heads * dim) <= 36_864, "rows too long"),
    ]
    return next((f"it does not take {what}" for good, what in checks if not good), None)


def _matrix_reason(weight: Any) -> str | None:
    state = getattr(weight, "quant_state", None)
    if state is None or state.quant_type != "nf4" or state.blocksize != BLOCK:
        return f"it takes layers in NF4 with blocks of {BLOCK}, found {weight.dtype} or other blocks"
    if getattr(state, "state2", None) is not None and state.state2.blocksize != GROUP:
        return f"it takes nested blocks of {GROUP}, found {state.state2.blocksize!r}"
    return None


def _layers(weights: ModelWeights) -> int:
    return int(weights.config["num_hidden_layers"])


def _matrices(weights: ModelWeights, index: int) -> list[Any]:
    """Return a layer's seven matrices with their quantization states, q, k, v, o, gate, up, down."""
    return list(weights.layer(index, *ATTENTION, *MLP))


def shape_of(weights: ModelWeights) -> ModelShape:
    """Return a model's sizes."""
    c = weights.config
    states = [one.quant_state for index in range(_layers(weights)) for one in _matrices(weights, index)]
    whole = all(s.shape[1] % (4 * BLOCK) == 0 for s in states)
    return ModelShape(
        layers=c["num_hidden_layers"],
        width=c["hidden_size"],
        inner=c["intermediate_size"],
        heads=c["num_attention_heads"],
        kv_heads=c["num_key_value_heads"],
        head_dim=weights.head_dim,
        vocabulary=weights.head.shape[0],
        eps=c["rms_norm_eps"],
        sliding=weights.sliding_window,
        nested=whole and all(s.nested for s in states),
    )


def matrix(weight: Any, nested: bool) -> Matrix:
    """Return the codes and absmax of a matrix of bitsandbytes; if not `nested`, absmax as fp32 values."""
    state = weight.quant_state
    rows, width = state.shape
    codes = weight.data.view(torch.uint8).reshape(rows, width // 2)
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
def extract(source: ModelWeights, *, positions: int, release: bool = True) -> CudaWeights:
    """Return a model's weights, packed layer by layer.

    Args:
        source: Weights that `unsupported` has nothing against.
        positions: Number of positions of the rotary table.
        release: Free each layer's bitsandbytes weights once they are packed, so that both never exist at the
            same time. The model can then run no forward pass.
    """
    shape = shape_of(source)
    qkv_order = qkv_runs(shape.heads, shape.kv_heads, shape.head_dim)
    gate_up_order, plain_order = gate_up_runs(shape.inner), plain_runs(shape.width)
    state = _matrices(source, 0)[-1].quant_state
    device = state.absmax.device
    code2 = state.state2.code.float().clone() if shape.nested else torch.zeros(256, device=device)
    codes = state.code.float().clone()
    layers = []
    for index in range(shape.layers):
        q, k, v, o, gate, up, down = (matrix(one, shape.nested) for one in _matrices(source, index))
        attention_gain, mlp_gain = source.layer(index, "input_layernorm", "post_attention_layernorm")
        qkv, out, gate_up, last = _pack_layer(
            [([q, k, v], qkv_order), ([o], plain_order), ([gate, up], gate_up_order), ([down], plain_order)]
        )
        layers.append(
            Layer(
                qkv=qkv,
                out=out,
                gate_up=gate_up,
                down=last,
                attention_gain=attention_gain.to(torch.bfloat16),
                mlp_gain=mlp_gain.to(torch.bfloat16),
            )
        )
        del q, k, v, o, gate, up, down
        if release:
            _release(source, index)
            if device.type == "cuda":
                # Otherwise small matrices of the next layer split the freed blocks: 27 MB a layer.
                torch.cuda.empty_cache()
    return CudaWeights(
        shape=shape,
        layers=layers,
        embedding=source.embedding,
        head=source.head,
        gain=source["model.norm"].to(torch.bfloat16),
        code2=code2,
        codes=codes,
        rope=_rope(source, positions),
    )


def _pack_layer(parts: list[tuple[list[Matrix], Tensor]]) -> list[Packed]:
    """Pack a layer's products into one block of memory: the allocator rounds each block to 2 or 20 MiB."""
    nested = parts[0][0][0].absmax2 is not None
    sizes = [packed_bytes(len(runs), matrices[0].codes.shape[1] * 2, nested) for matrices, runs in parts]
    memory = torch.empty(sum(sizes), dtype=torch.uint8, device=parts[0][0][0].codes.device)
    places = torch.split(memory, sizes)
    return [pack(matrices, runs, place) for (matrices, runs), place in zip(parts, places, strict=True)]


def _release(source: ModelWeights, index: int) -> None:
    for weight in _matrices(source, index):
        weight.data = weight.data.new_empty(0)
        weight.quant_state = None


def _rope(source: ModelWeights, positions: int) -> Tensor:
    cos, sin = source.rotary(positions)
    half = cos.shape[-1] // 2
    return torch.stack([cos[:, :half].float(), sin[:, :half].float()], -1).contiguous()
