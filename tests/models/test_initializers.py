"""The original engine's initialisers."""

import math

import pytest
import torch
from torch import nn

from seqwright.models.initializers import fan, initialize
from seqwright.models.rnn import RecurrentCell


def filled(module: nn.Module, seed: int = 1, **changes: object) -> nn.Module:
    options: dict[str, object] = {"weight_init_type": "xavier", "scale": 2.34, "xavier_factor_type": "in", **changes}
    initialize(module, generator=torch.Generator().manual_seed(seed), **options)  # type: ignore[arg-type]
    return module


@pytest.mark.parametrize(("factor", "expected"), [("in", 30.0), ("out", 60.0), ("avg", 45.0)])
def test_the_fan_of_a_convolution_counts_its_kernel(factor: str, expected: float) -> None:
    assert fan(torch.empty(20, 10, 3), factor) == expected


@pytest.mark.parametrize(("factor", "divisor"), [("in", 400), ("out", 100), ("avg", 250)])
def test_xavier_fills_its_range(factor: str, divisor: int) -> None:
    weight = filled(nn.Linear(400, 100), xavier_factor_type=factor).state_dict()["weight"]
    bound = math.sqrt(2.34 / divisor)
    assert 0.99 * bound < weight.abs().max() <= bound
    assert abs(weight.mean()) < 0.02 * bound


def test_uniform_fills_its_range() -> None:
    weight = filled(nn.Linear(400, 100), weight_init_type="uniform", scale=0.3).state_dict()["weight"]
    assert 0.297 < weight.abs().max() <= 0.3


def test_biases_start_at_zero_and_recurrent_weights_orthogonal() -> None:
    state = filled(RecurrentCell("lstm", 8, 12)).state_dict()
    assert not state["bias_ih"].any()
    assert not state["bias_hh"].any()
    torch.testing.assert_close(state["weight_hh"].t() @ state["weight_hh"], 2 * torch.eye(12))


def test_the_seed_decides() -> None:
    first, same, other = (filled(nn.Linear(8, 8), seed).state_dict()["weight"] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
