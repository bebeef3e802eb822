"""Every hyperparameter has its effect: none is silently ignored.

Each row sets one hyperparameter to something else than its default, over a base in which it matters, trains a moment
on the toy task, and names the observation that must differ from the base's.
"""

import logging
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from seqwright.artifacts import load_model
from seqwright.hyperparameters import Hyperparameters
from seqwright.inference.translator import Translator
from seqwright.training.job import Channels, train
from tests.toy import prepared

BASE: dict[str, object] = {
    "rnn_num_hidden": 8,
    "num_embed_source": 4,
    "num_embed_target": 4,
    "cnn_num_hidden": 6,
    "batch_size": 16,
    "learning_rate": 0.01,
    "max_num_batches": 4,
    "checkpoint_frequency_num_batches": 2,
}
CNN: dict[str, object] = {"encoder_type": "cnn", "decoder_type": "cnn"}
DEEP: dict[str, object] = {"num_layers_encoder": 3, "num_layers_decoder": 3}
STUCK: dict[str, object] = {
    "learning_rate": 1e-12,
    "optimized_metric": "accuracy",
    "checkpoint_frequency_num_batches": 1,
    "max_num_batches": 40,
}
"""Accuracy never improves after the first checkpoint."""

EFFECTS: dict[str, tuple[object, dict[str, object], str]] = {
    "batch_size": (8, {"max_num_epochs": 1, "max_num_batches": -1}, "updates"),
    "beam_size": (1, {}, "scores"),
    "bleu_sample_size": (3, {}, "metrics"),
    "bucket_width": (2, {"max_num_epochs": 1, "max_num_batches": -1}, "updates"),
    "bucketing_enabled": (False, {"max_seq_len_source": 8, "max_seq_len_target": 8}, "weights"),
    "checkpoint_frequency_num_batches": (1, {}, "checkpoints"),
    "checkpoint_threshold": (5, STUCK, "updates"),
    "clip_gradient": (0.001, {"optimizer_type": "sgd"}, "weights"),
    "cnn_activation_type": ("tanh", CNN, "shapes"),
    "cnn_hidden_dropout": (0.5, CNN, "weights"),
    "cnn_kernel_width_decoder": (3, CNN, "shapes"),
    "cnn_kernel_width_encoder": (5, CNN, "shapes"),
    "cnn_num_hidden": (10, CNN, "shapes"),
    "decoder_type": ("cnn", {}, "shapes"),
    "embed_dropout_source": (0.5, {}, "weights"),
    "embed_dropout_target": (0.5, {}, "weights"),
    "encoder_type": ("cnn", {}, "shapes"),
    "fixed_rate_lr_half_life": (1, {"lr_scheduler_type": "fixed_rate_inv_t"}, "rates"),
    "label_smoothing": (0.2, {}, "weights"),
    "learning_rate": (0.02, {}, "rates"),
    "lr_cooldown_num_batches": (3, {}, "rates"),
    "lr_scheduler_type": ("fixed_rate_inv_sqrt_t", {}, "rates"),
    "max_num_batches": (3, {}, "updates"),
    "max_num_epochs": (1, {"max_num_batches": 30}, "updates"),
    "max_seq_len_source": (2, {}, "weights"),
    "max_seq_len_target": (2, {}, "weights"),
    "min_num_epochs": (2, STUCK, "updates"),
    "momentum": (0.9, {"optimizer_type": "sgd"}, "weights"),
    "num_embed_source": (5, {}, "shapes"),
    "num_embed_target": (5, {}, "shapes"),
    "num_layers_decoder": (2, {}, "shapes"),
    "num_layers_encoder": (2, {}, "shapes"),
    "optimized_metric": ("accuracy", {}, "best"),
    "optimizer_type": ("rmsprop", {}, "weights"),
    "plateau_reduce_lr_factor": (0.25, STUCK, "rates"),
    "plateau_reduce_lr_threshold": (1, STUCK, "rates"),
    "rnn_attention_in_upper_layers": (False, DEEP, "shapes"),
    "rnn_attention_num_hidden": (5, {}, "shapes"),
    "rnn_attention_type": ("bilinear", {}, "shapes"),
    "rnn_cell_type": ("gru", {}, "shapes"),
    "rnn_decoder_hidden_dropout": (0.5, {}, "weights"),
    "rnn_decoder_state_init": ("avg", {}, "weights"),
    "rnn_first_residual_layer": (3, {**DEEP, "rnn_residual_connections": True}, "weights"),
    "rnn_num_hidden": (10, {}, "shapes"),
    "rnn_residual_connections": (True, DEEP, "weights"),
    "training_metric": ("accuracy", {}, "train_lines"),
    "weight_decay": (0.1, {}, "weights"),
    "weight_init_scale": (1.0, {}, "weights"),
    "weight_init_type": ("uniform", {}, "weights"),
    "xavier_factor_type": ("avg", {}, "weights"),
}


@dataclass(frozen=True)
class Observation:
    """What can be seen of a run."""

    updates: int
    checkpoints: int
    best: float | None
    rates: tuple[str, ...]
    train_lines: tuple[str, ...]
    metrics: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    weights: float
    scores: tuple[float, ...]


class Lines(logging.Handler):
    """Collects log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@cache
def observe(settings: tuple[tuple[str, object], ...]) -> Observation:
    """Train a moment and look."""
    torch.set_num_threads(1)
    log, handler = logging.getLogger("seqwright"), Lines()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            channels = Channels.under(prepared(folder, pairs=80))
            progress = train(channels, folder / "model", dict(settings), precision="fp32")
            trained = load_model(folder / "model")
            translator = Translator(trained, torch.device("cpu"))
            found = translator.translate(["a b c d", "c", "d d a", "b a c a d"])
            metrics = (folder / "model" / "metrics.json").read_text()
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    state = trained.model.state_dict()
    text = "\n".join(handler.lines)
    return Observation(
        progress.updates,
        progress.checkpoints,
        progress.best,
        tuple(re.findall(r"learning rate (\S+);", text)),
        tuple(re.findall(r"train \w+", text)),
        tuple(sorted(re.findall(r'"(\w+)":', metrics))),
        tuple((name, tuple(tensor.shape)) for name, tensor in state.items()),
        float(sum(tensor.double().abs().sum() for tensor in state.values())),
        tuple(translation.score for translation in found),
    )


def test_the_table_has_every_hyperparameter() -> None:
    # cross-entropy is the only loss there is: there is no other value to set.
    assert EFFECTS.keys() | {"loss_type"} == Hyperparameters.model_fields.keys()


@pytest.mark.parametrize("name", EFFECTS)
def test_every_hyperparameter_has_its_effect(name: str) -> None:
    value, extra, observation = EFFECTS[name]
    base = {**BASE, **extra}
    default = Hyperparameters.model_fields[name].default
    assert value != default
    without = observe(tuple(base.items()))
    with_it = observe(tuple({**base, name: value}.items()))
    assert getattr(with_it, observation) != getattr(without, observation)
