"""What shows training to the user, and that none of it stops training."""

import io
import logging
import os
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from seqwright.training.job import Channels, train
from seqwright.training.progress import Progress, Update
from seqwright.training.tensorboard import TensorBoard
from tests.toy import SETTINGS, prepared

SHORT = {**SETTINGS, "max_num_batches": 8}


def events(folder: Path) -> Iterator[Event]:
    """The content of TensorBoard files: a length, its checksum, as many bytes, their checksum."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def points(folder: Path) -> list[tuple[str, int]]:
    return [(value.tag, event.step) for event in events(folder) for value in event.summary.value]


def test_tensorboard_files_have_every_score_and_hide_what_a_resumed_run_repeats(
    channels: Channels, tmp_path: Path
) -> None:
    for updates in (4, 8):
        train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": updates}, precision="fp32")
    folder = tmp_path / "model.checkpoints" / "tensorboard"
    names = ("train/perplexity", "validation/perplexity", "validation/accuracy")
    assert set(points(folder)) == {(name, step) for name in names for step in (4, 8)}
    assert [event.step for event in events(folder) if event.HasField("session_log")] == [5]


def test_a_clock_that_jumps_back_stops_neither_training_nor_tensorboard(
    channels: Channels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, jump = time.time, 0.0

    class Jump(TensorBoard):
        def on_update(self, progress: Progress, update: Update) -> None:
            nonlocal jump
            jump = 30 * 86400.0

    monkeypatch.setattr(time, "time", lambda: now() - jump)
    settings = {**SETTINGS, "max_num_batches": 60, "checkpoint_frequency_num_batches": 2, "checkpoint_threshold": 99}
    monitors = [Jump(tmp_path / "unused")]
    progress = train(channels, tmp_path / "model", settings, precision="fp32", monitors=monitors)
    assert progress.updates == 60
    assert len(points(tmp_path / "model.checkpoints" / "tensorboard")) == 30 * 3 + 2


def add_points(board: TensorBoard, count: int) -> None:
    for number in range(count):
        board.on_update(Progress(updates=number), Update(torch.tensor(1.0), 1, 1, 0.1))


def test_a_tensorboard_file_that_cannot_grow_gives_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = TensorBoard(tmp_path, interval=1)
    board.on_start(Progress())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        add_points(board, 1000)
        board.on_end(Progress(), "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [line.partition(":")[0] for line in caplog.messages] == ["training goes on without TensorBoard"]


def test_a_full_disk_under_tensorboard_does_not_stop_training(channels: Channels, tmp_path: Path) -> None:
    folder = tmp_path / "model.checkpoints" / "tensorboard"
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    settings = {"max_num_batches": 60, "checkpoint_frequency_num_batches": 1, "checkpoint_threshold": 99}
    options = [part for name, value in {**SETTINGS, **settings}.items() for part in ("-H", f"{name}={value}")]
    command = [
        sys.executable,
        "-m",
        "seqwright",
        "train",
        f"--data={tmp_path / 'data'}",
        f"--output={tmp_path / 'model'}",
    ]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True)
    finally:
        subprocess.run(["umount", folder], check=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training goes on without TensorBoard") == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_console_that_cannot_be_written_does_not_stop_training(
    channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("the terminal is gone")

    console = Console(file=Broken(), force_terminal=True)
    assert train(channels, tmp_path / "model", SHORT, precision="fp32", console=console).updates == 8
    assert caplog.text.count("training goes on without ProgressBar") == 1


def test_a_terminal_shows_a_bar(channels: Channels, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    train(channels, tmp_path / "model", SHORT, precision="fp32", console=console)
    assert isinstance(console.file, io.StringIO)
    assert "tokens/s" in console.file.getvalue()


@pytest.mark.parametrize(("options", "expected"), [("", True), (", console=None", False)])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_script_shows_progress_on_standard_error_unless_the_console_is_none(
    processes: int, options: str, expected: bool, tmp_path: Path
) -> None:
    prepared(tmp_path)
    script = f"""
from seqwright import Channels, train
if __name__ == "__main__":
    train(Channels.under("data"), "model", {SHORT}, precision="fp32", processes={processes}{options})
"""
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert ("#quality_metric" in done.stderr, "training ended after update 8" in done.stderr) == (expected, expected)
    assert expected or done.stderr == ""
    assert (tmp_path / "model" / "config.json").exists()


def test_a_program_with_its_own_logging_keeps_it(
    channels: Channels, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train(channels, tmp_path / "model", SHORT, precision="fp32")
    assert "training ended after update 8" in caplog.text
    assert capsys.readouterr() == ("", "")
