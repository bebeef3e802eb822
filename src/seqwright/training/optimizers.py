"""Optimizers by the hyperparameters' names, as the original's engine computes them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer

from seqwright.hyperparameters import Hyperparameters


def build_optimizer(settings: Hyperparameters, parameters: Mapping[str, Parameter]) -> Optimizer:
    """The optimizer that `optimizer_type` names, with the original engine's constants.

    Weight decay is part of the gradient, `g + wd · w`, of all but biases (coupled, not AdamW). Stochastic gradient
    descent adds it to the clipped gradient by itself; for the others `add_weight_decay` adds it before clipping. The ε
    of Adam is PyTorch's, added to the corrected root: in the first updates the original's counts for more.

    Args:
        settings: `optimizer_type`, `learning_rate`, `momentum` and `weight_decay` are read.
        parameters: what it updates, by name.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    groups: list[dict[str, Any]] = [{"params": list(parameters.values())}]
    if decay:
        name = "weight_decay" if settings.optimizer_type == "sgd" else _DECAY
        groups = [{"params": [], name: decay}, {"params": [], name: 0.0}]
        for full_name, parameter in parameters.items():
            groups["bias" in full_name.rpartition(".")[2]]["params"].append(parameter)
    if settings.optimizer_type == "adam":
        return Adam(groups, lr=rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
    if settings.optimizer_type == "sgd":
        return SGD(groups, lr=rate, momentum=settings.momentum or 0.0)
    return RMSProp(groups, lr=rate)


_DECAY = "decay_before_clipping"
"""The setting of a parameter group that `add_weight_decay` looks for."""


def add_weight_decay(optimizer: Optimizer) -> None:
    """Add to the gradients of Adam and RMSProp their weight decay, before they are clipped.

    So does the original's engine: MXNet 1.6, `adam_update` and `rmsprop_update`.
    """
    for group in optimizer.param_groups:
        if decay := group.get(_DECAY):
            parameters = [each for each in group["params"] if each.grad is not None]
            torch._foreach_add_([each.grad for each in parameters], parameters, alpha=decay)


class RMSProp(Optimizer):
    """RMSProp (Tieleman & Hinton 2012) as in MXNet 1.6, `rmsprop_update`: ε is below the root.

        n ← α n + (1 − α) g²
        w ← w − lr · g / √(n + ε)

    In PyTorch's, ε is added to the root: there the smallest gradients take steps as large as any others, here those
    below √ε do not.

    Args:
        groups: parameters, or groups of them with their settings.
        lr: learning rate.
        alpha: α, the share of the past in the mean square n.
        eps: ε.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, alpha: float = 0.9, eps: float = 1e-8) -> None:
        super().__init__(groups, {"lr": lr, "alpha": alpha, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient; a `closure` is not called."""
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            if not parameters:
                continue
            gradients = [each.grad for each in parameters]
            squares = [self.state[each].setdefault("square_avg", torch.zeros_like(each)) for each in parameters]
            torch._foreach_mul_(squares, group["alpha"])
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["alpha"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_addcdiv_(parameters, gradients, roots, -group["lr"])
