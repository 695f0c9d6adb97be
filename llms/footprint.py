"""What each part of a loaded model takes, in bytes: weights, loading, and a decoder's cache and workspace.

Knows shapes and how each decoder spends memory. Refuses to know what is free and what to do about it
(`llms.memory`), and to allocate anything. A decoder that spends otherwise brings a function of its own beside
`reference`, and names it where it is listed (`llms.load.KINDS`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llms.checkpoint.facts import Facts, Tensor, item_bytes

CHUNK = 1024
"""Tokens that a prefill pass takes at once (`llms.reference.PREFILL_CHUNK`)."""
OVERHEAD = {"cpu": 53_000_000, "cpu 4-bit": 142_000_000, "cuda": 64_000_000}
"""Bytes. CPU: the rest after weights, cache and workspace (50 to 57 MB at windows of 1k to 4k tokens; 142 MB
where bitsandbytes unpacks matrices). GPU: cuBLAS's workspace of 32 MiB, and buffers of a step.
"""
GPU_ROUNDING = 0.05
"""Share that torch's allocator adds to weights by cutting them from blocks of 2 and 20 MiB: measured with 8
and 32 layers of Mistral-7B in NF4.
"""
FAST_CHUNK = 4096
"""Most tokens of a prompt that the fast decoder takes at once."""
FAST_SLICE = 28 * 2**20
"""Weights that it unpacks at once (`llms.fast.prompt.SLICE`)."""
FAST_BATCH = 32_768
"""Tokens of KV that a batch gets on a GPU that has them to spare: 64 sequences of 512."""
IDLE_BYTES = 512 * 2**20
"""KV that the engine keeps of finished sequences (`llms.engine.engine.Engine`), in bytes."""
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_BLOCK = 64  # weights that share one scale in bitsandbytes' 4-bit formats
_NESTED_BLOCK = 256  # scales that share one scale of their own (double quantization)
_STATE_BYTES = 1_100  # code book and nested code book of one quantized matrix


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a model would be run.

    Attributes:
        quantization: `nf4`, `fp4`, `int8` or `none`.
        dtype: What is not quantized, and the KV cache.
        device: `cpu` or `cuda:N`.
        window: Longest sequence, in tokens.
        slots: How many sequences of that length.
        adapter: Whether a PEFT adapter stays on top.
    """

    quantization: str
    dtype: str
    device: str
    window: int
    slots: int = 1
    adapter: bool = False


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a decoder takes beside the weights, in bytes.

    Attributes:
        cache: The KV cache with every slot full, its growth included.
        workspace: Activations of one prefill pass, and matrices unpacked for it.
        overhead: What threads, kernels and their packed buffers take, whatever the model.
        welcome: More cache, which a batch would use and one sequence does not need.
    """

    cache: int
    workspace: int
    overhead: int
    welcome: int = 0

    @property
    def total(self) -> int:
        """Return the sum of what is needed."""
        return self.cache + self.workspace + self.overhead


Footprint = Callable[[Facts, Setting], Use]
"""How one decoder spends memory."""


def device_bytes(facts: Facts, quantization: str, dtype: str, device: str) -> int:
    """Return what the weights take on a device, in bytes."""
    exact = weight_bytes(facts, quantization, dtype)
    return exact if device == "cpu" else int(exact * (1 + GPU_ROUNDING))


def weight_bytes(facts: Facts, quantization: str, dtype: str) -> int:
    """Return the size of the weights themselves, in bytes."""
    item = _BYTES[dtype]
    if facts.stored_quantization is not None:
        sizes = (
            t.elements * (item if t.dtype in ("BF16", "F16") else item_bytes(t.dtype)) for t in facts.tensors
        )
        return sum(sizes)
    if quantization == "none":
        return facts.parameters * item
    packed = sum(t.elements for t in facts.linears)
    matrices = sum(1 for _ in facts.linears)
    rest = (facts.parameters - packed) * item
    if quantization == "int8":
        return rest + packed + sum(4 * t.shape[0] for t in facts.linears)
    scales = packed // _BLOCK
    return rest + packed // 2 + scales + 4 * scales // _NESTED_BLOCK + matrices * _STATE_BYTES


def loading_bytes(facts: Facts, quantization: str, dtype: str, device: str) -> int:
    """Return what loading takes beside the weights, in bytes.

    On the host that is the mapped file, unless the weights are used as they lie in it. A GPU gets one matrix
    after the other, unpacked, while the host reads ahead.
    """
    as_stored = (quantization, dtype) == (facts.stored_quantization or "none", facts.stored_dtype)
    if as_stored:
        return 0
    if device == "cpu":
        return facts.weight_bytes + OVERHEAD["cpu"]
    return 4 * max(map(_unpacked, facts.linears), default=0) * _BYTES[dtype] + OVERHEAD["cuda"]


def token_bytes(facts: Facts, dtype: str) -> int:
    """Return one token's keys and values over all layers, in bytes."""
    return kv_bytes(facts.config, dtype)


def kv_bytes(config: Mapping[str, Any], dtype: str) -> int:
    """Return the same from a configuration alone."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return int(2 * config["num_hidden_layers"] * kv_heads * head_dim * _BYTES[dtype])


def reference(facts: Facts, setting: Setting) -> Use:
    """Return what the reference decoder takes.

    Its cache grows by doubling, keys first: the old half-sized values still stand while the new keys are
    there, a quarter on top; a GPU's allocator keeps all the smaller blocks besides, which is as much again
    (1.9 to 2.0 measured). The widest moments of a pass are the MLP (gate, up and their product) and, on the
    CPU, attention over the whole window, where keys and values are repeated for every query head; quantized
    matrices are unpacked one at a time.
    """
    full = token_bytes(facts, setting.dtype) * setting.window * setting.slots
    on_gpu = setting.device != "cpu"
    config, item = facts.config, _BYTES[setting.dtype]
    tokens = min(CHUNK, setting.window)
    hidden, inner = config["hidden_size"], config.get("intermediate_size") or 4 * config["hidden_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    mlp = tokens * 3 * inner * item
    repeated = 2 * heads * head_dim * setting.window * item
    mask = tokens * setting.window
    residual = tokens * 4 * hidden * max(item, 4)
    logits = 2 * config["vocab_size"] * 4
    unpacked = max(map(_unpacked, facts.linears), default=0) * item if setting.quantization != "none" else 0
    attention = mask if on_gpu else repeated + mask
    where = "cuda" if on_gpu else "cpu" if setting.quantization == "none" else "cpu 4-bit"
    return Use(
        cache=2 * full if on_gpu else full + full // 4,
        workspace=int(max(mlp, attention) + residual + logits + unpacked),
        overhead=OVERHEAD[where],
    )


def fast(facts: Facts, setting: Setting) -> Use:
    """Return what the fast decoder takes (`llms.fast`).

    Its cache is one pool of pages, made at once: room for the window, for what the engine keeps of finished
    sequences, and, where there is room, for a batch of short ones. A pass of a prompt unpacks a slice of one
    matrix and holds its product and the hidden activations; a later chunk gathers the keys and values before
    it and expands them for every query head (44 kB a token of Mistral-7B: 8 gathered, twice 16 expanded).
    """
    config, item, token = facts.config, _BYTES[setting.dtype], token_bytes(facts, setting.dtype)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    tokens = min(FAST_CHUNK, setting.window)
    unpacked = FAST_SLICE * item
    product = FAST_CHUNK * (FAST_SLICE // hidden + inner) * item
    residual = tokens * 6 * hidden * item
    gathered = 2 * token // config["num_hidden_layers"] + 4 * config["num_attention_heads"] * head_dim * item
    deep = max(0, setting.window - tokens) * gathered
    cache = token * setting.window * setting.slots + IDLE_BYTES
    return Use(
        cache=cache,
        workspace=unpacked + product + residual + deep,
        overhead=OVERHEAD["cuda"],
        welcome=max(0, token * min(FAST_BATCH, 64 * setting.window) - cache),
    )


def _unpacked(matrix: Tensor) -> int:
    """Return the number of weights of a matrix; one that is stored in 4 bits holds two a byte."""
    return 2 * matrix.elements if matrix.dtype == "U8" else matrix.elements
