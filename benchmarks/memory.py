"""Preparing and training on more pairs than memory would hold, under a hard limit.

    python benchmarks/memory.py [--pairs 20000000] [--gib 3] [--folder DIR]

Writes text of random words, prepares it, and trains a small model for a few updates on all of it in random order.
Each step has a process of its own with at most `--gib` GiB of writable memory (`RLIMIT_DATA`: heap and private
mappings; files that are mapped for reading do not count). Prints a line per step, and one JSON object on the last line.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WORDS = 30_000
BLOCK = 200_000
SETTINGS = ("rnn_num_hidden=64", "num_embed_source=32", "num_embed_target=32", "max_num_batches=20", "batch_size=64")


def write_text(path: Path, pairs: int, seed: int) -> None:
    """Lines of three to nine random words, common ones more often."""
    random = np.random.default_rng(seed)
    with path.open("w") as stream:
        for start in range(0, pairs, BLOCK):
            lengths = random.integers(3, 10, min(BLOCK, pairs - start))
            words = (WORDS * random.random(int(lengths.sum())) ** 3).astype(int).tolist()
            ends = np.cumsum(lengths).tolist()
            stream.writelines(
                " ".join([f"w{word}" for word in words[end - length : end]]) + "\n"
                for end, length in zip(ends, lengths.tolist(), strict=True)
            )


def limited(command: Sequence[object], gib: float) -> tuple[float, float]:
    """Run seqwright under the limit; returns the seconds, and the largest resident memory in GiB."""
    limit = int(gib * (1 << 30))
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "seqwright", *map(str, command)],
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed under {gib:g} GiB")
    return time.monotonic() - started, usage.ru_maxrss / (1 << 20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000_000)
    parser.add_argument("--gib", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, help="a folder with room for some gigabytes meanwhile")
    options = parser.parse_args()
    figures: dict[str, float] = {"pairs": options.pairs, "gib": options.gib}
    with tempfile.TemporaryDirectory(prefix="seqwright-memory-", dir=options.folder) as scratch:
        folder = Path(scratch)
        for number, (name, pairs) in enumerate((("train", options.pairs), ("val", 1000))):
            for side, suffix in enumerate(("src", "trg")):
                write_text(folder / f"{name}.{suffix}", pairs, 2 * number + side)
        text = [part for name in ("train", "val") for part in (f"--{name}-source", folder / f"{name}.src")]
        text += [part for name in ("train", "val") for part in (f"--{name}-target", folder / f"{name}.trg")]
        data, model = folder / "data", folder / "model"
        steps: dict[str, list[object]] = {
            "prepare": ["prepare", *text, "--output", data],
            "train": ["train", "--data", data, "--output", model, *(p for s in SETTINGS for p in ("-H", s))],
        }
        for name, command in steps.items():
            figures[f"{name}_seconds"], figures[f"{name}_gib"] = limited(command, options.gib)
            seconds, resident = figures[f"{name}_seconds"], figures[f"{name}_gib"]
            print(f"{name}: {seconds:.0f} s, at most {resident:.2f} GiB resident", file=sys.stderr)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
