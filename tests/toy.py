"""A toy task: reverse a short sequence of letters."""

import random
from pathlib import Path

from seqwright.data.prepare import prepare

SETTINGS: dict[str, object] = {
    "rnn_num_hidden": 16,
    "num_embed_source": 8,
    "num_embed_target": 8,
    "batch_size": 16,
    "learning_rate": 0.01,
    "checkpoint_frequency_num_batches": 4,
}


def write_text(folder: Path, pairs: int, seed: int = 1) -> None:
    """Write `train` and `val` text, source `.src` and target `.trg`, a pair a line."""
    generator = random.Random(seed)  # noqa: S311 - toy data, not secrets
    for name, count in (("train", pairs), ("val", max(8, pairs // 10))):
        sequences = [generator.choices("abcdefgh", k=generator.randint(1, 6)) for _ in range(count)]
        (folder / f"{name}.src").write_text("".join(" ".join(s) + "\n" for s in sequences))
        (folder / f"{name}.trg").write_text("".join(" ".join(reversed(s)) + "\n" for s in sequences))


def prepared(folder: Path, pairs: int = 200) -> Path:
    """Write the text and prepare it; returns the data folder."""
    write_text(folder, pairs)
    return prepare_text(folder)


def prepare_text(folder: Path) -> Path:
    """Prepare what `write_text` wrote; returns the data folder."""
    prepare(
        train_source=folder / "train.src",
        train_target=folder / "train.trg",
        validation_source=folder / "val.src",
        validation_target=folder / "val.trg",
        output=folder / "data",
    )
    return folder / "data"
