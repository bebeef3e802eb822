"""The fast paths of training against the plain ones that they stand for."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seqwright.devices import Precision, autocast
from seqwright.hyperparameters import Hyperparameters
from seqwright.models import linear, loss, prepared
from seqwright.models.loss import output_loss
from seqwright.models.rnn_decoder import RecurrentDecoder
from seqwright.models.seq2seq import Seq2Seq, build_model, initialize_model

LENGTHS = torch.tensor([7, 3, 1, 5, 6])


def make_model(**settings: object) -> Seq2Seq:
    parsed = Hyperparameters.parse(
        {"rnn_num_hidden": 24, "num_embed_source": 16, "num_embed_target": 12, "weight_init_scale": 3.0, **settings}
    )
    model = build_model(parsed, 50, 60)
    initialize_model(model, parsed, 3)
    return model


def decoded(model: Seq2Seq, path: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The hidden vectors that a path of the decoder gives, and the gradients of a fixed function of them."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, 50, (5, 7), generator=generator)
    target = torch.randint(4, 60, (5, 9), generator=generator)
    weights = torch.randn(5, 9, 24, generator=generator)
    decoder = model.decoder
    assert isinstance(decoder, RecurrentDecoder)
    model.zero_grad()
    torch.manual_seed(2)
    encoded = model.encode(source, LENGTHS)
    mask = decoder._dropout_mask(target.t(), encoded)
    hidden: Tensor = getattr(decoder, path)(target.t(), decoder.start(encoded), mask)
    (hidden * weights).sum().backward()  # type: ignore[no-untyped-call]
    return hidden.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("state_init", ["last", "avg", "zero"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("units", [24, 10])
def test_the_fused_decoder_is_the_stepwise_one(state_init: str, dropout: float, units: int) -> None:
    model = make_model(
        rnn_decoder_state_init=state_init,
        rnn_decoder_hidden_dropout=dropout,
        embed_dropout_target=dropout / 2,
        rnn_attention_num_hidden=units,
    )
    hidden, gradients = decoded(model.train(), "_decode_fused")
    expected, expected_gradients = decoded(model, "_decode_by_steps")
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_fused_decoder_in_bf16_is_near_fp32() -> None:
    model = make_model().train()
    expected, expected_gradients = decoded(model, "_decode_by_steps")
    with autocast(torch.device("cpu"), "bf16"):
        hidden, gradients = decoded(model, "_decode_fused")
    torch.testing.assert_close(hidden.float(), expected, rtol=0, atol=0.03)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        reference = expected_gradients[name]
        assert (gradient - reference).norm() <= 0.05 * reference.norm() + 1e-3, name


def test_gradients_of_a_token_that_comes_again_and_again_add_up_in_bf16() -> None:
    model = make_model().train()
    source, lengths = torch.full((200, 3), 5), torch.full((200,), 3)
    found = []
    for precision in ("fp32", "bf16"):
        model.zero_grad()
        with autocast(torch.device("cpu"), precision):
            hidden = model(source, lengths, torch.full((200, 10), 7))
        hidden.float().sum().backward()
        gradient = model.decoder.embedding.table.weight.grad
        assert gradient is not None
        found.append(gradient[7])
    expected, gradient = found
    assert (gradient - expected).norm() <= 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("settings", "fused"),
    [
        ({}, True),
        ({"rnn_attention_type": "dot"}, False),
        ({"rnn_cell_type": "gru"}, False),
        ({"num_layers_decoder": 2}, False),
    ],
)
def test_only_decoders_that_it_covers_are_fused(settings: dict[str, object], fused: bool) -> None:
    decoder = make_model(**settings).decoder
    assert isinstance(decoder, RecurrentDecoder)
    assert decoder.is_fusable == fused


DECODERS: list[dict[str, object]] = [
    {},
    {"rnn_decoder_state_init": "avg"},
    {"rnn_decoder_state_init": "zero"},
    {"num_layers_decoder": 2},
    {"num_layers_decoder": 3, "rnn_attention_in_upper_layers": False, "rnn_residual_connections": True},
    {"num_layers_encoder": 2, "rnn_cell_type": "gru"},
    {"rnn_cell_type": "gru", "num_layers_decoder": 2, "rnn_attention_type": "bilinear"},
    {"rnn_attention_type": "dot", "rnn_attention_num_hidden": 10},
    {"rnn_attention_type": "fixed"},
    {"encoder_type": "cnn", "decoder_type": "cnn", "cnn_num_hidden": 24},
    {"encoder_type": "rnn", "decoder_type": "cnn", "cnn_num_hidden": 20, "cnn_activation_type": "relu"},
]


@pytest.mark.parametrize("settings", DECODERS)
@pytest.mark.parametrize("max_table", [prepared.MAX_TABLE, 0])
@pytest.mark.parametrize(("precision", "rtol", "atol"), [("fp32", 1e-4, 1e-5), ("bf16", 0.03, 0.04)])
@torch.no_grad()
def test_a_prepared_model_steps_as_the_model_does(
    settings: dict[str, object],
    max_table: int,
    precision: Precision,
    rtol: float,
    atol: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prepared, "MAX_TABLE", max_table)
    model = make_model(**settings).eval()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    fast = prepared.prepare_model(model, precision)
    source = torch.randint(4, 50, (5, 7), generator=torch.Generator().manual_seed(1))
    thrice = torch.arange(5).repeat_interleave(3)
    states = [each.start(source, LENGTHS).select_hypotheses(thrice) for each in (model, fast)]
    close = partial(torch.testing.assert_close, rtol=rtol, atol=atol)
    for number in range(4):
        tokens, rows = torch.arange(15) * 3 + number, torch.tensor([0, 4, 5, 13])
        expected, expected_weights, states[0] = model.step(tokens, states[0])
        found, weights, states[1] = fast.step(tokens, states[1], rows)
        close(found, expected[rows])
        close(weights, expected_weights)
        order = torch.arange(15).view(5, 3).flip(1).flatten()
        states = [state.select_hypotheses(order) for state in states]
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_a_prepared_model_shares_the_embeddings_of_the_model() -> None:
    model = make_model(rnn_cell_type="gru").eval()
    fast = prepared.prepare_model(model, "bf16")
    assert fast.encoder.embedding.table.weight is model.encoder.embedding.table.weight
    assert fast.decoder.embedding.table.weight is model.decoder.embedding.table.weight


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [loss.CHUNK, 100, 1])
@pytest.mark.parametrize("divisor", [1.0, 7.0])
def test_the_fused_loss_is_cross_entropy_over_the_output_layer(
    smoothing: float, chunk: int, divisor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(*shape, generator=generator).requires_grad_() for shape in ((37, 8), (30, 8), (30,))]
    targets = torch.randint(0, 30, (37,), generator=generator)
    total, objective, correct = output_loss(*_three(inputs), targets, smoothing, divisor)
    (objective / (3 / divisor)).backward()  # type: ignore[no-untyped-call]
    gradients = [each.grad for each in inputs]
    for each in inputs:
        each.grad = None
    logits = F.linear(*inputs)
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    (expected / 3).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(objective, expected / divisor)
    torch.testing.assert_close(total, F.cross_entropy(logits, targets, reduction="sum"))
    assert correct == (logits.argmax(1) == targets).sum()
    for gradient, each in zip(gradients, inputs, strict=True):
        torch.testing.assert_close(gradient, each.grad, rtol=1e-4, atol=1e-6)


def test_the_fused_loss_of_hopeless_targets_is_finite() -> None:
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[300.0], [-300.0]])
    total, _, correct = output_loss(hidden, weight, torch.zeros(2), torch.tensor([1]), 0.0)
    assert (total.item(), correct.item()) == (600.0, 0)


def test_the_fused_loss_makes_no_gradients_where_none_are_wanted() -> None:
    weight = torch.randn(30, 8, requires_grad=True)
    with torch.no_grad():
        _, objective, _ = output_loss(torch.randn(5, 8), weight, torch.zeros(30), torch.arange(5), 0.0)
    assert not objective.requires_grad


def _three(tensors: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight, bias = tensors
    return hidden, weight, bias


@pytest.mark.parametrize("rows", [1, 5, 64, 200])
@pytest.mark.parametrize("shape", [(16, 8), (1024, 1100)], ids=["small", "large"])
@pytest.mark.parametrize("layout", ["whole", "part"])
@pytest.mark.parametrize("after", ["", "bias", "bias and tanh"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("packs", [True, False])
def test_a_packed_linear_function_gives_what_the_plain_one_gives(
    rows: int,
    shape: tuple[int, int],
    layout: str,
    after: str,
    dtype: torch.dtype,
    rtol: float,
    packs: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not packs:
        monkeypatch.setattr(linear, "_can_pack", lambda _: False)
    generator = torch.Generator().manual_seed(1)
    weight = (torch.randn(*shape, generator=generator) / shape[1] ** 0.5).to(dtype)
    bias = torch.randn(shape[0], generator=generator) if after else None
    inputs = torch.randn(rows, 2 * shape[1], generator=generator).to(dtype)
    x = inputs[:, : shape[1]] if layout == "part" else inputs[:, : shape[1]].contiguous()
    result = linear.packed_linear(weight, bias, tanh=after.endswith("tanh"))(x)
    expected = F.linear(x.float(), weight.float(), bias)
    if after.endswith("tanh"):
        expected = expected.tanh()
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected, rtol=rtol, atol=rtol)
