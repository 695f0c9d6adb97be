"""Matrix products of the lean decoder: the same weights, laid out for the width of the batch at hand.

Knows weights and PyTorch's CPU kernels; refuses to know layers, caches and models. A `Product` multiplies by
matrices that lie side by side (q, k and v; gate and up):

- fp32: one plain product a matrix, exact;
- bf16: one plain product a matrix at first; joined, and reordered for oneDNN, once they are used often. A
  plain `linear` reorders at every call, to the same bits: 437 us against 220 for 3072 x 576 at one row, 1,524
  against 1,300 at 64, one thread of a Zen 4. Copies of all take 250 ms: a short run never saves that;
- bf16 weights that came from a GGUF file in Q4_1 lie on a lattice of 16 values in every block of 32. For up
  to `FEW_ROWS` rows they are read as those 4-bit codes: the same weights but for the rounding of scale and
  offset to bf16, a relative error of 0.0024 where rounding them to bf16 had cost 0.0014. 96 us at one row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_ROWS = 4
"""Rows up to which 4-bit codes are read faster than bf16 weights (one thread: 172 against 271 us at 4 rows of
3072 x 576, 340 against 323 at 6)."""

PAID_OFF = 10
"""Uses after which a copy in oneDNN's order is made: by then what it would have saved is what it costs."""

BLOCK = 32
"""Weights that share a scale and an offset in GGUF's Q4_1."""

ON_LATTICE = 0.01
"""Largest relative error (rms) of weights that count as 4-bit: 0.0014 is what bf16 leaves of 4-bit weights,
and 0.09 is what 4 bits leave of others."""


class Product:
    """x -> [x W1', x W2', ...] for matrices W [rows, width] of one dtype.

    Args:
        weights: The matrices. fp32 ones are kept by reference, bf16 ones are copied.
        four_bit: Read weights on a 4-bit lattice as such (see `on_lattice`), from `codes` where they are set.
    """

    def __init__(self, weights: Sequence[Tensor], *, four_bit: bool = False) -> None:
        self._weights = [w.detach() for w in weights]
        self._packed: Tensor | None = None
        self._uses = 0
        self.codes: tuple[Tensor, Tensor] | None = None
        self.four_bit = four_bit

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply x [m, width]; return [m, all rows] in its dtype."""
        if self.four_bit and x.shape[0] <= FEW_ROWS:
            codes, scales = self.codes or self.encode()
            return torch._weight_int4pack_mm_for_cpu(x.contiguous(), codes, BLOCK, scales)
        self._uses += 1
        if self._packed is None and self._uses >= PAID_OFF and _packs(self._weights[0].dtype):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._joined(), 16)
        if self._packed is not None:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
            return out
        products = [F.linear(x, w) for w in self._weights]
        return torch.cat(products, -1) if len(products) > 1 else products[0]

    def encode(self) -> tuple[Tensor, Tensor]:
        """Find the 4-bit codes: uint8 as the kernel wants them; scales and offsets [width / 32, rows, 2]."""
        codes, scales, low = lattice(self._joined())
        pairs = torch.stack([scales, low + 8 * scales], -1)  # the kernel reads (code - 8) x scale + offset
        pairs = pairs.to(self._weights[0].dtype).transpose(0, 1).contiguous()
        self.codes = torch._convert_weight_to_int4pack_for_cpu(codes, 1), pairs
        return self.codes

    def _joined(self) -> Tensor:
        return torch.cat(self._weights) if len(self._weights) > 1 else self._weights[0]


@cache
def _packs(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN multiplies by reordered weights of this dtype, here and in this PyTorch."""
    return dtype == torch.bfloat16 and _agrees(
        lambda x, w: torch.ops.mkldnn._linear_pointwise(
            x, torch.ops.mkldnn._reorder_linear_weight(w, 16), None, "none", [], ""
        )
    )


@cache
def four_bit_kernel() -> bool:
    """Tell whether this PyTorch has a vectorized 4-bit kernel for this CPU that computes what it should."""
    fast = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return fast and _agrees(lambda x, w: Product([w], four_bit=True)(x))


def _agrees(product: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Try a kernel that PyTorch does not promise to keep, on small integers, which all add exactly."""
    weight = (torch.arange(32 * 64) ** 2 % 89 % 16).view(32, 64).bfloat16()
    weight[:, ::BLOCK], weight[:, 1::BLOCK] = 0, 15
    x = (torch.arange(2 * 64) % 3 == 0).view(2, 64).bfloat16()
    try:
        with torch.inference_mode():
            return torch.equal(product(x, weight), F.linear(x, weight))
    except (AttributeError, RuntimeError, TypeError):
        return False


def lattice(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nearest lattice: codes int32 [rows, width], scales and offsets fp32 [rows, width / 32].

    A block's smallest and largest weight are its codes 0 and 15, as in GGUF's Q4_1: weights that were
    quantized so give their own codes back.
    """
    blocks = weight.view(weight.shape[0], -1, BLOCK)
    columns = weight.view(-1, BLOCK).t().contiguous()  # 141 ms for the embedded model's layers, 250 without
    low, high = (t.float().view(weight.shape[0], -1) for t in (columns.amin(0), columns.amax(0)))
    scales = torch.where(high > low, (high - low) / 15, 1.0)
    steps = scales.reciprocal()[..., None]
    codes = torch.addcmul(0.5 - low[..., None] * steps, blocks.float(), steps).to(torch.int32)
    return codes.view(weight.shape), scales, low


def on_lattice(weight: Tensor) -> bool:
    """Tell whether a bf16 matrix holds 4-bit weights in blocks of 32, from 16 rows spread over it."""
    if weight.dtype != torch.bfloat16 or weight.shape[1] % BLOCK or weight.shape[0] % 16:
        return False
    rows = weight.detach()[:: max(1, weight.shape[0] // 16)].contiguous()
    codes, scales, low = lattice(rows)
    again = (codes.view(*scales.shape, BLOCK) * scales[..., None] + low[..., None]).view(rows.shape)
    exact = rows.float()
    return bool((again - exact).norm() <= ON_LATTICE * exact.norm())
