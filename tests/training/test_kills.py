"""Training that is killed again and again ends where it would have ended."""

import multiprocessing
import os
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from seqwright.cli import main
from seqwright.training.launch import PRELOADED
from tests.toy import SETTINGS, prepared

UPDATES = 300


def command(data: Path, output: Path, processes: int) -> list[str]:
    settings = {**SETTINGS, "max_num_batches": UPDATES, "checkpoint_frequency_num_batches": 3}
    settings |= {"rnn_decoder_hidden_dropout": 0.2, "checkpoint_threshold": UPDATES}
    chosen = [part for name, value in settings.items() for part in ("-H", f"{name}={value}")]
    arguments = ["train", "--data", str(data), "--output", str(output), "--precision", "fp32", *chosen]
    return [*arguments, "--processes", str(processes)]


def seqwright(arguments: list[str]) -> None:
    """The command, in a process of its own."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    sys.argv = ["seqwright", *arguments]
    main()


def start(arguments: list[str]) -> BaseProcess:
    """Start the command without the seconds that importing PyTorch takes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=seqwright, args=(arguments,))
    process.start()
    return process


def finish(arguments: list[str]) -> None:
    process = start(arguments)
    process.join()
    assert process.exitcode == 0


def children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def trainers(pid: int) -> list[int]:
    """The processes that train in a run: itself, or what the server forked that it started."""
    return [grandchild for child in children(pid) for grandchild in children(child)] or [pid]


def wait_for_writing(folder: Path, process: BaseProcess, half_written: bool) -> None:
    """Return when a checkpoint is being written, or has been written since."""
    before = set(folder.glob("checkpoint-*"))
    while process.is_alive():
        if list(folder.glob(".checkpoint-*.tmp/*")) if half_written else set(folder.glob("checkpoint-*")) - before:
            return
        time.sleep(0 if half_written else 0.005)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes under /proc")
@pytest.mark.parametrize(("processes", "kills"), [(1, 12), (2, 8)])
def test_a_run_that_is_killed_at_random_ends_bit_for_bit_as_if_it_were_not(
    processes: int, kills: int, tmp_path: Path
) -> None:
    chance = random.Random(processes)  # noqa: S311 - moments, not secrets
    data = prepared(tmp_path)
    straight = tmp_path / "straight"
    finish(command(data, straight, processes))
    output, folder = tmp_path / "model", tmp_path / "model.checkpoints"
    killed = 0
    for number in range(kills):
        run = start(command(data, output, processes))
        assert run.pid is not None
        wait_for_writing(folder, run, half_written=number % 3 == 0)
        time.sleep(0 if number % 3 == 0 else chance.uniform(0, 0.1))
        if run.is_alive():
            os.kill(chance.choice([run.pid, *trainers(run.pid)]), signal.SIGKILL)
        run.join()
        killed += run.exitcode in (-signal.SIGKILL, 1)  # 1: one of several was killed
    assert killed == kills
    finish(command(data, output, processes))
    for name in ("model.safetensors", "metrics.json"):
        assert (output / name).read_bytes() == (straight / name).read_bytes()
    last = f"checkpoint-{UPDATES:09d}"
    state = tmp_path / "straight.checkpoints" / last / "state.safetensors"
    assert (folder / last / "state.safetensors").read_bytes() == state.read_bytes()
    assert not list(folder.glob(".*.tmp"))
