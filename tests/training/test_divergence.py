"""Runs whose loss, gradients or scores are not finite."""

import logging
from pathlib import Path

import pytest

from seqwright.errors import AlgorithmError
from seqwright.training.job import Channels, train
from tests.toy import SETTINGS

DIVERGING = {**SETTINGS, "optimizer_type": "sgd", "learning_rate": 1e30}


def test_a_run_without_a_finite_score_fails_and_leaves_no_model(channels: Channels, tmp_path: Path) -> None:
    for _ in range(2):  # the second time it goes on from its last checkpoint
        with pytest.raises(AlgorithmError, match=r"diverged: perplexity was not finite at any checkpoint"):
            train(channels, tmp_path / "model", {**DIVERGING, "max_num_batches": 10}, precision="fp32")
        assert not (tmp_path / "model").exists()


def test_bleu_without_finite_probabilities_is_not_finite(channels: Channels, tmp_path: Path) -> None:
    network = {"encoder_type": "cnn", "decoder_type": "cnn", "optimizer_type": "sgd", "learning_rate": 1e18}
    settings = {**SETTINGS, **network, "optimized_metric": "bleu", "max_num_batches": 4}
    with pytest.raises(AlgorithmError, match="diverged: bleu was not finite at any checkpoint"):
        train(channels, tmp_path / "model", settings, precision="fp32")


def test_divergence_is_warned_of_at_once_and_once_per_checkpoint(
    channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(AlgorithmError):
        train(channels, tmp_path / "model", {**DIVERGING, "max_num_batches": 12}, precision="fp32")
    levels = [record.levelno for record in caplog.records]
    checkpoints = [number for number, line in enumerate(caplog.messages) if line.startswith("checkpoint ")]
    first = levels.index(logging.WARNING)
    assert first < checkpoints[0]
    assert "not finite" in caplog.messages[first] or "diverges" in caplog.messages[first]
    for start, end in zip([0, *checkpoints], checkpoints, strict=False):
        assert levels[start:end].count(logging.WARNING) == 1


def test_a_diverged_run_that_is_stopped_leaves_no_model(channels: Channels, tmp_path: Path) -> None:
    checkpoints = tmp_path / "model.checkpoints"
    progress = train(
        channels,
        tmp_path / "model",
        {**DIVERGING, "max_num_batches": 100},
        precision="fp32",
        stop_requested=lambda: any(checkpoints.glob("checkpoint-*")),
    )
    assert progress.checkpoints > 0
    assert (progress.best, progress.has_model) == (None, False)
    assert not (tmp_path / "model").exists()
