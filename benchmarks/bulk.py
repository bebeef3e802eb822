"""Translating a file in several processes, against one with as many threads.

    python benchmarks/bulk.py --model MODEL --sentences FILE [--processes 2] [--repeats 5] [--copies 1]

`FILE` has one source sequence a line; it is translated `--copies` times over. Both are what `seqwright translate` does,
from file to file, in turn; the rate is that of a second run, when everything is loaded, and the start is what the first
run takes more. The outputs are compared. Prints a table, and one JSON object on the last line.
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

from seqwright.inference.bulk import translate_file
from seqwright.inference.pool import load_translators


def measure(model: Path, source: Path, target: Path, processes: int) -> tuple[float, float]:
    """Seconds that loading and the first run take more than the second, and the second's."""
    started = time.perf_counter()
    with load_translators(model, processes=str(processes)) as translator:
        translate_file(translator, source=source, target=target)
        between = time.perf_counter()
        translate_file(translator, source=source, target=target)
        took = time.perf_counter() - between
    return between - started - took, took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sentences", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copies", type=int, default=1)
    options = parser.parse_args()
    turns: list[tuple[tuple[float, float], tuple[float, float]]] = []
    with tempfile.TemporaryDirectory(prefix="seqwright-bulk-") as folder:
        source, one, two = (Path(folder, name) for name in ("source", "one", "several"))
        source.write_bytes(options.sentences.read_bytes() * options.copies)
        count = source.read_bytes().count(b"\n")
        for _ in range(options.repeats):
            alone = measure(options.model, source, one, 1)
            turns.append((alone, measure(options.model, source, two, options.processes)))
        differing = sum(a != b for a, b in zip(one.open(), two.open(), strict=True))
    table = Table("", "1 process", f"{options.processes} processes", "ratio of a turn", "from", "to", box=None)
    rates = [(count / alone[1], count / several[1]) for alone, several in turns]
    ratios = sorted(several / alone for alone, several in rates)
    medians = [f"{statistics.median(each):.0f}" for each in zip(*rates, strict=True)]
    table.add_row("sentences/s", *medians, *(f"{x:.2f}" for x in (statistics.median(ratios), ratios[0], ratios[-1])))
    starts = [f"{statistics.median(turn[i][0] for turn in turns):.1f}" for i in range(2)]
    table.add_row("start, s", *starts)
    table.add_row("lines that differ", "", f"{differing} of {count}")
    Console(stderr=True).print(table)
    print(json.dumps({"cpus": os.cpu_count(), "torch": torch.__version__, "sentences": count, "turns": turns}))


if __name__ == "__main__":
    main()
