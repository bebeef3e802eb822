"""Two training processes with one thread each, against one process with two.

    python benchmarks/parallel.py --data DIR [--repeats 5] [--updates 50] [--batch-sizes 64 128 …]

`--data` is a folder that `seqwright prepare` wrote. The job is that of `speed.py`: an LSTM of 512 units and embeddings
of 512, fp32, by default 64 pairs per update. Both run in turn. The rate leaves out the first ten updates; with more
pairs per update there are fewer updates. Prints a table, and one JSON object on the last line.
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
    "max_seq_len_source": 60,
    "max_seq_len_target": 60,
    "checkpoint_frequency_num_batches": 1_000_000,
}
WARM = 10
"""Updates that are left out of the rate."""
USUAL = 64
"""The default number of pairs per update; `--updates` counts updates of this size."""


class Clock(Monitor):
    """Writes the time and the pairs of every update to a file, as it may run in another process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_update(self, progress: Progress, update: Update) -> None:
        """Note the time."""
        with self._path.open("a") as stream:
            stream.write(f"{time.monotonic()} {update.pairs}\n")

    def rate(self) -> float:
        """Pairs per second."""
        marks = [line.split() for line in self._path.read_text().splitlines()][WARM:]
        return sum(int(pairs) for _, pairs in marks[1:]) / (float(marks[-1][0]) - float(marks[0][0]))


def rate(data: Path, processes: int, updates: int, batch_size: int) -> float:
    """Pairs per second of a training run."""
    with tempfile.TemporaryDirectory(prefix="seqwright-parallel-") as folder:
        clock = Clock(Path(folder) / "clock")
        train(
            Channels.under(data),
            Path(folder) / "model",
            {**SETTINGS, "batch_size": batch_size, "max_num_batches": WARM + updates * USUAL // batch_size},
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
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[USUAL])
    options = parser.parse_args()
    rates: dict[int, list[tuple[float, float]]] = {size: [] for size in options.batch_sizes}
    for _ in range(options.repeats):
        for size, found in rates.items():
            one, two = (rate(options.data, processes, options.updates, size) for processes in (1, 2))
            found.append((one, two))
    table = Table("pairs per update", "one process", "two", "ratio of a turn", "from", "to", "target", box=None)
    for size, found in rates.items():
        one, two = (statistics.median(each) for each in zip(*found, strict=True))
        ratios = sorted(two / one for one, two in found)
        figures = (one, two, statistics.median(ratios), ratios[0], ratios[-1])
        table.add_row(
            str(size), *(f"{each:.{digits}f}" for each, digits in zip(figures, (1, 1, 2, 2, 2), strict=True)), "≥ 0.90"
        )
    Console(stderr=True).print(table)
    print(json.dumps({"cpus": os.cpu_count(), "torch": torch.__version__, "rates": rates}))


if __name__ == "__main__":
    main()
