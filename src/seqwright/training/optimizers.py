"""Optimizers by the hyperparameters' names."""

from collections.abc import Mapping
from typing import Any

from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer, RMSprop

from seqwright.hyperparameters import Hyperparameters


def build_optimizer(settings: Hyperparameters, parameters: Mapping[str, Parameter]) -> Optimizer:
    """The optimizer that `optimizer_type` names, with the original engine's constants.

    Weight decay is added to the gradient, `g + wd · w`, of all but biases, as the original's engine does (coupled, not
    AdamW).

    Args:
        settings: `optimizer_type`, `learning_rate`, `momentum` and `weight_decay` are read.
        parameters: what it updates, by name.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    groups: list[dict[str, Any]] = [{"params": list(parameters.values())}]
    if decay:
        groups = [{"params": []}, {"params": [], "weight_decay": 0.0}]
        for name, parameter in parameters.items():
            groups["bias" in name.rpartition(".")[2]]["params"].append(parameter)
    if settings.optimizer_type == "adam":
        return Adam(groups, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay, fused=True)
    if settings.optimizer_type == "sgd":
        return SGD(groups, lr=rate, momentum=settings.momentum or 0.0, weight_decay=decay)
    return RMSprop(groups, lr=rate, alpha=0.9, eps=1e-8, weight_decay=decay)
