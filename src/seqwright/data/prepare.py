"""Parallel text to training data: vocabularies and RecordIO files, as the original's script writes them.

The text is read once, a block of lines at a time. Words get provisional ids, and the text is kept as these ids in a
temporary file until all words are counted and the vocabularies are made. So memory holds the word counts and a block,
whatever the size of the text. The two sides of a large text are read by one process each.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from seqwright.data.sequences import Sequences
from seqwright.data.splits import SplitReport, SplitWriter, TextPair, write_pairs
from seqwright.data.text import read_blocks
from seqwright.data.vocabulary import Vocabulary
from seqwright.data.words import WordCounter, counting_in_subprocess, to_sequences
from seqwright.errors import ClientError
from seqwright.files import StrPath, new_folder, remove_leftovers, require_absent
from seqwright.locks import lock_path, locked

logger = logging.getLogger(__name__)

_LARGE = 16 << 20
"""Bytes of text that are worth a second process, which takes some tenths of a second to start."""

NUM_WORDS = 50_000
"""Default size of a vocabulary in words, the special tokens not counted."""

Blocks = tuple[Iterator[Sequences], Iterator[Sequences]]
"""The ids of the source and target side of a text, in blocks of lines."""


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` wrote.

    Attributes:
        train: the training pairs.
        validation: the validation pairs, `None` without any.
        source_vocabulary: the size of the source vocabulary, special tokens included.
        target_vocabulary: the size of the target vocabulary, special tokens included.
    """

    train: SplitReport
    validation: SplitReport | None
    source_vocabulary: int
    target_vocabulary: int


@dataclass(frozen=True)
class _VocabularyOptions:
    """How to make the vocabularies; the attributes are described at `prepare`."""

    single_vocab: bool = False
    num_words_source: int | None = NUM_WORDS
    num_words_target: int | None = NUM_WORDS
    word_min_count_source: int = 1
    word_min_count_target: int = 1

    def __post_init__(self) -> None:
        sizes = self.num_words_source, self.num_words_target, self.word_min_count_source, self.word_min_count_target
        for value in sizes:
            if value is not None and value < 1:
                raise ClientError(f"numbers of words and minimum counts start at 1, not {value}")


def prepare(
    *,
    train_source: StrPath,
    train_target: StrPath,
    output: StrPath,
    validation_source: StrPath | None = None,
    validation_target: StrPath | None = None,
    val_fraction: float | None = None,
    single_vocab: bool = False,
    num_words_source: int | None = NUM_WORDS,
    num_words_target: int | None = NUM_WORDS,
    word_min_count_source: int = 1,
    word_min_count_target: int = 1,
    vocab_source: StrPath | None = None,
    vocab_target: StrPath | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Turn parallel text, line `i` of one file a translation of line `i` of the other, into training data.

    Text is UTF-8, split on white space into tokens; only a line feed ends a line; files named `*.gz` are
    decompressed. A pair with an empty side is dropped. `output` becomes a folder with `train/train.rec`,
    `vocab/vocab.src.json`, `vocab/vocab.trg.json` and, given validation text or a fraction, `validation/val.rec`; it
    appears complete or not at all. Special tokens in the text, and the lack of validation pairs, give a warning each.

    Args:
        train_source: training text of the source language.
        train_target: training text of the target language.
        output: a folder that does not exist yet, or is empty.
        validation_source: validation text of the source language, given with `validation_target` or not at all.
        validation_target: validation text of the target language.
        val_fraction: the share of the training pairs to set aside as validation pairs, above 0 and below 1, in place
            of validation text. They are chosen at random, the same ones each time; their words are in the vocabularies.
        single_vocab: make one vocabulary of the words of both sides, by the options for the source.
        num_words_source: keep this many of the most frequent words, the special tokens not counted; `None` keeps all.
        num_words_target: the same for the target.
        word_min_count_source: leave words out of the vocabulary that occur less often.
        word_min_count_target: the same for the target.
        vocab_source: a vocabulary to use in place of a new one, given with `vocab_target` or not at all; the
            options above are for new ones alone.
        vocab_target: the same for the target.
        progress: called now and then with how many bytes have been read, and how many will be.

    Raises:
        ClientError: a file cannot be read, is not UTF-8 text, or has more lines than the other of its pair; a
            vocabulary is damaged; no pair is left; an option makes no sense; `output` cannot be written, or another
            process writes it.
    """
    output = Path(output)
    train_text = TextPair(Path(train_source), Path(train_target), "training")
    validation_text = _validation_text(validation_source, validation_target, val_fraction)
    options = _VocabularyOptions(
        single_vocab, num_words_source, num_words_target, word_min_count_source, word_min_count_target
    )
    given = _given_vocabularies(vocab_source, vocab_target, options)
    reading = _Progress(train_text.size + (validation_text.size if validation_text else 0), progress)
    with _exclusive(output), new_folder(output) as folder, ExitStack() as stack:
        if given:
            vocabularies, blocks = given, _read_ids(train_text, given, reading)
        else:
            new = _new_vocabularies(train_text, options, reading, folder)
            vocabularies, blocks = stack.enter_context(new)
        (folder / "vocab").mkdir()
        vocabularies[0].save(folder / "vocab" / "vocab.src.json")
        vocabularies[1].save(folder / "vocab" / "vocab.trg.json")
        train = SplitWriter(stack, folder / "train" / "train.rec")
        validation = None
        if validation_text or val_fraction:
            validation = SplitWriter(stack, folder / "validation" / "val.rec")
        if validation_text and validation:
            write_pairs(train_text, blocks, train)
            write_pairs(validation_text, _read_ids(validation_text, vocabularies, reading), validation)
        else:
            write_pairs(train_text, blocks, train, validation, val_fraction or 0.0)
    _warn(train, validation)
    return PrepareReport(
        train.report(), validation.report() if validation else None, len(vocabularies[0]), len(vocabularies[1])
    )


def _validation_text(source: StrPath | None, target: StrPath | None, val_fraction: float | None) -> TextPair | None:
    """The validation text, `None` if there is none."""
    if (source is None) != (target is None):
        raise ClientError("validation text needs both sides: give a source and a target file, or neither")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise ClientError(f"the fraction for validation is above 0 and below 1, 0.02 for example, not {val_fraction:g}")
    if source is None or target is None:
        return None
    if val_fraction is not None:
        raise ClientError("give validation text or the fraction of training pairs for validation, not both")
    return TextPair(Path(source), Path(target), "validation")


def _given_vocabularies(
    source: StrPath | None, target: StrPath | None, options: _VocabularyOptions
) -> tuple[Vocabulary, Vocabulary] | None:
    """The vocabularies that are to be used, `None` if new ones are to be made."""
    if (source is None) != (target is None):
        raise ClientError("vocabularies are needed for both sides: give a source and a target one, or neither")
    if source is None or target is None:
        return None
    if options != _VocabularyOptions():
        raise ClientError(
            "vocabularies that are given are used as they are: leave out the options that shape new ones, or the files"
        )
    return Vocabulary.load(source), Vocabulary.load(target)


@contextmanager
def _new_vocabularies(
    text: TextPair, options: _VocabularyOptions, reading: "_Progress", folder: Path
) -> Iterator[tuple[tuple[Vocabulary, Vocabulary], Blocks]]:
    """Make vocabularies of the words of a text; give them and the text's ids, from temporary files in `folder`."""
    with TemporaryFile(dir=folder) as first, TemporaryFile(dir=folder) as second, ExitStack() as stack:
        source_words = WordCounter()
        if options.single_vocab or text.size < _LARGE or (os.cpu_count() or 1) == 1:
            target_words = source_words if options.single_vocab else WordCounter()
            source_text = source_words.read(text.source, first, reading.advance)
            target_text = target_words.read(text.target, second, reading.advance)
        else:
            wait = stack.enter_context(counting_in_subprocess(text.target, folder / ".target"))
            source_text = source_words.read(text.source, first, reading.advance)
            target_words, target_text = wait()
            reading.advance(text.target.stat().st_size)
        source = target = source_words.vocabulary(options.num_words_source, options.word_min_count_source)
        if not options.single_vocab:
            target = target_words.vocabulary(options.num_words_target, options.word_min_count_target)
        source_ids, target_ids = source_words.final_ids(source), target_words.final_ids(target)
        yield (source, target), (source_text.read(source_ids), target_text.read(target_ids))


def _read_ids(text: TextPair, vocabularies: tuple[Vocabulary, Vocabulary], reading: "_Progress") -> Blocks:
    """The ids of both sides of a text, a block of lines at a time."""
    source, target = vocabularies
    return (
        (to_sequences(lines, source.ids) for lines in read_blocks(text.source, advance=reading.advance)),
        (to_sequences(lines, target.ids) for lines in read_blocks(text.target, advance=reading.advance)),
    )


def _warn(train: SplitWriter, validation: SplitWriter | None) -> None:
    """Log what a user would want to know of the data."""
    splits = {"training": train, **({"validation": validation} if validation else {})}
    found = [f"{tokens} of the {name} text" for name, split in splits.items() if (tokens := split.special_tokens())]
    if found:
        logger.warning(
            "the text has special tokens: %s. Training and translation add <s> and </s> themselves, and refuse <pad> "
            "between other words: remove them from the text and prepare it again",
            "; ".join(found),
        )
    if validation is None:
        logger.warning(
            "there are no validation pairs, and training needs some: give validation text, or the share of the "
            "training pairs to set aside for it (--val-fraction 0.02; in Python val_fraction=0.02)"
        )


@contextmanager
def _exclusive(output: Path) -> Iterator[None]:
    """Keep other processes from writing the same folder, and remove what a killed process has left of it."""
    require_absent(output)
    refusal = f"another process is preparing {output}: wait for its end, or name another folder"
    with locked(lock_path(output), refusal):
        remove_leftovers(output)
        yield


class _Progress:
    """How many of all bytes are read."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self.total = total
        self.done = 0
        self.report = report

    def advance(self, size: int) -> None:
        self.done += size
        if self.report is not None:
            self.report(self.done, self.total)
