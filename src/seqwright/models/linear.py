"""Linear layers: one with an activation, and a function for repeated products with a weight that does not change."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

# Three operations of PyTorch are used here under private names: no public operation multiplies with a weight in
# oneDNN's own layout. pyproject.toml bounds torch for that, and tests/test_dependencies.py checks that they are there.

_MIN_PACKED = {torch.float32: 1 << 18, torch.bfloat16: 1}
"""Elements from which on packing a weight pays: in fp32, measured with AVX2; in bf16 always, for every product is
oneDNN's there."""

_ROWS = 64
"""Rows that the layout is chosen for; it serves fewer and more as well."""


class TanhLinear(nn.Linear):
    """`tanh(W x + b)`. It is one module because a prepared model computes it in one operation."""

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `[..., O]` of inputs `[..., I]`."""
        return torch.tanh(super().forward(x))


def packed_linear(weight: Tensor, bias: Tensor | None = None, *, tanh: bool = False) -> Callable[[Tensor], Tensor]:
    """The function `x ↦ x @ weight.T + bias`, or its tanh, without gradients, for repeated use on few rows.

    On a CPU, oneDNN's blocked layout saves the rearranging of the weight that every ordinary product starts with: a
    third of its time at 64 rows, more than half at 5 rows of a wide weight. A tanh within the product takes a third of
    the time of PyTorch's.

    Args:
        weight: `[O, I]`, fp32 or bf16; must not change while the function is in use.
        bias: `[O]`, fp32 whatever the weight is; None for none.
        tanh: whether the function ends with a tanh.

    Returns:
        A function of `x` `[..., I]`, which has the weight's type; so has its result `[..., O]`.
    """
    pays = tanh or weight.numel() >= _MIN_PACKED[weight.dtype]
    if weight.device.type != "cpu" or not _can_pack(weight.dtype) or not pays:
        return partial(_plain_linear, weight.t(), bias, tanh)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    multiply, activation = torch.ops.mkldnn._linear_pointwise, "tanh" if tanh else "none"

    def multiply_packed(x: Tensor) -> Tensor:
        result: Tensor = multiply(x, packed, bias, activation, [], "")
        return result

    return multiply_packed


def _plain_linear(transposed: Tensor, bias: Tensor | None, tanh: bool, x: Tensor) -> Tensor:
    """`x @ transposed + bias`, or its tanh, in PyTorch's ordinary operations."""
    result = x @ transposed
    if bias is not None:
        result = result.float().add_(bias)
    if tanh:
        result = result.tanh()
    return result.to(x.dtype)


def _can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there, switched on, and computes in `dtype` on this processor."""
    is_there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (is_there and torch.backends.mkldnn.enabled):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
