"""How fast training, translation and data preparation are, beside the peers that are installed.

    python benchmarks/speed.py --data DIR [--peers DIR] [--repeats 5] [--jobs train translate …] [--precision auto]
                               [--model DIR]

`--data` holds Multi30k English-German in BPE: `train.bpe.en.gz`, `train.bpe.de.gz`, and the same for `val` and
`test_2016_flickr`. `--peers` holds a virtual environment for each peer to compare with, `sockeye` (1.18) and
`fairseq` (0.12); without it, only seqwright is measured.

Translation is of one model, with beam 5: one that Sockeye trained (`--sockeye-model`, or else the one of the job
`train`), imported, so that both sides do the same work and give the same lines.

The job is an LSTM of 512 units, embeddings of 512, one layer each side, mlp attention and input feeding (fairseq: its
own dot attention), Adam, 64 pairs an update; `train-cnn` takes three convolutions of 512 channels each side. Ours and
each peer's run in turn, `--repeats` times, and the medians are compared. A peer's rate is what its own log says after
its first line.

The job `quality` says what speed costs: validation perplexity after 300 updates in bf16 and in fp32, another seed each
time; and BLEU on the test set of the fast search, in both, and of the plain search, with the model of those updates or
a better one (`--model`). Where the processor has no bf16 instructions, what they compute is computed in fp32.

Prints a table, and one JSON object on the last line.
"""

import argparse
import gzip
import json
import logging
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from speed_jobs import BEAM, CPU, LONE, QUALITY_UPDATES, peak_rate

from seqwright.data.corpus import load_channel, load_vocabularies
from seqwright.data.prepare import prepare
from seqwright.devices import computes_in_bf16
from seqwright.importers.sockeye import import_sockeye


@dataclass
class Row:
    """One figure, ours and the peers', every repeat's.

    Attributes:
        name: what is measured.
        unit: its unit.
        runs: values by who made them; `seqwright` is ours.
    """

    name: str
    unit: str
    runs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, who: str, value: float) -> None:
        """Note a value."""
        self.runs.setdefault(who, []).append(value)
        print(f"{self.name}: {who} {value:,.2f} {self.unit}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--sockeye-model", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--updates", type=int, default=60, help="updates of a training run")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--model", type=Path, help="a model of seqwright's, for the BLEU of the job quality")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="seqwright-speed-") as scratch:
        bench = Bench(options, Path(scratch))
        for job in options.jobs:
            JOBS[job](bench)
    report(bench.rows, options.precision)


class Bench:
    """The text and prepared data, and the figures so far."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options = options
        self.scratch = scratch
        self.rows: list[Row] = []
        for name in ("train", "val", "test_2016_flickr"):
            for side in ("en", "de"):
                packed = options.data / f"{name}.bpe.{side}.gz"
                with gzip.open(packed) as source, self.text(name, side).open("wb") as target:
                    shutil.copyfileobj(source, target)
        self.data = scratch / "data"
        prepare(
            train_source=self.text("train", "en"),
            train_target=self.text("train", "de"),
            validation_source=self.text("val", "en"),
            validation_target=self.text("val", "de"),
            output=self.data,
        )

    def text(self, name: str, side: str) -> Path:
        """A text file."""
        return self.scratch / f"{name}.{side}"

    def row(self, name: str, unit: str) -> Row:
        """A new row."""
        self.rows.append(Row(name, unit))
        return self.rows[-1]

    def child(self, job: str, data: Path | None = None, updates: int | None = None, seed: int = 1) -> dict[str, float]:
        """Run a job of ours in a process of its own."""
        program = Path(__file__).with_name("speed_jobs.py")
        command = [sys.executable, str(program), job, "--data", str(data or self.data), "--seed", str(seed)]
        command += ["--updates", str(updates or self.options.updates), "--precision", self.options.precision]
        if self.options.model:
            command += ["--model", str(self.options.model.resolve())]
        found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return found

    def peer(self, name: str, *arguments: str) -> str | None:
        """Run a module of a peer's environment; its output, or None where it is not installed."""
        python = self.options.peers / name / "bin" / "python" if self.options.peers else None
        if python is None or not python.exists():
            return None
        done = subprocess.run([python, *arguments], cwd=self.scratch, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
        return done.stdout + done.stderr


def run_train(bench: Bench) -> None:
    """Training the recurrent model."""
    row = bench.row("train, LSTM 512", "pairs/s")
    share = bench.row("… of the peak of matrix products", "%")
    over_state = bench.row("peak memory over parameters, gradients and Adam's state", "times")
    memory = bench.row("… and what the longest batch keeps for its backward pass", "times")
    for _ in range(bench.options.repeats):
        ours = bench.child("train")
        row.add("seqwright", ours["pairs_per_second"])
        share.add("seqwright", ours["peak_share"])
        over_state.add("seqwright", ours["memory_over_state"])
        memory.add("seqwright", ours["memory_ratio"])
        updates = str(bench.options.updates)
        log = bench.peer(
            "sockeye", "-m", "sockeye.train", "--source", "train.en", "--target", "train.de",
            "--validation-source", "val.en", "--validation-target", "val.de", "--output", "sockeye-model",
            "--encoder", "rnn", "--decoder", "rnn", "--num-layers", "1:1", "--rnn-num-hidden", "512",
            "--num-embed", "512:512", "--rnn-attention-type", "mlp", "--batch-type", "sentence", "--batch-size", "64",
            "--max-seq-len", "60:60", "--optimizer", "adam", "--initial-learning-rate", "0.0003",
            "--checkpoint-frequency", updates, "--max-updates", updates, "--use-cpu", "--overwrite-output",
            "--label-smoothing", "0", "--decode-and-evaluate", "0",
        )  # fmt: skip
        if log and (found := re.findall(r"Speed: ([0-9.]+)", log)[1:] or re.findall(r"Speed: ([0-9.]+)", log)):
            row.add("sockeye", statistics.median(map(float, found)))
        if rate := fairseq_rate(bench, "lstm", "--encoder-embed-dim", "512", "--decoder-embed-dim", "512",
                                "--decoder-out-embed-dim", "512", "--encoder-hidden-size", "256",
                                "--encoder-bidirectional", "--encoder-layers", "1", "--decoder-hidden-size", "512",
                                "--decoder-layers", "1", "--dropout", "0"):  # fmt: skip
            row.add("fairseq", rate)


def run_train_cnn(bench: Bench) -> None:
    """Training the convolutional model."""
    row = bench.row("train, CNN 3 x 512", "pairs/s")
    layers = "[(512, 3)] * 3"
    for _ in range(bench.options.repeats):
        row.add("seqwright", bench.child("train-cnn")["pairs_per_second"])
        if rate := fairseq_rate(bench, "fconv", "--encoder-embed-dim", "512", "--decoder-embed-dim", "512",
                                "--decoder-out-embed-dim", "512", "--encoder-layers", layers,
                                "--decoder-layers", layers, "--dropout", "0"):  # fmt: skip
            row.add("fairseq", rate)


def fairseq_rate(bench: Bench, architecture: str, *shape: str) -> float | None:
    """Pairs a second that fairseq logs, the first line aside."""
    if bench.options.peers is None:
        return None
    if not (bench.scratch / "fairseq-data").exists():
        bench.peer(
            "fairseq", "-m", "fairseq_cli.preprocess", "--source-lang", "en", "--target-lang", "de", "--trainpref",
            "train", "--validpref", "val", "--testpref", "test_2016_flickr", "--destdir", "fairseq-data",
        )  # fmt: skip
    model = f"fairseq-{architecture}"
    shutil.rmtree(bench.scratch / model, ignore_errors=True)
    log = bench.peer(
        "fairseq", "-m", "fairseq_cli.train", "fairseq-data", "--cpu", "--arch", architecture, *shape,
        "--optimizer", "adam", "--lr", "0.0003", "--batch-size", "64", "--max-update", str(bench.options.updates),
        "--log-format", "simple", "--log-interval", "10", "--save-dir", model, "--no-epoch-checkpoints",
        "--num-workers", "1", "--clip-norm", "1.0", "--criterion", "cross_entropy", "--disable-validation",
    )  # fmt: skip
    found = re.findall(r"\bups=([0-9.]+)", log or "")[1:]
    return 64 * statistics.median(map(float, found)) if found else None


def run_translate(bench: Bench) -> None:
    """Translating a thousand sentences at a time and one at a time, with a model that Sockeye trained.

    fairseq has its own, of as many updates. After few updates the two differ in how long their translations are, and so
    in the work: only models that have learned more can be compared.
    """
    model = bench.options.sockeye_model or bench.scratch / "sockeye-model"
    if not model.exists():
        print("translate: no model of Sockeye's; run the job train with --peers first", file=sys.stderr)
        return
    import_sockeye(model, bench.data / "imported")
    lines = bench.text("test_2016_flickr", "en").read_text(encoding="utf-8").splitlines()
    (bench.data / "test").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (bench.scratch / "hundred").write_text("\n".join(lines[:LONE]) + "\n", encoding="utf-8")
    bulk = bench.row("translate 1,000 sentences, beam 5", "sentences/s")
    lone = bench.row("one sentence at a time, beam 5", "sentences/s")
    for _ in range(bench.options.repeats):
        ours = bench.child("translate")
        bulk.add("seqwright", ours["sentences_per_second"])
        lone.add("seqwright", 1 / ours["lone_p50"])
        for row, name, size in ((bulk, bench.data / "test", "16"), (lone, bench.scratch / "hundred", "1")):
            log = bench.peer(
                "sockeye", "-m", "sockeye.translate", "--models", str(model), "--input", str(name), "--output",
                "sockeye-output", "--use-cpu", "--beam-size", str(BEAM), "--batch-size", size, "--max-input-len", "60",
            )  # fmt: skip
            if found := re.search(r"sent/sec: ([0-9.]+)", log or ""):
                row.add("sockeye", float(found[1]))
        if (bench.scratch / "fairseq-lstm").exists():
            log = bench.peer(
                "fairseq", "-c", FAIRSEQ_GENERATE, "fairseq-data", "--cpu", "--path", "fairseq-lstm/checkpoint_last.pt",
                "--beam", str(BEAM), "--batch-size", "64", "--gen-subset", "test",
            )  # fmt: skip
            if found := re.search(r"([0-9.]+) sentences/s", log or ""):
                bulk.add("fairseq", float(found[1]))


FAIRSEQ_GENERATE = """
import functools, torch
torch.load = functools.partial(torch.load, weights_only=False)  # what it saved itself
from fairseq_cli.generate import cli_main
cli_main()
"""


def run_prepare(bench: Bench) -> None:
    """Preparing a million pairs, reading them back, and starting to train on them."""
    for side in ("en", "de"):
        lines = bench.text("train", side).read_bytes()
        bench.text("million", side).write_bytes(lines * -(-1_000_000 // lines.count(b"\n")))
    pairs = bench.text("million", "en").read_bytes().count(b"\n")
    written, read = bench.row("prepare, 1 M pairs", "pairs/s"), bench.row("read a .rec of 1 M pairs", "pairs/s")
    start = bench.row("start to first update, 1 M pairs, over import torch", "s")
    for number in range(bench.options.repeats):
        output = bench.scratch / f"million-{number}"
        started = time.perf_counter()
        prepare(
            train_source=bench.text("million", "en"),
            train_target=bench.text("million", "de"),
            validation_source=bench.text("val", "en"),
            validation_target=bench.text("val", "de"),
            output=output,
        )
        written.add("seqwright", pairs / (time.perf_counter() - started))
        sizes = [len(vocabulary) for vocabulary in load_vocabularies(output / "vocab")]
        started = time.perf_counter()
        corpus = load_channel(
            output / "train", source_vocab_size=sizes[0], target_vocab_size=sizes[1], cache=output / "cache"
        )
        read.add("seqwright", len(corpus) / (time.perf_counter() - started))
        bench.child("train", output, updates=1)
        launched = time.time()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        imported = time.time()
        first = bench.child("train", output, updates=1)["first_update"]
        start.add("seqwright", (first - imported) - (imported - launched))
        shutil.rmtree(output)


def run_quality(bench: Bench) -> None:
    """What bf16 and the fast search cost in perplexity and BLEU."""
    shutil.copy(bench.text("test_2016_flickr", "en"), bench.data / "test")
    shutil.copy(bench.text("test_2016_flickr", "de"), bench.data / "reference")
    worse = bench.row(f"validation perplexity after {QUALITY_UPDATES} updates, bf16 over fp32", "% more")
    plain = bench.row("BLEU of the plain search in fp32", "BLEU")
    changes = {
        precision: bench.row(f"… and of the fast search in {precision}", "more") for precision in ("fp32", "bf16")
    }
    for number in range(bench.options.repeats):
        found = bench.child("quality", updates=QUALITY_UPDATES, seed=number + 1)
        worse.add("seqwright", 100 * (found["perplexity, bf16"] / found["perplexity, fp32"] - 1))
        plain.add("seqwright", found["BLEU, plain"])
        for precision, row in changes.items():
            row.add("seqwright", found[f"BLEU, {precision}"] - found["BLEU, plain"])


def run_products(bench: Bench) -> None:
    """The machine's limit, in fp32 and bf16."""
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not computes_in_bf16(CPU):
            continue  # a hundred times slower: no limit of anything
        row = bench.row(f"matrix product 1024³, {str(dtype).removeprefix('torch.')}", "GFLOP/s")
        for _ in range(max(5, bench.options.repeats)):
            row.add("seqwright", peak_rate(dtype))


JOBS: dict[str, Callable[[Bench], None]] = {
    "products": run_products,
    "train": run_train,
    "train-cnn": run_train_cnn,
    "translate": run_translate,
    "prepare": run_prepare,
    "quality": run_quality,
}


def report(rows: list[Row], precision: str) -> None:
    """Print the table and the JSON."""
    peers = sorted({who for row in rows for who in row.runs} - {"seqwright"})
    table = Table("median", "unit", "seqwright", *(f"{peer}, ratio" for peer in peers))
    for row in rows:
        ours = statistics.median(row.runs["seqwright"])
        theirs = [statistics.median(row.runs[peer]) if peer in row.runs else None for peer in peers]
        table.add_row(
            row.name,
            row.unit,
            f"{ours:,.{1 if abs(ours) >= 10 else 2}f}",
            *("" if t is None else f"{t:,.1f}, {ours / t:.2f}" for t in theirs),
        )
    console = Console(width=110)
    console.print(f"{machine()}, precision {precision}")
    console.print(table)
    print(json.dumps({"machine": machine(), "precision": precision, "rows": [asdict(row) for row in rows]}))


def machine() -> str:
    """The machine's facts."""
    name = str(torch.cpu.get_capabilities().get("cpu_name", platform.processor()))
    flags = ", ".join(k for k in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(k))
    threads = torch.get_num_threads()
    return f"{name} ({flags}), {os.cpu_count()} cores, {threads} threads, PyTorch {torch.__version__}"


if __name__ == "__main__":
    main()
