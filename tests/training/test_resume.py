"""Runs that go on from a checkpoint: they equal a run that never stopped, and take no damaged checkpoint."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqwright.artifacts import load_model
from seqwright.errors import ClientError
from seqwright.training.checkpoints import FORMAT_VERSION
from seqwright.training.job import Channels, train
from seqwright.training.progress import Monitor, Progress, Update
from tests.toy import SETTINGS
from tests.training.runs import assert_same_weights


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_a_resumed_run_equals_one_that_never_stopped(optimizer: str, channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "rnn_decoder_hidden_dropout": 0.3, "optimizer_type": optimizer, "checkpoint_threshold": 9}
    train(channels, tmp_path / "straight", {**settings, "max_num_batches": 20}, precision="fp32")
    for bound in (8, 16, 20):
        progress = train(channels, tmp_path / "stopped", {**settings, "max_num_batches": bound}, precision="fp32")
        assert progress.updates == bound
    assert_same_weights(tmp_path / "straight", tmp_path / "stopped")
    last = "checkpoint-000000020/state.safetensors"
    first, second = (load_file(tmp_path / f"{name}.checkpoints" / last) for name in ("straight", "stopped"))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_checkpoint_holds_the_state_of_its_update_though_the_disk_is_slow(
    channels: Channels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_slowly(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None) -> None:
        time.sleep(0.3)
        save_file(tensors, path, metadata)

    train(channels, tmp_path / "short", {**SETTINGS, "max_num_batches": 4}, precision="fp32")
    monkeypatch.setattr("seqwright.artifacts.saving.save_file", write_slowly)
    train(channels, tmp_path / "long", {**SETTINGS, "max_num_batches": 8}, precision="fp32")
    short, long = (
        load_file(tmp_path / f"{name}.checkpoints" / "checkpoint-000000004" / "state.safetensors")
        for name in ("short", "long")
    )
    assert short.keys() == long.keys()
    assert [name for name in short if not torch.equal(short[name], long[name])] == []


def damage(checkpoint: Path, kind: str) -> None:
    """Make a checkpoint what no writer leaves."""
    state, tensors = checkpoint / "state.json", checkpoint / "state.safetensors"
    match kind:
        case "cut off":
            tensors.write_bytes(tensors.read_bytes()[:1000])
        case "zeros in the middle":
            content = tensors.read_bytes()
            middle = len(content) // 2
            tensors.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
        case "another state":
            state.write_text("{}")
        case _:
            state.unlink()


DAMAGE = ["cut off", "zeros in the middle", "another state", "no state"]


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    kind: str, channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SETTINGS, "max_num_batches": 8}
    train(channels, tmp_path / "straight", {**settings, "max_num_batches": 12}, precision="fp32")
    train(channels, tmp_path / "model", settings, precision="fp32")
    checkpoints = tmp_path / "model.checkpoints"
    damage(checkpoints / "checkpoint-000000008", kind)
    with caplog.at_level(logging.WARNING):
        train(channels, tmp_path / "model", {**settings, "max_num_batches": 12}, precision="fp32")
    assert "checkpoint-000000008 is damaged" in caplog.text
    assert_same_weights(tmp_path / "straight", tmp_path / "model")
    assert sorted(each.name for each in checkpoints.glob("checkpoint-*")) == [
        "checkpoint-000000008",
        "checkpoint-000000012",
    ]


def test_without_a_whole_checkpoint_training_is_refused_and_the_model_kept(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 8}
    train(channels, tmp_path / "model", settings, precision="fp32")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    for checkpoint in (tmp_path / "model.checkpoints").glob("checkpoint-*"):
        damage(checkpoint, "cut off")
    with pytest.raises(ClientError, match=r"no checkpoint in .* is whole"):
        train(channels, tmp_path / "model", {**settings, "max_num_batches": 12}, precision="fp32")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_a_checkpoint_of_another_version_is_refused(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    state = tmp_path / "model.checkpoints" / "checkpoint-000000004" / "state.json"
    state.write_text(state.read_text().replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 9'))
    with pytest.raises(ClientError, match="another version of seqwright, whose format is 9"):
        train(channels, tmp_path / "model", settings, precision="fp32")


def test_a_hyperparameter_that_a_resumed_run_changes_is_in_its_config(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    train(channels, tmp_path / "model", {**settings, "max_num_batches": 12, "beam_size": 3}, precision="fp32")
    assert load_model(tmp_path / "model").settings.beam_size == 3


def test_a_checkpoint_that_exists_is_not_written_again(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    state = tmp_path / "model.checkpoints" / "checkpoint-000000004" / "state.safetensors"
    before = state.stat().st_ino
    train(
        channels,
        tmp_path / "model",
        {**settings, "max_num_batches": 8},
        precision="fp32",
        stop_requested=lambda: True,
    )
    assert state.stat().st_ino == before


def test_copies_that_a_user_made_of_a_checkpoint_are_left_alone(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "checkpoint_frequency_num_batches": 2}
    state = tmp_path / "model.checkpoints"
    train(channels, tmp_path / "model", {**settings, "max_num_batches": 4}, precision="fp32")
    for name in ("checkpoint-good", "checkpoint-000000004.bak"):
        shutil.copytree(state / "checkpoint-000000004", state / name)
    for updates in (8, 10):
        progress = train(channels, tmp_path / "model", {**settings, "max_num_batches": updates}, precision="fp32")
        assert progress.updates == updates
    names = sorted(path.name for path in state.glob("checkpoint-*"))
    assert names == ["checkpoint-000000004.bak", "checkpoint-000000008", "checkpoint-000000010", "checkpoint-good"]


def test_a_copy_that_hangs_holds_up_no_checkpoint_and_keeps_what_it_reads(channels: Channels, tmp_path: Path) -> None:
    state = tmp_path / "model.checkpoints"
    released = threading.Event()
    calls: list[list[str]] = []

    def names() -> list[str]:
        return sorted(path.name[-2:] for path in state.glob("checkpoint-*"))

    def copy(stop_requested: Callable[[], bool]) -> None:
        calls.append(names())
        assert released.wait(60)

    class Release(Monitor):
        def on_update(self, progress: Progress, update: Update) -> None:
            if progress.updates == 23:
                assert {"04", "16"} <= set(names())
                assert "08" not in names()
                released.set()

    settings = {**SETTINGS, "max_num_batches": 24, "checkpoint_threshold": 9}
    train(channels, tmp_path / "model", settings, precision="fp32", on_saved=copy, monitors=[Release()])
    assert calls[0] == ["04"]
    assert calls[-1][-1] == "24"
    assert len(calls) < 6
    assert names() == ["20", "24"]


def test_an_error_of_a_copy_ends_training(channels: Channels, tmp_path: Path) -> None:
    def copy(stop_requested: Callable[[], bool]) -> None:
        raise ClientError("the other disk is full")

    with pytest.raises(ClientError, match="the other disk is full"):
        train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 8}, precision="fp32", on_saved=copy)
