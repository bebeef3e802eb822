"""The best model of a run: kept in two places, and restored in each."""

import json
import shutil
from pathlib import Path

import pytest

from seqwright.errors import ClientError
from seqwright.training.job import Channels, train
from tests.toy import SETTINGS
from tests.training.runs import assert_same_weights


def test_the_model_of_the_best_checkpoint_is_kept(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 24, "learning_rate": 0.3, "clip_gradient": -1, "optimizer_type": "sgd"}
    progress = train(channels, tmp_path / "model", settings, precision="fp32")
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["perplexity"] == progress.best
    assert metrics["updates"] == progress.best_updates


def test_a_model_lost_between_runs_comes_back_from_the_checkpoints(channels: Channels, tmp_path: Path) -> None:
    train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 4})
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 4})
    assert_same_weights(tmp_path / "model", tmp_path / "elsewhere")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", ["model", "model.checkpoints/best"])
def test_a_best_model_that_a_disk_damaged_comes_from_its_other_place(
    damaged: str, channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 8}, precision="fp32")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    flip_a_bit(tmp_path / damaged / "model.safetensors")
    train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 8}, precision="fp32")
    assert f"{damaged}/model.safetensors is damaged" in caplog.text
    for folder in (tmp_path / "model", tmp_path / "model.checkpoints" / "best"):
        assert (folder / "model.safetensors").read_bytes() == before


def test_a_best_model_that_is_nowhere_whole_comes_from_its_checkpoint_or_not_at_all(
    channels: Channels, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "optimized_metric": "accuracy", "learning_rate": 1e-9}  # the first score stays the best
    best = tmp_path / "model.checkpoints" / "best"
    train(channels, tmp_path / "model", {**settings, "max_num_batches": 8}, precision="fp32")
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "model")
    flip_a_bit(best / "model.safetensors")
    train(channels, tmp_path / "model", {**settings, "max_num_batches": 12}, precision="fp32")
    for folder in (best, tmp_path / "model"):
        assert (folder / "model.safetensors").read_bytes() == before
        found = json.loads((folder / "metrics.json").read_text())
        assert found == {name: metrics[name] for name in ("updates", "epoch", "accuracy")}
    shutil.rmtree(tmp_path / "model")
    flip_a_bit(best / "model.safetensors")  # and checkpoint 4 is not kept
    with pytest.raises(ClientError, match=r"model, of update 4, is lost \(.*best/model\.safetensors is damaged"):
        train(channels, tmp_path / "model", {**settings, "max_num_batches": 12}, precision="fp32")
    assert not (tmp_path / "model").exists()
