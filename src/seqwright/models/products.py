"""Matrix products with one weight again and again, its layout prepared once."""

from collections.abc import Callable

import torch
from torch import Tensor

_MAX_ROWS = 128
_MIN_WEIGHT = 1 << 20
"""A prepared layout pays up to so many rows and from so many elements of the weight on; measured on AVX2."""


def product(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """The function `x ↦ x @ weight.T`, without gradients, for repeated use.

    On a CPU, oneDNN's blocked layout of the weight saves the rearranging that every ordinary product of few rows
    starts with: about a third of its time at 64 rows.

    Args:
        weight: `[O, I]`, fp32 or bf16; must not change while the function is in use.
        rows: how many rows x usually has.
    """
    worth = rows <= _MAX_ROWS and weight.numel() >= _MIN_WEIGHT
    if weight.device.type != "cpu" or not worth or not _packs(weight.dtype):
        transposed = weight.t()
        return lambda x: x @ transposed
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    multiply = torch.ops.mkldnn._linear_pointwise

    def packed_product(x: Tensor) -> Tensor:
        result: Tensor = multiply(x, packed, None, "none", [], "")
        return result

    return packed_product


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there, switched on, and computes in `dtype` on this processor."""
    if not (torch._C._has_mkldnn and torch.backends.mkldnn.enabled):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
