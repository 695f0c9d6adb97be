"""The lean decoder's pass as machine code: one call a pass instead of 600 of PyTorch's operators.

Knows how the arguments of `kernels.cpp` lie in memory. Refuses to know slots, sampling, and how the code
was compiled (see `llms.lean.compiler`). A token's logits have the same bits in any batch, for any number of
threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from llms.decoders.reference import Plan, SlotStore
from llms.lean.pack import BITS, LANES, pack
from llms.lean.weights import BLOCK

HEAD = "head"


class _Matrix(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("groups", "width", "bits", "blocks")]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Matrix) for name in ("qkv", "out", "gate_up", "down")),
        *((name, ctypes.c_int64) for name in ("before_attention", "before_mlp")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_int64) for n in ("layers", "width", "heads", "kv_heads", "dim", "sliding", "threads")),
        ("epsilon", ctypes.c_double),
        ("layer", ctypes.POINTER(_Layer)),
        ("gain", ctypes.c_int64),
        ("head", _Matrix),
        *((name, ctypes.c_int64) for name in ("embedding", "cos", "sin")),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("count", "kept", "ids", "rows", "places", "keep", "keys", "values"),
            *("layer_stride", "row_stride", "head_stride", "logits"),
        )
    ]


def packed(model: Any) -> dict[str, Tensor]:
    """Return every matrix of a Mistral-like model in bf16 as the machine code reads it, by name."""
    found = {HEAD: pack([model.lm_head.weight])}
    for index, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        found |= {
            f"{index}.qkv": pack([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
            f"{index}.out": pack([attention.o_proj.weight]),
            f"{index}.gate_up": pack([mlp.gate_proj.weight, mlp.up_proj.weight]),
            f"{index}.down": pack([mlp.down_proj.weight]),
        }
    return found


class Machine:
    """Runs passes over one model.

    Args:
        run: `lean_pass` of the compiled `kernels.cpp`.
        model: A Mistral-like model in bf16 of shapes that suit (`llms.lean.plan.suits`).
        matrices: What `packed` returned for it.
        cos: bf16 [positions, 1, head dim], cosines of every position.
        sin: The same of the sines, the first half negated.
        sliding: The sliding window in tokens, or 0.
        threads: How many threads run a pass; 0: as many as PyTorch's operators have.
    """

    def __init__(
        self,
        run: Callable[..., None],
        model: Any,
        matrices: Mapping[str, Tensor],
        cos: Tensor,
        sin: Tensor,
        *,
        sliding: int,
        threads: int = 0,
    ) -> None:
        self._threads = threads
        self._run, self._alive = run, [cos, sin, *matrices.values()]
        inner, config = model.model, model.config
        self.vocabulary = int(model.lm_head.weight.shape[0])
        self.four_bit = any(BITS[blocks.shape[2]] == 4 for blocks in matrices.values())
        self._padded = matrices[HEAD].shape[0] * LANES
        layers = (_Layer * len(inner.layers))(
            *(
                _Layer(
                    *(_matrix(matrices[f"{index}.{name}"]) for name in ("qkv", "out", "gate_up", "down")),
                    self._gain(layer.input_layernorm),
                    self._gain(layer.post_attention_layernorm),
                )
                for index, layer in enumerate(inner.layers)
            )
        )
        self._model = _Model(
            layers=len(layers),
            width=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            dim=cos.shape[-1],
            sliding=sliding,
            threads=1,
            epsilon=inner.norm.variance_epsilon,
            layer=layers,
            gain=self._gain(inner.norm),
            head=_matrix(matrices[HEAD]),
            embedding=self._keep(inner.embed_tokens.weight.detach()).data_ptr(),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
        )

    def __call__(self, ids: Tensor, positions: Tensor, plan: Plan, store: SlotStore, keep: int) -> Tensor:
        """Run ids and positions int64 [n, k]; write the cache; return logits fp32 [n, kept, vocabulary].

        Args:
            ids: The tokens; rows are padded on the left.
            positions: Their places.
            plan: Where the pass reads and writes.
            store: The slots' keys and values; room for the plan is reserved.
            keep: How many of the last logits of each row; 0: all, zeros where there is padding; -1: none.
        """
        n, k = ids.shape
        width = k if keep == 0 else max(keep, 0)
        if plan.rows is None:
            rows, places = torch.full((k,), plan.start), positions[0]
            kept = torch.arange(k - width, k)
            target = None
        else:
            assert plan.sources is not None and plan.places is not None
            rows, places, (batch, query) = plan.rows.contiguous(), plan.places.contiguous(), plan.sources
            ids = ids[plan.sources]
            kept = (query >= k - width).nonzero()[:, 0]
            target = batch[kept] * width + query[kept] - (k - width)
        logits = self._pass(ids.contiguous(), rows, places, kept, store)
        if target is not None and len(target) != n * width:
            logits = logits.new_zeros(n * width, logits.shape[1]).index_copy_(0, target, logits)
        return logits.view(n, width, -1)

    def _pass(self, ids: Tensor, rows: Tensor, places: Tensor, kept: Tensor, store: SlotStore) -> Tensor:
        logits = torch.empty(len(kept), self._padded)
        layer_stride, row_stride, head_stride = store.keys.stride()[:3]
        batch = _Batch(
            count=rows.numel(),
            kept=len(kept),
            ids=ids.data_ptr(),
            rows=rows.data_ptr(),
            places=places.data_ptr(),
            keep=kept.data_ptr(),
            keys=store.keys.data_ptr(),
            values=store.values.data_ptr(),
            layer_stride=layer_stride,
            row_stride=row_stride,
            head_stride=head_stride,
            logits=logits.data_ptr(),
        )
        self._model.threads = self._threads or torch.get_num_threads()
        self._run(ctypes.byref(self._model), ctypes.byref(batch))
        return logits[:, : self.vocabulary]

    def _gain(self, norm: Any) -> int:
        return self._keep(norm.weight.detach().float()).data_ptr()

    def _keep(self, tensor: Tensor) -> Tensor:
        self._alive.append(tensor.contiguous())
        return self._alive[-1]


def _matrix(blocks: Tensor) -> _Matrix:
    groups, width, size = blocks.shape
    return _Matrix(groups, width * BLOCK, BITS[size], blocks.data_ptr())
