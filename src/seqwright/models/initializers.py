"""Parameter initialisation, defined as the original's engine (MXNet under Sockeye 1) defines it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

RECURRENT_SCALE = math.sqrt(2.0)
"""Factor on the orthonormal matrix that recurrent weights start from."""


def initialize(
    module: nn.Module,
    *,
    weight_init_type: str,
    scale: float,
    xavier_factor_type: str,
    generator: torch.Generator,
) -> None:
    """Fill every parameter of `module` in place, in the order in which it lists them.

    Biases, whose names start with `bias`, start at zero; recurrent weights (`weight_hh`) as scaled orthogonal matrices;
    and other matrices and convolution kernels by `weight_init_type`:

    - `uniform`: from `[-scale, scale)`.
    - `xavier`: uniform in `±sqrt(scale / fan)` (Glorot and Bengio 2010); the fan is the inputs of a unit (`in`), the
      units that an input reaches (`out`) or their mean (`avg`), times the kernel's width for a convolution.

    Args:
        module: what to initialise.
        weight_init_type: `uniform` or `xavier`.
        scale: the magnitude in the formulas above.
        xavier_factor_type: `in`, `out` or `avg`.
        generator: the source of randomness; the same state gives the same parameters.

    Raises:
        ValueError: there is no rule for a parameter, such as the weights of a layer normalisation, which must not start
            at zero. Nothing was filled.
    """
    for name, parameter in module.named_parameters():
        if parameter.dim() < 2 and not _is_bias(name):
            raise ValueError(f"no rule says how to initialise {name}, of shape {list(parameter.shape)}: add one here")
    for name, parameter in module.named_parameters():
        if _is_bias(name):
            nn.init.zeros_(parameter)
        elif _own_name(name).startswith("weight_hh"):
            orthogonal_(parameter, generator)
        else:
            reach = scale if weight_init_type == "uniform" else math.sqrt(scale / fan(parameter, xavier_factor_type))
            nn.init.uniform_(parameter, -reach, reach, generator=generator)


def _own_name(name: str) -> str:
    """The name that a parameter has in its own module: `bias` of `encoder.layers.0.bias`."""
    return name.rsplit(".", 1)[-1]


def _is_bias(name: str) -> bool:
    return _own_name(name).startswith("bias")


def fan(weight: Tensor, factor_type: str) -> float:
    """The fan that xavier divides by, of a weight `[out, in]` or `[out, in, kernel]`."""
    window = math.prod(weight.shape[2:])
    fans = {"out": weight.shape[0] * window, "in": weight.shape[1] * window}
    choices: dict[str, Callable[[], float]] = {
        "in": lambda: fans["in"],
        "out": lambda: fans["out"],
        "avg": lambda: (fans["in"] + fans["out"]) / 2,
    }
    return choices[factor_type]()


def orthogonal_(weight: Tensor, generator: torch.Generator) -> None:
    """Fill `weight` `[gates · H, H]` with orthonormal columns times sqrt(2) (Saxe et al. 2013)."""
    nn.init.orthogonal_(weight, gain=RECURRENT_SCALE, generator=generator)
