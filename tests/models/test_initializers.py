"""The original engine's initialisers."""

import math

import pytest
import torch
from torch import nn

from seqwright.hyperparameters import Hyperparameters
from seqwright.models.initializers import fan, initialize
from seqwright.models.rnn import RecurrentCell
from seqwright.models.seq2seq import build_model, initialize_model


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


def test_the_same_seed_gives_the_same_parameters() -> None:
    first, same, other = (filled(nn.Linear(8, 8), seed).state_dict()["weight"] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_parameter_without_a_rule_is_refused_and_nothing_is_filled() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"initialise 1\.weight, of shape \[4\]"):
        filled(module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(("encoder", "decoder"), [("rnn", "cnn"), ("cnn", "rnn")])
@pytest.mark.parametrize("attention", ["dot", "fixed", "mlp", "bilinear"])
def test_biases_of_our_models_start_at_zero_and_nothing_else_does(encoder: str, decoder: str, attention: str) -> None:
    settings = Hyperparameters.parse(
        {
            "encoder_type": encoder,
            "decoder_type": decoder,
            "rnn_attention_type": attention,
            "rnn_num_hidden": 4,
            "cnn_num_hidden": 4,
            "num_embed_source": 4,
            "num_embed_target": 4,
        }
    )
    model = build_model(settings, 9, 9)
    initialize_model(model, settings, seed=1)
    for name, parameter in model.named_parameters():
        assert bool(parameter.any()) != ("bias" in name), name
