"""Every encoder and decoder: steps agree with the whole, padding and batching change nothing, gradients reach all."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seqwright.artifacts import TrainedModel

Maker = Callable[..., TrainedModel]

VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "gru": {"rnn_cell_type": "gru"},
    "three layers": {"num_layers_encoder": 3, "num_layers_decoder": 3},
    "attention at the top": {"num_layers_decoder": 2, "rnn_attention_in_upper_layers": False},
    "residual": {"num_layers_encoder": 3, "num_layers_decoder": 3, "rnn_residual_connections": True},
    "late residual gru": {
        "rnn_cell_type": "gru",
        "num_layers_encoder": 4,
        "num_layers_decoder": 4,
        "rnn_residual_connections": True,
        "rnn_first_residual_layer": 3,
    },
    "dot": {"rnn_attention_type": "dot"},
    "projected dot": {"rnn_attention_type": "dot", "rnn_attention_num_hidden": 7},
    "bilinear": {"rnn_attention_type": "bilinear"},
    "fixed": {"rnn_attention_type": "fixed"},
    "small mlp": {"rnn_attention_num_hidden": 5},
    "mean init": {"rnn_decoder_state_init": "avg"},
    "zero init": {"rnn_decoder_state_init": "zero"},
    "cnn": {"encoder_type": "cnn", "decoder_type": "cnn", "cnn_num_hidden": 10},
    "deep cnn": {
        "encoder_type": "cnn",
        "decoder_type": "cnn",
        "cnn_num_hidden": 10,
        "num_layers_encoder": 3,
        "num_layers_decoder": 3,
        "cnn_kernel_width_encoder": 5,
        "weight_init_scale": 2.34,
        "cnn_kernel_width_decoder": 2,
    },
    "narrow kernels": {
        "encoder_type": "cnn",
        "decoder_type": "cnn",
        "cnn_num_hidden": 10,
        "cnn_kernel_width_encoder": 1,
        "cnn_kernel_width_decoder": 1,
    },
    **{
        activation: {
            "encoder_type": "cnn",
            "decoder_type": "cnn",
            "cnn_num_hidden": 10,
            "cnn_activation_type": activation,
        }
        for activation in ("relu", "softrelu", "sigmoid", "tanh")
    },
    "rnn to cnn": {"decoder_type": "cnn", "cnn_num_hidden": 10},
    "rnn to cnn of one width": {"decoder_type": "cnn", "cnn_num_hidden": 12},
    "cnn to rnn": {"encoder_type": "cnn", "cnn_num_hidden": 10},
    "cnn to gru with dot": {
        "encoder_type": "cnn",
        "cnn_num_hidden": 10,
        "rnn_cell_type": "gru",
        "rnn_attention_type": "dot",
        "rnn_decoder_state_init": "avg",
        "num_layers_decoder": 2,
    },
    "cnn to fixed": {"encoder_type": "cnn", "cnn_num_hidden": 10, "rnn_attention_type": "fixed"},
    "two dot layers, mean init": {
        "num_layers_decoder": 2,
        "rnn_cell_type": "gru",
        "rnn_attention_type": "dot",
        "rnn_decoder_state_init": "avg",
    },
}

variants = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Sources `[3, 6]` of lengths 6, 4 and 1, and target inputs `[3, 5]`."""
    generator = torch.Generator().manual_seed(5)
    source = torch.randint(4, 24, (3, 6), generator=generator)
    lengths = torch.tensor([6, 4, 1])
    source[torch.arange(6) >= lengths.unsqueeze(1)] = 0
    target = torch.randint(4, 19, (3, 5), generator=generator)
    target[:, 0] = 2
    return source, lengths, target


def step_through(trained: TrainedModel, source: Tensor, lengths: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden vectors `[B, T, H]` and attention `[B, T, S]` by repeated `step`."""
    decoder = trained.model.decoder
    state = decoder.start(trained.model.encode(source, lengths))
    outputs, weights = [], []
    for tokens in target.t():
        hidden, attention, state = decoder.step(tokens, state)
        outputs.append(hidden)
        weights.append(attention)
    return torch.stack(outputs, 1), torch.stack(weights, 1)


@variants
def test_steps_agree_with_forward(settings: dict[str, object], small_model: Maker) -> None:
    trained = small_model(**settings)
    source, lengths, target = batch()
    stepped, _ = step_through(trained, source, lengths, target)
    torch.testing.assert_close(trained.model(source, lengths, target), stepped, atol=1e-5, rtol=0)


@variants
def test_a_batch_gives_what_its_sentences_give_alone(settings: dict[str, object], small_model: Maker) -> None:
    trained = small_model(**settings)
    source, lengths, target = batch()
    together = trained.model(source, lengths, target)
    for i, length in enumerate(lengths.tolist()):
        alone = trained.model(source[i : i + 1, :length], lengths[i : i + 1], target[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


@variants
def test_padding_never_changes_a_result(settings: dict[str, object], small_model: Maker) -> None:
    trained = small_model(**settings)
    source, lengths, target = batch()
    padded = torch.cat([source, torch.full((3, 4), 7)], dim=1)
    torch.testing.assert_close(
        trained.model(source, lengths, target), trained.model(padded, lengths, target), atol=1e-5, rtol=0
    )


@variants
def test_gradients_reach_every_parameter(settings: dict[str, object], small_model: Maker) -> None:
    trained = small_model(**settings)
    source, lengths, target = batch()
    trained.model.output_layer(trained.model(source, lengths, target)).square().sum().backward()
    unreached = [name for name, p in trained.model.named_parameters() if p.grad is None or not p.grad.any()]
    # The last position is the first that the backward layer reads: without attention over the others, its recurrent
    # weights have met the zero state alone, in the original as here.
    alone = settings.get("rnn_attention_type") == "fixed" and "encoder_type" not in settings
    assert unreached == (["encoder.backward_layer.weight_hh_l0"] if alone else [])


@variants
def test_attention_is_a_distribution_over_real_positions(settings: dict[str, object], small_model: Maker) -> None:
    trained = small_model(**settings)
    source, lengths, target = batch()
    _, weights = step_through(trained, source, lengths, target)
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 5))
    for i, length in enumerate(lengths.tolist()):
        assert not weights[i, :, length:].any()


@variants
def test_a_state_can_be_reordered_and_thinned(settings: dict[str, object], small_model: Maker) -> None:
    trained = small_model(**settings)
    source, lengths, target = batch()
    decoder = trained.model.decoder
    start = decoder.start(trained.model.encode(source, lengths))
    _, _, state = decoder.step(target[:, 0], start)
    doubled = state.select_hypotheses(torch.tensor([0, 0, 1, 1, 2, 2]))
    hidden, weights, doubled = decoder.step(target[:, 1:3].flatten(), doubled)
    for beam in range(2):
        expected, looked, _ = decoder.step(target[:, 1 + beam], state)
        torch.testing.assert_close(hidden[beam::2], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(weights[beam::2], looked, atol=1e-5, rtol=0)
    kept = doubled.select_sentences(torch.tensor([0, 2]), torch.tensor([1, 0, 4, 4]))
    thinned, _, _ = decoder.step(torch.tensor([5, 6, 7, 8]), kept)
    whole, _, _ = decoder.step(torch.tensor([6, 5, 9, 9, 7, 9]), doubled)
    torch.testing.assert_close(thinned[:3], whole[[1, 0, 4]], atol=1e-5, rtol=0)


def test_dropout_acts_in_training_alone(small_model: Maker) -> None:
    source, lengths, target = batch()
    for name in ("embed_dropout_source", "embed_dropout_target", "rnn_decoder_hidden_dropout"):
        model = small_model(**{name: 0.5}).model
        quiet = model(source, lengths, target)
        torch.testing.assert_close(quiet, model(source, lengths, target))
        model.train()
        assert not torch.allclose(quiet, model(source, lengths, target)), name


def test_upper_layers_see_the_context_only_where_asked(small_model: Maker) -> None:
    shapes = {
        flag: small_model(num_layers_decoder=2, rnn_attention_in_upper_layers=flag)
        .model.state_dict()["decoder.cells.1.weight_ih"]
        .shape
        for flag in (True, False)
    }
    assert shapes == {True: (48, 24), False: (48, 12)}
