"""Grapheme-to-phoneme quality on SIGMORPHON 2020 shared task 1 (Gorman et al. 2020).

    python benchmarks/sigmorphon.py --data DIR [--model rnn|cnn] [--languages ady bul …] [--split dev|test]

`DIR` holds `<language>_{train,dev,test}.tsv`, a word and its phones apart by spaces a line. One setting serves all
languages; it was chosen on the dev sets. Words are split into characters. Each language is trained on its training
set alone, the best checkpoint chosen by accuracy on the dev set, and the chosen split scored by word error rate: the
share of words whose phones are not exactly the reference. Prints a table, and one JSON object on the last line.
"""

import argparse
import json
import logging
import platform
import sys
import tempfile
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from seqwright.data.prepare import prepare
from seqwright.hyperparameters import parse_assignments
from seqwright.inference.translator import Translator
from seqwright.metrics import sequence_error_rate, token_error_rate
from seqwright.training.job import Channels, train

COMMON: dict[str, object] = {
    "max_seq_len_source": 60,
    "max_seq_len_target": 60,
    "optimized_metric": "accuracy",
    "checkpoint_threshold": 1000,
    "checkpoint_frequency_num_batches": 113,
    "lr_scheduler_type": "fixed_rate_inv_sqrt_t",
    "fixed_rate_lr_half_life": 1000,
}
SETTINGS: dict[str, dict[str, object]] = {
    "rnn": {
        **COMMON,
        "rnn_num_hidden": 256,
        "num_embed_source": 128,
        "num_embed_target": 128,
        "embed_dropout_source": 0.3,
        "embed_dropout_target": 0.3,
        "rnn_decoder_hidden_dropout": 0.3,
        "label_smoothing": 0.1,
        "batch_size": 32,
        "learning_rate": 0.002,
        "max_num_batches": 3000,
        "lr_cooldown_num_batches": 1500,
    },
    "cnn": {
        **COMMON,
        "encoder_type": "cnn",
        "decoder_type": "cnn",
        "num_layers_encoder": 3,
        "num_layers_decoder": 2,
        "cnn_kernel_width_encoder": 5,
        "cnn_num_hidden": 192,
        "num_embed_source": 128,
        "num_embed_target": 128,
        "embed_dropout_source": 0.3,
        "embed_dropout_target": 0.3,
        "cnn_hidden_dropout": 0.3,
        "label_smoothing": 0.1,
        "batch_size": 32,
        "learning_rate": 0.0015,
        "max_num_batches": 3400,
        "lr_cooldown_num_batches": 1700,
    },
}
PUBLISHED = {"ady": 28.00, "bul": 31.11, "fre": 6.22, "jpn": 7.56, "vie": 4.67}
"""Test word error rates of the shared task's LSTM baseline, tuned for each language over 36 settings."""


@dataclass(frozen=True)
class Score:
    """One language: errors in percent, and what training took."""

    language: str
    word_error_rate: float
    phone_error_rate: float
    updates: int
    best_updates: int
    training_seconds: float


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", choices=SETTINGS, default="rnn")
    parser.add_argument("--languages", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--split", choices=["dev", "test"], default="test")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-H", dest="changes", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    settings = {**SETTINGS[options.model], **parse_assignments(options.changes)}
    scores = []
    for language in options.languages:
        scores.append(measure(language, options.data, settings, options.split, options.seed))
        print(json.dumps(asdict(scores[-1])), file=sys.stderr)
    report(options.model, options.split, scores, settings)


def measure(language: str, data: Path, settings: dict[str, object], split: str, seed: int) -> Score:
    """Train on one language and score the split."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("train", "dev", split):
            write_text(data / f"{language}_{name}.tsv", folder / name)
        prepare(
            train_source=folder / "train.src",
            train_target=folder / "train.trg",
            validation_source=folder / "dev.src",
            validation_target=folder / "dev.trg",
            output=folder / "data",
        )
        started = time.monotonic()
        progress = train(Channels.under(folder / "data"), folder / "model", settings, seed=seed)
        seconds = time.monotonic() - started
        translator = Translator.load(folder / "model")
        sources, references = read(folder / f"{split}.src"), read(folder / f"{split}.trg")
        found = [translation.tokens for translation in translator.translate(sources)]
    return Score(
        language,
        sequence_error_rate(found, references),
        token_error_rate(found, references),
        progress.updates,
        progress.best_updates,
        seconds,
    )


def write_text(table: Path, stem: Path) -> None:
    """Split a table of words and phones into parallel text, words into their characters (NFC, a space as ▁)."""
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if line]
    words = ["▁".join(unicodedata.normalize("NFC", word).split()) for word, _ in rows]
    stem.with_suffix(".src").write_text("".join(" ".join(word) + "\n" for word in words), encoding="utf-8")
    stem.with_suffix(".trg").write_text("".join(phones + "\n" for _, phones in rows), encoding="utf-8")


def read(path: Path) -> list[list[str]]:
    """The tokens of every line."""
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


def report(model: str, split: str, scores: Sequence[Score], settings: dict[str, object]) -> None:
    """Print the table and the JSON."""
    table = Table("language", "WER %", "PER %", "published LSTM", "updates", "best at", "training s")
    for score in scores:
        published = f"{PUBLISHED[score.language]:.2f}" if score.language in PUBLISHED else ""
        table.add_row(
            score.language, f"{score.word_error_rate:.2f}", f"{score.phone_error_rate:.2f}", published,
            str(score.updates), str(score.best_updates), f"{score.training_seconds:.0f}",
        )  # fmt: skip
    mean = sum(score.word_error_rate for score in scores) / len(scores)
    known = [PUBLISHED[score.language] for score in scores if score.language in PUBLISHED]
    table.add_row("mean", f"{mean:.2f}", "", f"{sum(known) / len(known):.2f}" if len(known) == len(scores) else "")
    console = Console(width=100)
    console.print(f"{model} on {split}; {machine()}")
    console.print(table)
    print(json.dumps({"model": model, "split": split, "mean_word_error_rate": mean, "settings": settings,
                      "scores": [asdict(score) for score in scores]}))  # fmt: skip


def machine() -> str:
    """The machine's facts."""
    name = str(torch.cpu.get_capabilities().get("cpu_name", platform.processor()))
    return f"{name}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
