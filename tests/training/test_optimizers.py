"""Optimizers against the original engine's formulas, written out in NumPy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seqwright.hyperparameters import Hyperparameters
from seqwright.training.optimizers import add_weight_decay, build_optimizer

RATE, LIMIT, MOMENTUM = 0.01, 0.5, 0.9

Floats = NDArray[np.float64]


def adam(weight: Floats, gradients: list[Floats], decay: float) -> Floats:
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for t, raw in enumerate(gradients, start=1):
        gradient = np.clip(raw + decay * weight, -LIMIT, LIMIT)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        rate = RATE * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        weight = weight - rate * mean / (np.sqrt(square) + 1e-8)
    return weight


def rmsprop(weight: Floats, gradients: list[Floats], decay: float) -> Floats:
    square = np.zeros_like(weight)
    for raw in gradients:
        gradient = np.clip(raw + decay * weight, -LIMIT, LIMIT)
        square = 0.9 * square + 0.1 * gradient**2
        weight = weight - RATE * gradient / np.sqrt(square + 1e-8)
    return weight


def sgd(weight: Floats, gradients: list[Floats], decay: float) -> Floats:
    velocity = np.zeros_like(weight)
    for raw in gradients:
        velocity = MOMENTUM * velocity - RATE * (np.clip(raw, -LIMIT, LIMIT) + decay * weight)
        weight = weight + velocity
    return weight


@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("rule", [adam, rmsprop, sgd])
def test_updates_are_those_of_the_original(rule, decay: float) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    chosen = {"optimizer_type": rule.__name__, "learning_rate": RATE, "weight_decay": decay}
    settings = Hyperparameters.parse(chosen | ({"momentum": MOMENTUM} if rule is sgd else {}))
    random = np.random.default_rng(3)
    start = {"layer.weight": random.normal(size=(3, 4)) * 3, "layer.bias_ih": random.normal(size=4)}
    scales = np.array([1e-2 if rule is adam else 1e-6, 1e-2, 0.4, 2.0])  # ε is another to PyTorch's Adam at first
    gradients = {name: [random.normal(size=value.shape) * scales for _ in range(6)] for name, value in start.items()}
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    idle = torch.nn.Parameter(torch.ones(2))
    optimizer = build_optimizer(settings, {**parameters, "unused.weight": idle})
    for number in range(6):
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(gradients[name][number])
        add_weight_decay(optimizer)
        for parameter in parameters.values():
            assert parameter.grad is not None
            parameter.grad.clamp_(-LIMIT, LIMIT)
        optimizer.step()
    for name, parameter in parameters.items():
        expected = rule(start[name], gradients[name], 0.0 if "bias" in name else decay)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(idle, torch.ones(2))
