"""Parallel text to training data: vocabularies and RecordIO files, as the original's script writes them.

The text is read once, a block of lines at a time. Words are numbered as they appear and the numbers kept in a
temporary file, until all words are counted and the vocabulary knows the id of every number. Memory holds the
word counts and a block, whatever the size of the text. The two sides of a large text are read by a process each.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray

from seqwright.data.recordio import encode_records
from seqwright.data.sequences import Sequences
from seqwright.data.text import read_blocks
from seqwright.data.vocabulary import UNK, Vocabulary
from seqwright.data.words import Words, split, spooling_apart
from seqwright.errors import ClientError
from seqwright.files import describe_os_errors, new_folder, remove_leftovers, require_absent, writing
from seqwright.locks import lock_path, locked

_LARGE = 16 << 20
"""Bytes of text that are worth a second process, which takes some tenths of a second to start."""

NUM_WORDS = 50_000
"""How many words a vocabulary keeps unless told, the special tokens not counted."""


@dataclass(frozen=True)
class SplitReport:
    """What became of one pair of text files.

    Attributes:
        pairs: pairs written.
        empty_source: pairs dropped because only the source line is empty or white space.
        empty_target: pairs dropped because only the target line is.
        empty_both: pairs dropped because both are.
        source_tokens: tokens written on the source side.
        target_tokens: tokens written on the target side.
        source_unknown: how many of the source tokens became `<unk>`.
        target_unknown: how many of the target tokens did.
    """

    pairs: int
    empty_source: int
    empty_target: int
    empty_both: int
    source_tokens: int
    target_tokens: int
    source_unknown: int
    target_unknown: int

    @property
    def dropped(self) -> int:
        """Pairs not written."""
        return self.empty_source + self.empty_target + self.empty_both

    @property
    def source_unknown_rate(self) -> float:
        """The share of source tokens that became `<unk>`, 0 to 1."""
        return self.source_unknown / self.source_tokens

    @property
    def target_unknown_rate(self) -> float:
        """The share of target tokens that became `<unk>`, 0 to 1."""
        return self.target_unknown / self.target_tokens


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` wrote.

    Attributes:
        train: the training text.
        validation: the validation text, `None` without any.
        source_vocabulary: the size of the source vocabulary, special tokens included.
        target_vocabulary: the size of the target vocabulary, special tokens included.
    """

    train: SplitReport
    validation: SplitReport | None
    source_vocabulary: int
    target_vocabulary: int


def prepare(
    *,
    train_source: Path,
    train_target: Path,
    output: Path,
    validation_source: Path | None = None,
    validation_target: Path | None = None,
    single_vocab: bool = False,
    num_words_source: int | None = NUM_WORDS,
    num_words_target: int | None = NUM_WORDS,
    word_min_count_source: int = 1,
    word_min_count_target: int = 1,
    vocab_source: Path | None = None,
    vocab_target: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Turn parallel text, line `i` of one file a translation of line `i` of the other, into training data.

    Text is UTF-8, split on white space into tokens; only a line feed ends a line; files named `*.gz` are
    unpacked. A pair with an empty side is dropped. `output` becomes a folder with `train/train.rec`,
    `vocab/vocab.src.json`, `vocab/vocab.trg.json` and, given validation text, `validation/val.rec`: whole, or
    not at all.

    Args:
        train_source: training text of the source language.
        train_target: training text of the target language.
        output: a folder that does not exist yet, or is empty.
        validation_source: validation text of the source language, given with `validation_target` or not at all.
        validation_target: validation text of the target language.
        single_vocab: make one vocabulary of the words of both sides; the options for the source shape it.
        num_words_source: keep so many of the most frequent words, the special tokens not counted; `None` keeps all.
        num_words_target: the same for the target.
        word_min_count_source: leave words out of the vocabulary that are rarer than this.
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
    texts = [_Parallel(train_source, train_target, "training")]
    if validation_source is not None and validation_target is not None:
        texts.append(_Parallel(validation_source, validation_target, "validation"))
    elif validation_source is not None or validation_target is not None:
        raise ClientError("validation text needs both sides: give a source and a target file, or neither")
    for value in (num_words_source, num_words_target, word_min_count_source, word_min_count_target):
        if value is not None and value < 1:
            raise ClientError(f"numbers of words and minimum counts start at 1, not {value}")
    if (vocab_source is None) != (vocab_target is None):
        raise ClientError("vocabularies are needed for both sides: give a source and a target one, or neither")
    shape = (single_vocab, num_words_source, num_words_target, word_min_count_source, word_min_count_target)
    if vocab_source is not None and shape != (False, NUM_WORDS, NUM_WORDS, 1, 1):
        raise ClientError(
            "vocabularies that are given are used as they are: leave out the options that shape new ones, or the files"
        )
    meter = _Meter(sum(text.size for text in texts), progress)
    with (
        _alone(output),
        new_folder(output) as folder,
        TemporaryFile(dir=folder) as first,
        TemporaryFile(dir=folder) as second,
        ExitStack() as stack,
    ):
        if vocab_source is not None and vocab_target is not None:
            vocabularies = Vocabulary.load(vocab_source), Vocabulary.load(vocab_target)
            blocks = _look_up(texts[0], vocabularies, meter)
        else:
            words = Words()
            if single_vocab or texts[0].size < _LARGE or (os.cpu_count() or 1) == 1:
                target_words = words if single_vocab else Words()
                source_spool = words.spool(train_source, first, meter.advance)
                target_spool = target_words.spool(train_target, second, meter.advance)
            else:
                wait = stack.enter_context(spooling_apart(train_target, folder / ".target"))
                source_spool = words.spool(train_source, first, meter.advance)
                target_words, target_spool = wait()
                meter.advance(train_target.stat().st_size)
            vocabulary = words.vocabulary(num_words_source, word_min_count_source)
            vocabularies = vocabulary, vocabulary
            if not single_vocab:
                vocabularies = vocabulary, target_words.vocabulary(num_words_target, word_min_count_target)
            source_ids, target_ids = words.table(vocabularies[0]), target_words.table(vocabularies[1])
            blocks = source_spool.read(source_ids), target_spool.read(target_ids)
        (folder / "vocab").mkdir()
        vocabularies[0].save(folder / "vocab" / "vocab.src.json")
        vocabularies[1].save(folder / "vocab" / "vocab.trg.json")
        train = _write(texts[0], blocks, folder / "train" / "train.rec")
        validation = None
        for text in texts[1:]:
            validation = _write(text, _look_up(text, vocabularies, meter), folder / "validation" / "val.rec")
    return PrepareReport(train, validation, len(vocabularies[0]), len(vocabularies[1]))


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep other processes from writing the same folder, and remove what one that was killed has left of it."""
    require_absent(output)
    refusal = f"another process is preparing {output}: let it end, or name another folder"
    with locked(lock_path(output), refusal):
        remove_leftovers(output)
        yield


@dataclass(frozen=True)
class _Parallel:
    """The two files of a text, and what to call it."""

    source: Path
    target: Path
    name: str

    @property
    def size(self) -> int:
        with describe_os_errors(f"cannot read the {self.name} text"):
            return self.source.stat().st_size + self.target.stat().st_size


class _Meter:
    """How much of all reading is done."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self.total = total
        self.done = 0
        self.report = report

    def advance(self, size: int) -> None:
        self.done += size
        if self.report is not None:
            self.report(self.done, self.total)


def _look_up(
    text: _Parallel, vocabularies: tuple[Vocabulary, Vocabulary], meter: _Meter
) -> tuple[Iterator[Sequences], Iterator[Sequences]]:
    """The ids of both sides of a text, a block of lines at a time."""
    source, target = vocabularies
    return (
        (split(lines, source.ids) for lines in read_blocks(text.source, advance=meter.advance)),
        (split(lines, target.ids) for lines in read_blocks(text.target, advance=meter.advance)),
    )


def _write(text: _Parallel, blocks: tuple[Iterator[Sequences], Iterator[Sequences]], path: Path) -> SplitReport:
    """Write the records of a text to a file in a folder of its own."""
    totals = np.zeros(8, dtype=np.int64)
    nothing = Sequences.of([])
    source_lines = target_lines = 0
    path.parent.mkdir()
    with writing(path) as stream:
        for source, target in zip_longest(*blocks, fillvalue=nothing):
            source_lines += len(source)
            target_lines += len(target)
            if source_lines != target_lines:
                continue  # only to count the lines of the longer file
            has_source, has_target = source.lengths > 0, target.lengths > 0
            kept = has_source & has_target
            source, target = _select(source, kept), _select(target, kept)
            stream.write(encode_records({"source": source, "target": target}))
            counted = (
                kept,
                has_target & ~has_source,
                has_source & ~has_target,
                ~(has_source | has_target),
                source.values >= 0,
                target.values >= 0,
                source.values == UNK,
                target.values == UNK,
            )
            totals += np.array([np.count_nonzero(mask) for mask in counted])
    if source_lines != target_lines:
        longer, shorter = text.source, text.target
        if source_lines < target_lines:
            longer, shorter = shorter, longer
        raise ClientError(
            f"the {text.name} text is not parallel: {longer} has {max(source_lines, target_lines):,} lines, "
            f"{shorter} only {min(source_lines, target_lines):,}. Line for line, one translates the other"
        )
    report = SplitReport(*totals.tolist())
    if not report.pairs:
        raise ClientError(
            f"the {text.name} text has no pair in which both sides have words: see the {source_lines:,} lines of "
            f"{text.source} and {text.target}"
        )
    return report


def _select(sequences: Sequences, kept: NDArray[np.bool_]) -> Sequences:
    """The sequences where `kept` is true."""
    lengths = sequences.lengths
    offsets = np.zeros(np.count_nonzero(kept) + 1, dtype=np.int64)
    np.cumsum(lengths[kept], out=offsets[1:])
    return Sequences(sequences.values[np.repeat(kept, lengths)], offsets)
