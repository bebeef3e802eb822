"""Starting from a model or from word vectors: what is kept, what stays frozen, what is refused."""

import json
import logging
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seqwright.artifacts import LengthRatio, TrainedModel, load_model, save_model
from seqwright.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters
from seqwright.models.seq2seq import build_model, initialize_model
from seqwright.training.job import Channels, train
from seqwright.training.warm_start import Start, copy_parameters
from tests.toy import SETTINGS
from tests.training.runs import weights

STILL: dict[str, object] = {"learning_rate": 1e-12, "max_num_batches": 1}
"""Trains one update that hardly moves a parameter."""
SOURCE, TARGET, OUTPUT = "encoder.embedding.table.weight", "decoder.embedding.table.weight", "output_layer"


@pytest.fixture
def model(channels: Channels, tmp_path: Path) -> Path:
    """A model of the toy task after 20 updates."""
    train(channels, tmp_path / "first", {**SETTINGS, "max_num_batches": 20}, precision="fp32")
    return tmp_path / "first"


def perplexity(folder: Path) -> float:
    return float(json.loads((folder / "metrics.json").read_text())["perplexity"])


def write_vectors(path: Path, tokens: str = "abcd", width: int = 8) -> torch.Tensor:
    """Write a vector for each token; returns them `[N, width]`."""
    vectors = torch.arange(len(tokens) * width, dtype=torch.float32).view(len(tokens), width) / 64
    rows = (f"{token} {' '.join(map(str, row))}\n" for token, row in zip(tokens, vectors.tolist(), strict=True))
    path.write_text("".join(rows))
    return vectors


def rows_of(folder: Path, name: str, tokens: str, side: str) -> torch.Tensor:
    """The rows of a saved parameter that belong to some tokens."""
    return weights(folder)[name][Vocabulary.load(folder / f"vocab.{side}.json").ids(tokens)]


def assert_refused(channels: Channels, tmp_path: Path, message: str, start: Start, **settings: object) -> None:
    with pytest.raises(ClientError, match=message):
        train(channels, tmp_path / "refused", settings, start=start, precision="fp32")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_training_goes_on_from_the_start_models_score(
    packed: bool, channels: Channels, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = model
    if packed:
        start = tmp_path / "model.tar.gz"
        with tarfile.open(start, "w:gz") as tar:
            for file in model.iterdir():
                tar.add(file, file.name)
    with caplog.at_level(logging.INFO):
        train(channels, tmp_path / "second", STILL, start=Start(model=start), precision="fp32")
    assert perplexity(tmp_path / "second") == pytest.approx(perplexity(model), rel=1e-5)
    assert "8 of 8 source words keep their parameters" in caplog.text
    assert "8 of 8 target words keep their parameters" in caplog.text


def test_hyperparameters_are_the_start_models_but_for_those_given(
    channels: Channels, model: Path, tmp_path: Path
) -> None:
    given = Hyperparameters(learning_rate=0.002, max_num_batches=2)
    train(channels, tmp_path / "second", given, start=Start(model=model), precision="fp32")
    expected = Hyperparameters.parse({**SETTINGS, "learning_rate": 0.002, "max_num_batches": 2})
    assert load_model(tmp_path / "second").settings == expected


def test_what_comes_to_the_same_is_no_difference(channels: Channels, model: Path, tmp_path: Path) -> None:
    same = {"rnn_attention_num_hidden": SETTINGS["rnn_num_hidden"], "rnn_first_residual_layer": 3, "max_num_batches": 1}
    train(channels, tmp_path / "second", same, start=Start(model=model), precision="fp32")


def test_what_shapes_the_model_may_not_differ_and_is_named(channels: Channels, model: Path, tmp_path: Path) -> None:
    changed = {"num_layers_encoder": 2, "rnn_cell_type": "gru", "rnn_residual_connections": True, "batch_size": 8}
    with pytest.raises(ClientError) as caught:
        train(channels, tmp_path / "second", changed, start=Start(model=model))
    named = re.findall(r"hyperparameter (\w+): (\S+) differs from the start model's (\S+)", str(caught.value))
    assert named == [
        ("num_layers_encoder", "2", "1"),
        ("rnn_cell_type", "gru", "lstm"),
        ("rnn_residual_connections", "True", "False"),
    ]
    assert not (tmp_path / "second").exists()
    assert not (tmp_path / "second.checkpoints").exists()


@pytest.mark.parametrize("encoder", ["rnn", "cnn"])
@pytest.mark.parametrize("decoder", ["rnn", "cnn"])
def test_whatever_changes_a_models_parameters_is_fixed(encoder: str, decoder: str) -> None:
    base = {**SETTINGS, "encoder_type": encoder, "decoder_type": decoder, "cnn_num_hidden": 6, "num_layers_decoder": 2}
    other: dict[str, object] = {
        "encoder_type": "cnn" if encoder == "rnn" else "rnn",
        "decoder_type": "cnn" if decoder == "rnn" else "rnn",
        "rnn_cell_type": "gru",
        "rnn_decoder_state_init": "zero",
        "rnn_attention_type": "dot",
        "rnn_attention_in_upper_layers": False,
        "cnn_activation_type": "tanh",
    }
    settings = Hyperparameters.parse(base)

    def shapes(values: Hyperparameters) -> dict[str, torch.Size]:
        with torch.device("meta"):
            return {name: tensor.shape for name, tensor in build_model(values, 9, 10).state_dict().items()}

    fixed = settings.names_that_fix_shapes()
    for name, default in settings.to_json_dict().items():
        value = other.get(name, default + 2 if type(default) is int and default > 0 else default)
        if shapes(Hyperparameters.model_construct(**{**dict(settings), name: value})) != shapes(settings):
            assert name in fixed, name
    assert ("max_seq_len_source" in fixed, "max_seq_len_target" in fixed) == (encoder == "cnn", decoder == "cnn")
    assert not [name for name in fixed if "dropout" in name]


@pytest.mark.parametrize("kind", ["rnn", "cnn"])
def test_rows_go_by_the_token_and_new_tokens_stay_as_they_are(
    kind: str, small_model: Callable[..., TrainedModel]
) -> None:
    old = small_model(seed=1, encoder_type=kind, decoder_type=kind, cnn_num_hidden=6)
    source = Vocabulary([*SPECIAL_TOKENS, "new", "w9", "w4"])
    target = Vocabulary([*SPECIAL_TOKENS, "w10", "neu", "w5", "auch"])
    model = build_model(old.settings, len(source), len(target))
    initialize_model(model, old.settings, seed=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy_parameters(model, old, source, target)
    taken = old.model.state_dict()
    rows = {SOURCE: (source, {4}), **dict.fromkeys((TARGET, f"{OUTPUT}.weight", f"{OUTPUT}.bias"), (target, {5, 7}))}
    for name, tensor in model.state_dict().items():
        if name not in rows:
            assert torch.equal(tensor, taken[name]), name
            continue
        vocabulary, new = rows[name]
        for index, token in enumerate(vocabulary.tokens):
            # In the old vocabularies the id of a word is its number.
            number = index if index < len(SPECIAL_TOKENS) else int("0" + re.sub(r"\D", "", token))
            expected = before[name][index] if index in new else taken[name][number]
            assert torch.equal(tensor[index], expected), (name, token)


def test_a_run_with_another_vocabulary_keeps_the_words_it_shares(
    channels: Channels, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for side, words in (("src", "hgfexyzw"), ("trg", "stuvwxyz")):
        tokens = [*SPECIAL_TOKENS, *words]
        (channels.vocab / f"vocab.{side}.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    with caplog.at_level(logging.INFO):
        train(channels, tmp_path / "second", STILL, start=Start(model=model), precision="fp32")
    assert "4 of 8 source words keep their parameters" in caplog.text
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "none of the 8 target words is known" in warnings[0]
    kept = rows_of(model, SOURCE, "efgh", "src")
    torch.testing.assert_close(rows_of(tmp_path / "second", SOURCE, "efgh", "src"), kept, atol=1e-9, rtol=0)


def test_sources_end_as_in_the_start_model(channels: Channels, tmp_path: Path) -> None:
    settings = Hyperparameters.parse(SETTINGS)
    words = [Vocabulary.load(channels.vocab / f"vocab.{side}.json") for side in ("src", "trg")]
    network = build_model(settings, *map(len, words))
    initialize_model(network, settings, seed=1)
    trained = TrainedModel(network, settings, words[0], words[1], LengthRatio(mean=1, std=0))
    scores = []
    for source_eos in (False, True):
        name = f"eos-{source_eos}"
        save_model(tmp_path / name, replace(trained, source_eos=source_eos), {})
        train(channels, tmp_path / f"{name}-on", STILL, start=Start(model=tmp_path / name), precision="fp32")
        assert load_model(tmp_path / f"{name}-on").source_eos is source_eos
        scores.append(perplexity(tmp_path / f"{name}-on"))
    assert scores[0] != scores[1]


@pytest.mark.parametrize(("side", "name"), [("source", SOURCE), ("target", TARGET)])
def test_known_words_start_from_vectors_and_the_others_at_random(
    side: str, name: str, channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = write_vectors(tmp_path / "v")
    settings = {**SETTINGS, **STILL}
    start = Start(vectors_source=tmp_path / "v") if side == "source" else Start(vectors_target=tmp_path / "v")
    with caplog.at_level(logging.INFO):
        train(channels, tmp_path / "with", settings, start=start, precision="fp32")
    train(channels, tmp_path / "without", settings, precision="fp32")
    assert f"{side} vectors: 4 of 8 words of the vocabulary found (50.0 %)" in caplog.text
    suffix = "src" if side == "source" else "trg"
    torch.testing.assert_close(rows_of(tmp_path / "with", name, "abcd", suffix), vectors, atol=1e-9, rtol=0)
    others = [rows_of(tmp_path / run, name, "efgh", suffix) for run in ("with", "without")]
    torch.testing.assert_close(*others, atol=1e-9, rtol=0)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_a_frozen_table_does_not_move_and_the_other_does(optimizer: str, channels: Channels, tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path / "v")
    start = Start(vectors_source=tmp_path / "v", vectors_target=tmp_path / "v", freeze_source=True)
    settings = {**SETTINGS, "weight_decay": 0.1, "max_num_batches": 8, "optimizer_type": optimizer}
    train(channels, tmp_path / "model", settings, start=start, precision="fp32")
    assert torch.equal(rows_of(tmp_path / "model", SOURCE, "abcd", "src"), vectors)
    assert not torch.isclose(rows_of(tmp_path / "model", TARGET, "abcd", "trg"), vectors).all(dim=1).any()


def test_vectors_go_over_the_start_models_and_its_table_can_be_frozen(
    channels: Channels, model: Path, tmp_path: Path
) -> None:
    vectors = write_vectors(tmp_path / "v")
    start = Start(model=model, vectors_source=tmp_path / "v", freeze_source=True, freeze_target=True)
    train(channels, tmp_path / "second", {"max_num_batches": 4, "weight_decay": 0.1}, start=start, precision="fp32")
    before, after = weights(model), weights(tmp_path / "second")
    assert torch.equal(rows_of(tmp_path / "second", SOURCE, "abcd", "src"), vectors)
    assert torch.equal(*(rows_of(folder, SOURCE, "efgh", "src") for folder in (model, tmp_path / "second")))
    assert torch.equal(after[TARGET], before[TARGET])
    assert not torch.equal(after[f"{OUTPUT}.weight"], before[f"{OUTPUT}.weight"])


@pytest.mark.parametrize("frozen", [False, True])
def test_a_resumed_run_equals_one_that_never_stopped(
    frozen: bool, channels: Channels, model: Path, tmp_path: Path
) -> None:
    write_vectors(tmp_path / "v")
    start = Start(model=model, vectors_source=tmp_path / "v", freeze_source=frozen)
    settings = {"rnn_decoder_hidden_dropout": 0.3, "checkpoint_threshold": 9}
    train(channels, tmp_path / "straight", {**settings, "max_num_batches": 12}, start=start, precision="fp32")
    for bound in (4, 12):
        train(channels, tmp_path / "stopped", {**settings, "max_num_batches": bound}, start=start, precision="fp32")
    last = "checkpoint-000000012/state.safetensors"
    first, second = (load_file(tmp_path / f"{name}.checkpoints" / last) for name in ("straight", "stopped"))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_another_start_does_not_continue_a_run(channels: Channels, model: Path, tmp_path: Path) -> None:
    write_vectors(tmp_path / "v")
    settings = {**SETTINGS, "max_num_batches": 4}
    start = Start(model=model, vectors_source=tmp_path / "v", freeze_source=True)
    train(channels, tmp_path / "second", settings, start=start, precision="fp32")
    shutil.copytree(model, tmp_path / "copy")
    train(channels, tmp_path / "second", settings, start=replace(start, model=tmp_path / "copy"), precision="fp32")
    write_vectors(tmp_path / "w", "efgh")
    train(channels, tmp_path / "third", {**settings, "learning_rate": 0.02}, precision="fp32")
    for other, named in (
        (replace(start, vectors_source=tmp_path / "w"), "source vectors"),
        (replace(start, model=tmp_path / "third"), "start model"),
        (replace(start, freeze_source=False), "freezing of the source embedding"),
        (replace(start, vectors_target=tmp_path / "v"), "target vectors"),
        (None, "freezing of the source embedding, source vectors, start model"),
    ):
        with pytest.raises(ClientError, match=f"differs in {named}:"):
            train(channels, tmp_path / "second", settings, start=other, precision="fp32")


def test_bad_starts_leave_no_model_folder(channels: Channels, model: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert_refused(channels, tmp_path, f"no model at {none}", Start(model=none))
    assert_refused(channels, tmp_path, f"cannot read {none}", Start(vectors_source=none))
    assert_refused(channels, tmp_path, f"cannot read {tmp_path}", Start(vectors_target=tmp_path))
    assert_refused(channels, tmp_path, "give --vectors-target or --model", Start(freeze_target=True))
    write_vectors(tmp_path / "v", width=5)
    message = "line 1: these are vectors of 5 numbers, but num_embed_target is 8"
    assert_refused(channels, tmp_path, message, Start(vectors_target=tmp_path / "v"), **SETTINGS)
    message = rf"momentum.*\n.*that you do not give are those of {model}"
    assert_refused(channels, tmp_path, message, Start(model=model), momentum=0.9)
    (model / "model.safetensors").write_bytes(b"broken")
    assert_refused(channels, tmp_path, "model.safetensors is damaged", Start(model=model))
