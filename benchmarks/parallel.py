"""Two training processes with one thread each, against one process with two.

    python benchmarks/parallel.py --data DIR [--repeats 5] [--updates 60]

`--data` is a folder that `seqwright prepare` made. The job is that of `speed.py`: an LSTM of 512 units and embeddings
of 512, 64 pairs an update, fp32. Both run in turn; the rate is that of the updates after the first ten. Prints a table,
and one JSON object on the last line.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from seqwright.training.job import Channels, train
from seqwright.training.progress import Monitor, Progress, Update

SETTINGS: dict[str, object] = {
    "rnn_num_hidden": 512,
    "num_embed_source": 512,
    "num_embed_target": 512,
    "batch_size": 64,
    "max_seq_len_source": 60,
    "max_seq_len_target": 60,
    "checkpoint_frequency_num_batches": 1_000_000,
}
WARM = 10
"""Updates that do not count."""


class Clock(Monitor):
    """Writes time and pairs after every update to a file, from whichever process it is in."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_update(self, progress: Progress, update: Update) -> None:
        """Note the time."""
        with self._path.open("a") as stream:
            stream.write(f"{time.monotonic()} {update.pairs}\n")

    def rate(self) -> float:
        """Pairs a second."""
        marks = [line.split() for line in self._path.read_text().splitlines()][WARM:]
        return sum(int(pairs) for _, pairs in marks[1:]) / (float(marks[-1][0]) - float(marks[0][0]))


def rate(data: Path, processes: int, updates: int) -> float:
    """Pairs a second of a training run."""
    with tempfile.TemporaryDirectory(prefix="seqwright-parallel-") as folder:
        clock = Clock(Path(folder) / "clock")
        train(
            Channels.under(data),
            Path(folder) / "model",
            {**SETTINGS, "max_num_batches": updates},
            cache=data / "cache",
            precision="fp32",
            processes=processes,
            monitors=[clock],
        )
        return clock.rate()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=60)
    options = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.repeats):
        for processes, found in rates.items():
            found.append(rate(options.data, processes, options.updates))
    one, two = (statistics.median(found) for found in rates.values())
    ratio = statistics.median(two / one for one, two in zip(rates[1], rates[2], strict=True))
    table = Table("median", "pairs/s", "ratio of a turn", "target", box=None)
    table.add_row("one process, two threads", f"{one:.1f}", "", "")
    table.add_row("two processes, one thread each", f"{two:.1f}", f"{ratio:.2f}", "≥ 0.90")
    Console(stderr=True).print(table)
    print(json.dumps({"cpus": os.cpu_count(), "torch": torch.__version__, "rates": rates}))


if __name__ == "__main__":
    main()
