"""Matrix products with one weight again and again, its layout prepared once."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

_MIN_WEIGHT = {torch.float32: 1 << 18, torch.bfloat16: 1}
"""Elements from which on a weight is worth a layout of its own: in fp32, measured on AVX2; in bf16 always, for every
product is oneDNN's."""

_ROWS = 64
"""Rows that the layout is chosen for; it serves fewer and more as well."""


def product(weight: Tensor, bias: Tensor | None = None, *, tanh: bool = False) -> Callable[[Tensor], Tensor]:
    """The function `x ↦ x @ weight.T + bias`, or its tanh, without gradients, for repeated use on few rows.

    On a CPU, oneDNN's blocked layout saves the rearranging of the weight that every ordinary product starts with: a
    third of its time at 64 rows, and of a wide weight's more than half at 5. Its tanh is part of the product, and takes
    a third of the time of PyTorch's.

    Args:
        weight: `[O, I]`, fp32 or bf16; must not change while the function is in use.
        bias: `[O]`, fp32 whatever the weight is; None for none.
        tanh: whether the function ends with a tanh.

    Returns:
        A function of `x` `[..., I]`, of the weight's type, as its result `[..., O]` is.
    """
    worth_it = tanh or weight.numel() >= _MIN_WEIGHT[weight.dtype]
    if weight.device.type != "cpu" or not _packs(weight.dtype) or not worth_it:
        return partial(_plain_product, weight.t(), bias, tanh)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    multiply, after = torch.ops.mkldnn._linear_pointwise, "tanh" if tanh else "none"

    def packed_product(x: Tensor) -> Tensor:
        result: Tensor = multiply(x, packed, bias, after, [], "")
        return result

    return packed_product


def _plain_product(transposed: Tensor, bias: Tensor | None, tanh: bool, x: Tensor) -> Tensor:
    """`x @ transposed + bias`, or its tanh, in PyTorch's ordinary operations."""
    result = x @ transposed
    if bias is not None:
        result = result.float().add_(bias)
    if tanh:
        result = result.tanh()
    return result.to(x.dtype)


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there, switched on, and computes in `dtype` on this processor."""
    if not (torch._C._has_mkldnn and torch.backends.mkldnn.enabled):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
