"""Weights and tiny models that the lean decoder's packing and machine code are tested on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType
from tiny_models import tiny_model
from torch import Tensor, nn

Q4, Q8 = GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0


def random(rows: int, width: int, seed: int = 0) -> Tensor:
    """Draw weights, fp32 [rows, width]."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.05


def rounded(weight: Tensor, kind: GGMLQuantizationType | None) -> Tensor:
    """Weights as a GGUF file of that kind has them, converted to bf16."""
    if kind is None:
        return weight.bfloat16()
    values = quants.dequantize(quants.quantize(weight.float().numpy(), kind), kind)
    return torch.from_numpy(values.astype(np.float32)).bfloat16()


def model_of(kind: GGMLQuantizationType | None, **changes: Any) -> Any:
    """Build a tiny model whose matrices, head included, hold weights of that kind in bf16."""
    found = tiny_model(dtype=torch.bfloat16, **{"head_dim": 32} | changes)
    for linear in (m for m in found.modules() if isinstance(m, nn.Linear)):
        linear.weight.data = rounded(linear.weight.detach(), kind)
    return found
