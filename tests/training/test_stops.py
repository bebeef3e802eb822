"""Runs that are asked to stop: what they leave, and how they go on."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seqwright.artifacts import load_model
from seqwright.training.job import Channels, train
from seqwright.training.progress import Monitor, Progress, Update
from tests.toy import SETTINGS
from tests.training.runs import assert_same_weights


class Stop(Monitor):
    """Asks to stop from an update on: at 8 and 12, before their validation."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.reached = False

    def on_update(self, progress: Progress, update: Update) -> None:
        self.reached = progress.updates >= self.at

    def __call__(self) -> bool:
        return self.reached


def test_an_interrupted_run_leaves_a_model_and_goes_on_as_if_it_had_not_stopped(
    channels: Channels, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "rnn_decoder_hidden_dropout": 0.3, "max_num_batches": 12}
    straight = train(channels, tmp_path / "straight", settings, precision="fp32")
    for stop_at in (2, 7, 8, 12):
        stop = Stop(stop_at)
        progress = train(channels, tmp_path / "model", settings, precision="fp32", stop_requested=stop, monitors=[stop])
        assert progress.updates == stop_at
        assert progress.checkpoint_updates == {2: 0, 7: 4, 8: 4, 12: 8}[stop_at]
        assert load_model(tmp_path / "model")
    progress = train(channels, tmp_path / "model", settings, precision="fp32")
    assert progress == straight
    assert_same_weights(tmp_path / "straight", tmp_path / "model")


def test_a_run_that_is_stopped_before_its_first_update_leaves_its_state_and_no_model(
    channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "straight", settings, precision="fp32")
    begun = tmp_path / "model.checkpoints" / "run.json"
    for _ in range(2):
        with caplog.at_level(logging.INFO):
            progress = train(channels, tmp_path / "model", settings, precision="fp32", stop_requested=begun.exists)
        assert (progress.updates, progress.has_model) == (0, False)
        assert "there is no model yet" in caplog.messages[-1]
        assert not (tmp_path / "model").exists()
    train(channels, tmp_path / "model", settings, precision="fp32")
    assert_same_weights(tmp_path / "straight", tmp_path / "model")


def test_a_stop_in_bleu_ends_the_validation(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "optimized_metric": "bleu", "max_num_batches": 8}
    straight = train(channels, tmp_path / "straight", settings, precision="fp32")
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 9  # 4 updates and their validation's batch come before

    progress = train(channels, tmp_path / "model", settings, precision="fp32", stop_requested=stop)
    assert (progress.updates, progress.checkpoint_updates) == (4, 0)
    assert train(channels, tmp_path / "model", settings, precision="fp32") == straight
    assert_same_weights(tmp_path / "straight", tmp_path / "model")


@pytest.fixture(autouse=True)
def _usual_handler_of_ctrl_c() -> Iterator[None]:
    """Python's own handler: a shell lets the programs that it starts in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupt(Monitor):
    """Presses Ctrl-C after an update."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_update(self, progress: Progress, update: Update) -> None:
        if progress.updates == self.at:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupt_saves_the_state_and_the_run_goes_on_from_it(
    channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SETTINGS, "rnn_decoder_hidden_dropout": 0.3, "max_num_batches": 12}
    straight = train(channels, tmp_path / "straight", settings, precision="fp32")
    with pytest.raises(KeyboardInterrupt):
        train(channels, tmp_path / "model", settings, precision="fp32", monitors=[Interrupt(at=6)])
    assert "the state is saved" in caplog.messages[-1]
    assert (tmp_path / "model.checkpoints" / "checkpoint-000000006").is_dir()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert train(channels, tmp_path / "model", settings, precision="fp32") == straight
    assert_same_weights(tmp_path / "straight", tmp_path / "model")


def test_an_interrupt_of_several_processes_saves_the_state(channels: Channels, tmp_path: Path) -> None:
    checkpoints = tmp_path / "model.checkpoints"

    def interrupt_after_a_checkpoint() -> None:
        while not list(checkpoints.glob("checkpoint-*")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_after_a_checkpoint, daemon=True).start()
    settings = {**SETTINGS, "max_num_batches": 1_000_000, "checkpoint_threshold": 1_000_000}
    with pytest.raises(KeyboardInterrupt):
        train(channels, tmp_path / "model", settings, precision="fp32", processes=2)
    newest = max(path.name for path in checkpoints.glob("checkpoint-*"))
    progress = train(channels, tmp_path / "model", settings, precision="fp32", stop_requested=lambda: True)
    assert newest == f"checkpoint-{progress.updates:09d}"
    assert load_model(tmp_path / "model")


def test_an_interrupt_is_not_caught_where_stop_requested_is_given(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 12}
    options = {"precision": "fp32", "stop_requested": lambda: False}
    with pytest.raises(KeyboardInterrupt):
        train(channels, tmp_path / "model", settings, monitors=[Interrupt(at=6)], **options)  # type: ignore[arg-type]
    assert not (tmp_path / "model.checkpoints" / "checkpoint-000000006").exists()


def test_training_in_a_thread_leaves_interrupts_to_the_main_thread(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    with ThreadPoolExecutor(1) as executor:
        progress = executor.submit(train, channels, tmp_path / "model", settings, precision="fp32").result()
    assert progress.updates == 4
