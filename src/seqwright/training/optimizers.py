"""The optimizers that `optimizer_type` names, computed as in the original's engine."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer

from seqwright.hyperparameters import Hyperparameters


def build_optimizer(settings: Hyperparameters, parameters: Mapping[str, Parameter]) -> Optimizer:
    """The optimizer that `optimizer_type` names, with the constants of the original's engine.

    Weight decay is added to the gradient, `g + wd · w`, of all parameters but biases (coupled, not AdamW). SGD adds it
    itself, to the clipped gradient; for Adam and RMSProp `add_weight_decay` adds it before clipping. Adam's ε is used
    as in PyTorch, added to the corrected root; in the original it has more weight in the first updates.

    Args:
        settings: `optimizer_type`, `learning_rate`, `momentum` and `weight_decay` are read.
        parameters: the parameters to update, by name.
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
"""The key in a parameter group from which `add_weight_decay` takes the weight decay."""


@torch.no_grad()
def add_weight_decay(optimizer: Optimizer) -> None:
    """Add the weight decay of Adam and RMSProp to the gradients, before these are clipped.

    The order is that of the original's engine: MXNet 1.6, `adam_update` and `rmsprop_update`.
    """
    for group in optimizer.param_groups:
        if decay := group.get(_DECAY):
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter, alpha=decay)


class RMSProp(Optimizer):
    """RMSProp (Tieleman & Hinton 2012) as in MXNet 1.6, `rmsprop_update`: ε is under the root.

        n ← α n + (1 − α) g²
        w ← w − lr · g / √(n + ε)

    PyTorch's RMSProp adds ε to the root, so that even the smallest gradients take steps of full size; here gradients
    below √ε take smaller ones.

    Args:
        groups: parameters, or groups of them with their settings.
        lr: learning rate.
        alpha: α, the weight of the past in the mean square n.
        eps: ε.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, alpha: float = 0.9, eps: float = 1e-8) -> None:
        super().__init__(groups, {"lr": lr, "alpha": alpha, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient; `closure` is not called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                square = self.state[parameter].setdefault("square_avg", torch.zeros_like(parameter))
                square.mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
                root = square.add(group["eps"]).sqrt_()
                parameter.addcdiv_(gradient, root, value=-group["lr"])
