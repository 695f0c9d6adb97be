"""A model's weights as structures that the kernels read, with everything that their addresses point into.

`of_weights` makes them from weights in bf16, which are packed beforehand. `of_gguf` makes them from a mapped
GGUF file: each matrix gets as much anonymous memory as it takes in the file, and the kernels fill it with the
same blocks in their own order when a group of rows is first read, then give the file's pages back. So
loading reads no weights, and the process grows by the size of the file.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llms.decoders.cpu.native import BF16, BITS, BLOCK, LANES, LayerStruct, MatrixStruct, halves
from llms.decoders.cpu.weights import HEAD
from llms.models.gguf_file import GgufTensor
from llms.models.gguf_model import GgufModel
from llms.models.weights import ModelWeights

FORMATS = {
    "F32": (100, 2048), "F16": (101, 1024), "BF16": (16, 1024), "Q4_0": (4, 320), "Q4_1": (4, 320),
    "Q5_0": (106, 352), "Q5_1": (107, 384), "Q8_0": (8, 544), "Q4_K": (112, 288), "Q5_K": (113, 352),
    "Q6_K": (114, 420),
}  # fmt: skip
"""The number of a type's packed format, and the bytes of 32 columns of 16 rows in it (gguf_blocks.h)."""

HUGE = 2**21
"""Bytes of a large page."""

NORMS = ("input_layernorm", "post_attention_layernorm")
"""The norms of a layer, in the order of the computation."""

PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(kw_only=True, eq=False)
class Parameters:
    """A model's weights as the kernels read them.

    Attributes:
        layers: The layers.
        head: The output head.
        norm: Address of the last norm's gains.
        embedding: Address of the embedding.
        embedding_type: The number of its type in GGUF.
        cos: Cosines fp32 [positions, head dim / 2].
        sin: Sines of the same shape.
        config: The model's configuration.
        vocabulary: Number of tokens.
        label: How the weights are stored, for people.
        alive: What the addresses point into.
    """

    layers: ctypes.Array[LayerStruct]
    head: MatrixStruct
    norm: int
    embedding: int
    embedding_type: int
    cos: Tensor
    sin: Tensor
    config: Mapping[str, Any]
    vocabulary: int
    label: str
    alive: list[Any] = field(repr=False)

    @property
    def head_dim(self) -> int:
        """Return the size of an attention head."""
        return 2 * int(self.cos.shape[1])

    @property
    def padded(self) -> int:
        """Return the number of logits of a token, which fill whole groups."""
        return int(self.head.groups) * LANES


def of_weights(weights: ModelWeights, blocks: Mapping[str, Tensor], window: int) -> Parameters:
    """Return the parameters of weights in bf16.

    Args:
        weights: The weights.
        blocks: The packed weights, from `pack_model`.
        window: Number of positions.
    """
    alive: list[Any] = list(blocks.values())

    def keep(tensor: Tensor) -> int:
        alive.append(tensor.detach().contiguous())
        return int(alive[-1].data_ptr())

    def layer(index: int) -> LayerStruct:
        qkv, out, gate_up, down = (
            _packed(blocks[f"{index}.{name}"]) for name in ("qkv", "out", "gate_up", "down")
        )
        norms = (keep(gain.float()) for gain in weights.layer(index, *NORMS))
        return LayerStruct((MatrixStruct * 3)(qkv), out, *halves(gate_up), down, *norms)

    count, half = weights.config["num_hidden_layers"], weights.head_dim // 2
    with torch.inference_mode():
        # Rounded like the model's, then widened.
        cos, sin = (angles[:, :half].float().contiguous() for angles in weights.rotary(window))
    return Parameters(
        layers=(LayerStruct * count)(*map(layer, range(count))),
        head=_packed(blocks[HEAD]),
        norm=keep(weights["model.norm"].float()),
        embedding=keep(weights.embedding),
        embedding_type=BF16,
        cos=cos,
        sin=sin,
        config=weights.config,
        vocabulary=int(weights.head.shape[0]),
        label=f"{min(BITS[tensor.shape[2]] for tensor in blocks.values())}-bit",
        alive=alive,
    )


def of_gguf(model: GgufModel, window: int) -> Parameters:
    """Return the parameters of a mapped GGUF file; no weight is read.

    Args:
        model: The file's model.
        window: Number of positions.
    """
    alive: list[Any] = [model]
    room = _Room(model)
    alive.append(room)

    def keep(*arrays: np.ndarray[Any, Any]) -> int:
        alive.append(np.ascontiguousarray(np.concatenate(arrays), np.float32))
        return int(alive[-1].ctypes.data)

    def layer(index: int) -> LayerStruct:
        prefix = f"model.layers.{index}."

        def vectors(*names: str) -> int:
            found = [model.numbers(prefix + name) for name in names if prefix + name in model.tensors]
            return keep(*found) if found else 0

        dim = model.head_dim if model.turned else 0
        turns = (dim, dim, 0)
        qkv = (room.matrix(model[prefix + name], turn) for name, turn in zip(PROJECTIONS, turns, strict=True))
        rest = ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        return LayerStruct(
            (MatrixStruct * 3)(*qkv),
            *(room.matrix(model[prefix + name]) for name in rest),
            *(vectors(f"{name}.weight") for name in NORMS),
            vectors(*(f"{name}.bias" for name in PROJECTIONS)),
            vectors("self_attn.q_norm.weight"),
            vectors("self_attn.k_norm.weight"),
        )

    count = model.config["num_hidden_layers"]
    angles = np.arange(window, dtype=np.float32)[:, None] * model.inv_freq()
    embedding = model.embedding
    return Parameters(
        layers=(LayerStruct * count)(*map(layer, range(count))),
        head=room.matrix(model.head),
        norm=keep(model.numbers("model.norm.weight")),
        embedding=model.address + embedding.start,
        embedding_type=embedding.number,
        cos=torch.from_numpy(np.cos(angles)),
        sin=torch.from_numpy(np.sin(angles)),
        config=model.config,
        vocabulary=embedding.shape[0],
        label=model.file.quantization,
        alive=alive,
    )


class _Room:
    """Anonymous memory for the packed matrices of a model, which takes no pages until it is written."""

    def __init__(self, model: GgufModel) -> None:
        self._model = model
        matrices = list(model.matrices)
        self._memory = mmap.mmap(-1, sum(_rounded(_size(tensor)) for tensor in matrices) + HUGE)
        with suppress(OSError, AttributeError):  # a kernel without large pages
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._flags = np.zeros(sum(_groups(tensor) for tensor in matrices), np.uint8)
        self._address = int(np.frombuffer(self._memory, np.uint8).ctypes.data)
        self._next, self._next_flag = 0, 0

    def matrix(self, tensor: GgufTensor, turned: int = 0) -> MatrixStruct:
        """Return the structure of a matrix, with its share of the memory."""
        rows, width = tensor.shape
        number = FORMATS[tensor.type][0]
        blocks, flags = self._address + self._next, int(self._flags.ctypes.data) + self._next_flag
        self._next += _rounded(_size(tensor))
        self._next_flag += _groups(tensor)
        source = self._model.address + tensor.start
        return MatrixStruct(
            _groups(tensor), width, number, blocks, source, tensor.number, rows, turned, flags
        )


def _groups(tensor: GgufTensor) -> int:
    return -(-tensor.shape[0] // LANES)


def _size(tensor: GgufTensor) -> int:
    return _groups(tensor) * tensor.shape[1] // BLOCK * FORMATS[tensor.type][1]


def _rounded(size: int) -> int:
    return -(-size // 4096) * 4096


def _packed(blocks: Tensor) -> MatrixStruct:
    groups, width, size = blocks.shape
    return MatrixStruct(groups, width * BLOCK, BITS[size], blocks.data_ptr())
