"""Training that is killed again and again ends where it would have ended."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.toy import SETTINGS, prepared

UPDATES = 300


def command(data: Path, output: Path, processes: int) -> list[str]:
    settings = {**SETTINGS, "max_num_batches": UPDATES, "checkpoint_frequency_num_batches": 3}
    settings |= {"rnn_decoder_hidden_dropout": 0.2, "checkpoint_threshold": UPDATES}
    chosen = [part for name, value in settings.items() for part in ("-H", f"{name}={value}")]
    arguments = ["train", "--data", str(data), "--output", str(output), "--precision", "fp32", *chosen]
    return [sys.executable, "-m", "seqwright", *arguments, "--processes", str(processes)]


def children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def trainers(pid: int) -> list[int]:
    """The processes that train, of those that a process started."""
    return [child for child in children(pid) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_for_writing(folder: Path, process: "subprocess.Popen[bytes]", half_written: bool) -> None:
    """Return when a checkpoint is being written, or has been written since."""
    before = set(folder.glob("checkpoint-*"))
    while process.poll() is None:
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
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    straight = tmp_path / "straight"
    subprocess.run(command(data, straight, processes), check=True, env=environment, capture_output=True)
    output, folder = tmp_path / "model", tmp_path / "model.checkpoints"
    killed = 0
    for number in range(kills):
        program = command(data, output, processes)
        with subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            wait_for_writing(folder, run, half_written=number % 3 == 0)
            time.sleep(0 if number % 3 == 0 else chance.uniform(0, 0.1))
            victims = [run.pid, *trainers(run.pid)] if processes > 1 else [run.pid]
            if run.poll() is None:
                os.kill(chance.choice(victims), signal.SIGKILL)
            killed += run.wait() in (-signal.SIGKILL, 1)  # 1: one of several was killed
    assert killed == kills
    subprocess.run(command(data, output, processes), check=True, env=environment, capture_output=True)
    for name in ("model.safetensors", "metrics.json"):
        assert (output / name).read_bytes() == (straight / name).read_bytes()
    last = f"checkpoint-{UPDATES:09d}"
    state = tmp_path / "straight.checkpoints" / last / "state.safetensors"
    assert (folder / last / "state.safetensors").read_bytes() == state.read_bytes()
    assert not list(folder.glob(".*.tmp"))
