"""What training loses through faults: each fault in turn, and the final model compared with that of a run without.

    python -m benchmarks.faults

Trains a toy model with the command line, one process per run, and causes the faults of the table. Then the same command
runs again without the fault. "Nothing" is lost if the final weights equal, bit for bit, those of a run without faults.
The full disk is a small file system in memory; it is left out without the rights of root, which mounting needs.
Prints a Markdown table; the exit status is 1 if anything was lost.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from seqwright.artifacts import load_model
from tests.s3 import S3, Fault, failing, slow
from tests.toy import SETTINGS, prepare_text, prepared, write_text
from tests.training.test_kills import trainers

UPDATES = 60
TRAINED = {**SETTINGS, "max_num_batches": UPDATES, "rnn_decoder_hidden_dropout": 0.2, "checkpoint_threshold": UPDATES}


class Job:
    """A training command and its results.

    Args:
        folder: the folder for everything it writes.
        data: the channels.
        processes: how many train.
        settings: hyperparameters in addition to the usual ones.
    """

    def __init__(self, folder: Path, data: str, processes: int, settings: Mapping[str, object]) -> None:
        self.folder = folder
        self.output = folder / "model"
        chosen = {**TRAINED, **settings}
        self.command = [sys.executable, "-m", "seqwright", "train", "--data", data, "--output", str(self.output)]
        self.command += ["--precision", "fp32", "--processes", str(processes)]
        self.command += [part for name, value in chosen.items() for part in ("-H", f"{name}={value}")]
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(self.folder.glob("model.checkpoints/checkpoint-*"))

    def start(self) -> "subprocess.Popen[str]":
        """Begin, or go on."""
        self.folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            self.command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def run(self, find: str = "") -> tuple[int, str]:
        """Run to the end; returns the exit status, and the last line of the log that contains `find`."""
        with self.start() as process:
            _, log = process.communicate()
        return process.returncode, _last(log, find)

    def start_and_wait(self, count: int) -> "subprocess.Popen[str]":
        """Begin, and return when there are `count` checkpoints."""
        process = self.start()
        while len(self.checkpoints) < count and process.poll() is None:
            time.sleep(0.01)
        return process

    def weights(self) -> bytes:
        """The parameters at the end."""
        return (self.output / "model.safetensors").read_bytes()


def _last(log: str, find: str = "") -> str:
    return next((line for line in reversed(log.splitlines()) if find in line), "")


@dataclass
class Row:
    """A line of the table."""

    fault: str
    said: str
    lost: str


class Trials:
    """All faults, one after the other.

    Args:
        folder: a temporary folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = prepared(folder)
        self.rows: list[Row] = []
        self._quiet: dict[int, bytes] = {}

    def job(self, name: str, processes: int = 1, data: str = "", **settings: object) -> Job:
        """A job with its own folder."""
        return Job(self.folder / name, data or str(self.data), processes, settings)

    def quiet(self, processes: int = 1) -> bytes:
        """The weights of a run without faults."""
        if processes not in self._quiet:
            job = self.job(f"quiet {processes}", processes)
            status, log = job.run()
            assert status == 0, log
            self._quiet[processes] = job.weights()
        return self._quiet[processes]

    def note(self, fault: str, said: str, job: Job, processes: int = 1) -> None:
        """Run the command again, and compare."""
        status, log = job.run()
        same = status == 0 and job.weights() == self.quiet(processes)
        self.add(fault, said, "nothing" if same else f"THE RUN: {log}")

    def add(self, fault: str, said: str, lost: str) -> None:
        """Add a line to the table."""
        said = said.replace(str(self.folder), "…").replace("|", "/")
        self.rows.append(Row(fault, said, lost))
        print(f"{fault}: {said}: {lost}", file=sys.stderr)

    def kill(self) -> None:
        """SIGKILL in the middle."""
        job = self.job("kill")
        with job.start_and_wait(2) as process:
            process.kill()
        self.note("killed (SIGKILL)", f"exit status {process.returncode}", job)

    def terminate(self) -> None:
        """SIGTERM in the middle."""
        job = self.job("terminate")
        with job.start_and_wait(2) as process:
            process.send_signal(signal.SIGTERM)
            process.communicate()
        self.note("told to end (SIGTERM)", f"exit status {process.returncode}", job)

    def lose_process(self) -> None:
        """One of two trainers killed."""
        job = self.job("lost", 2)
        with job.start_and_wait(2) as process:
            os.kill(trainers(process.pid)[1], signal.SIGKILL)
            _, log = process.communicate()
        self.note("one of two processes killed", _last(log), job, 2)

    def fill_disk(self) -> None:
        """A disk of 300 kB for model and checkpoints."""
        job = self.job("disk")
        job.folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(job.folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            print("no file system can be mounted here: the full disk is left out", file=sys.stderr)
            return
        try:
            status, log = job.run()
            assert status == 2, log
            subprocess.run(["mount", "-o", "remount,size=30m", str(job.folder)], check=True)
            self.note("disk full", log, job)
        finally:
            subprocess.run(["umount", str(job.folder)], check=True)

    def damage_checkpoint(self) -> None:
        """The newest checkpoint cut short."""
        job = self.job("checkpoint")
        with job.start_and_wait(3) as process:
            process.kill()
        tensors = job.checkpoints[-1] / "state.safetensors"
        os.truncate(tensors, tensors.stat().st_size // 2)
        self.note("newest checkpoint damaged", "a warning, and the one before is taken", job)

    def damage_record(self) -> None:
        """A byte of the data changed, and changed back."""
        job = self.job("record")
        path = next((self.data / "train").glob("*.rec"))
        content = path.read_bytes()
        path.write_bytes(content[:4000] + b"\xff" * 8 + content[4008:])
        status, log = job.run()
        assert status == 2, log
        path.write_bytes(content)
        self.note("damaged record", log, job)

    def s3(self, name: str, fault: Fault, said: str) -> None:
        """Data, checkpoints and model on S3 that fails."""
        made = S3()
        made.start()
        try:
            job = self.job(name, data="s3://corpora/data")
            job.environment |= {
                "AWS_ENDPOINT_URL": made.url,
                "AWS_ACCESS_KEY_ID": "someone",
                "AWS_SECRET_ACCESS_KEY": "whisper",
                "SEQWRIGHT_CACHE": str(self.folder / f"{name} cache"),
            }
            os.environ |= {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "whisper"}
            client = made.client()
            client.create_bucket(Bucket="corpora")
            for path in sorted(self.data.rglob("*")):
                if path.is_file():
                    client.put_object(
                        Bucket="corpora", Key=f"data/{path.relative_to(self.data).as_posix()}", Body=path.read_bytes()
                    )
            made.fault = fault
            self.note(name, said, job)
        finally:
            made.close()

    def poison(self) -> None:
        """A few pairs with a word whose vector is so large that the loss is no number."""
        folder = self.folder / "poisoned"
        folder.mkdir()
        write_text(folder, 200)
        for side in ("src", "trg"):
            with (folder / f"train.{side}").open("a") as stream:
                stream.write("z a\n" * 3)
        prepare_text(folder)
        (folder / "vectors.txt").write_text("z" + 8 * " 3e38" + "\n")
        job = self.job("poison", data=str(folder / "data"), encoder_type="cnn", decoder_type="cnn", cnn_num_hidden=16)
        job.command += ["--vectors-source", str(folder / "vectors.txt")]
        status, log = job.run(find="skipped")
        left = status == 0 and log and load_model(job.output)
        self.add("loss not finite in some batches", log, "nothing" if left else f"THE RUN: {log}")


def main() -> None:
    """Try everything and print the table."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="seqwright-faults-") as scratch:
        trials = Trials(Path(scratch))
        every: list[Callable[[], None]] = [
            trials.kill,
            trials.terminate,
            trials.lose_process,
            trials.fill_disk,
            trials.damage_checkpoint,
            trials.damage_record,
            lambda: trials.s3("S3 refuses 8 requests (503)", failing(8), "a warning each, tried again"),
            lambda: trials.s3("S3 answers after 0.3 s", slow, "nothing, it takes longer"),
            trials.poison,
        ]
        for trial in every:
            trial()
    print("| fault | what the run said | what was lost in the end |\n|---|---|---|")
    for row in trials.rows:
        print(f"| {row.fault} | {row.said} | {row.lost} |")
    print(json.dumps({"faults": len(trials.rows), "lost": sum(row.lost != "nothing" for row in trials.rows)}))
    sys.exit(any(row.lost != "nothing" for row in trials.rows))


if __name__ == "__main__":
    main()
