"""Write the pairs of a text as records, and report what was written and what was not."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqwright.data.recordio import encode_records
from seqwright.data.sequences import Sequences
from seqwright.data.vocabulary import UNK, count_special_tokens, describe_special_tokens
from seqwright.errors import ClientError
from seqwright.files import describe_os_errors, writing

DEFAULT_MAX_LENGTH = 100
"""The default of the hyperparameters `max_seq_len_source` and `max_seq_len_target`."""

_LONGEST_COUNTED = 1 << 16
"""Lengths from here on are counted as this length, so that a histogram has a bounded size."""

_SEED = 1
"""Of the choice of pairs that are set aside: the same text gives the same validation pairs."""


@dataclass(frozen=True)
class Lengths:
    """How long the sequences of one side are, in tokens, EOS not counted.

    Attributes:
        median: at least half of the sequences are this long or shorter.
        percentile_95: at least 95 % of the sequences are this long or shorter.
        longest: the length of the longest sequence.
        over_default: the share of sequences that are longer than `DEFAULT_MAX_LENGTH`, 0 to 1. Training cuts them
            unless `max_seq_len_source` or `max_seq_len_target` is raised.
    """

    median: int
    percentile_95: int
    longest: int
    over_default: float


@dataclass(frozen=True)
class SplitReport:
    """What was written of a split, training or validation.

    Attributes:
        pairs: pairs written.
        empty_source: pairs dropped because only the source line is empty or white space.
        empty_target: pairs dropped because only the target line is.
        empty_both: pairs dropped because both are.
        source_tokens: tokens written on the source side.
        target_tokens: tokens written on the target side.
        source_unknown: how many of the source tokens became `<unk>`.
        target_unknown: how many of the target tokens did.
        source_lengths: how long the source sequences are.
        target_lengths: how long the target sequences are.
    """

    pairs: int
    empty_source: int
    empty_target: int
    empty_both: int
    source_tokens: int
    target_tokens: int
    source_unknown: int
    target_unknown: int
    source_lengths: Lengths
    target_lengths: Lengths

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
class TextPair:
    """The two files of a text.

    Attributes:
        source: the file of the source language.
        target: the file of the target language.
        name: what to call the text in messages.
    """

    source: Path
    target: Path
    name: str

    @property
    def size(self) -> int:
        """Bytes of both files."""
        with describe_os_errors(f"cannot read the {self.name} text"):
            return self.source.stat().st_size + self.target.stat().st_size


class _SideCounts:
    """Counts of one side of a split."""

    def __init__(self) -> None:
        self.histogram = np.zeros(_LONGEST_COUNTED + 1, dtype=np.int64)
        self.longest = 0
        self.special: NDArray[np.int64] = count_special_tokens(np.zeros(0, dtype=np.int32))
        self.tokens = 0

    def add(self, sequences: Sequences) -> None:
        lengths = sequences.lengths
        counts = np.bincount(np.minimum(lengths, _LONGEST_COUNTED))
        self.histogram[: len(counts)] += counts
        self.longest = max(self.longest, int(lengths.max(initial=0)))
        self.special += count_special_tokens(sequences.values)
        self.tokens += len(sequences.values)

    def lengths(self) -> Lengths:
        at_most = np.cumsum(self.histogram)
        median, percentile_95 = np.searchsorted(at_most, [at_most[-1] * 0.5, at_most[-1] * 0.95]).tolist()
        over = int(at_most[-1] - at_most[DEFAULT_MAX_LENGTH])
        return Lengths(median, percentile_95, self.longest, over / int(at_most[-1]))


class SplitWriter:
    """Writes the records of a split to a file.

    Args:
        stack: closes the file; it appears under its name if no error ends the stack's block.
        path: the file, in a folder that does not exist yet.
    """

    def __init__(self, stack: ExitStack, path: Path) -> None:
        path.parent.mkdir()
        self.pairs = 0
        self.empty = [0, 0, 0]
        self._stream = stack.enter_context(writing(path))
        self._source, self._target = _SideCounts(), _SideCounts()

    def write(self, source: Sequences, target: Sequences) -> None:
        """Write pairs that have no empty side."""
        self._stream.write(encode_records({"source": source, "target": target}))
        self.pairs += len(source)
        self._source.add(source)
        self._target.add(target)

    def report(self) -> SplitReport:
        """What was written; at least one pair."""
        return SplitReport(
            pairs=self.pairs,
            empty_source=self.empty[0],
            empty_target=self.empty[1],
            empty_both=self.empty[2],
            source_tokens=self._source.tokens,
            target_tokens=self._target.tokens,
            source_unknown=int(self._source.special[UNK]),
            target_unknown=int(self._target.special[UNK]),
            source_lengths=self._source.lengths(),
            target_lengths=self._target.lengths(),
        )

    def special_tokens(self) -> str:
        """How many special tokens were written; see `describe_special_tokens`."""
        return describe_special_tokens(self._source.special.tolist(), self._target.special.tolist())


def write_pairs(
    text: TextPair,
    blocks: tuple[Iterator[Sequences], Iterator[Sequences]],
    writer: SplitWriter,
    validation: SplitWriter | None = None,
    val_fraction: float = 0.0,
) -> None:
    """Write the pairs of a text that have no empty side.

    Args:
        text: where the pairs come from, for messages.
        blocks: the ids of both sides, in blocks of as many lines.
        writer: gets the pairs.
        validation: gets a random share of the pairs in place of `writer`, if it is given.
        val_fraction: that share, above 0 and below 1.

    Raises:
        ClientError: one side has more lines than the other, or there is no pair to write.
    """
    random = np.random.default_rng(_SEED)
    nothing = Sequences.of([])
    source_lines = target_lines = 0
    for source, target in zip_longest(*blocks, fillvalue=nothing):
        source_lines += len(source)
        target_lines += len(target)
        if source_lines != target_lines:
            continue  # only to count the lines of the longer file
        has_source, has_target = source.lengths > 0, target.lengths > 0
        kept = has_source & has_target
        empty = has_target & ~has_source, has_source & ~has_target, ~(has_source | has_target)
        writer.empty = [total + int(np.count_nonzero(mask)) for total, mask in zip(writer.empty, empty, strict=True)]
        if validation is not None:
            set_aside = np.zeros_like(kept)
            set_aside[kept] = random.random(np.count_nonzero(kept)) < val_fraction
            validation.write(_select(source, set_aside), _select(target, set_aside))
            kept &= ~set_aside
        writer.write(_select(source, kept), _select(target, kept))
    if source_lines != target_lines:
        longer, shorter = text.source, text.target
        if source_lines < target_lines:
            longer, shorter = shorter, longer
        raise ClientError(
            f"the {text.name} text is not parallel: {longer} has {max(source_lines, target_lines):,} lines, "
            f"{shorter} only {min(source_lines, target_lines):,}. Line for line, one translates the other"
        )
    pairs = writer.pairs + (validation.pairs if validation else 0)
    if not pairs:
        raise ClientError(
            f"the {text.name} text has no pair in which both sides have words: see the {source_lines:,} lines of "
            f"{text.source} and {text.target}"
        )
    if not writer.pairs or (validation is not None and not validation.pairs):
        raise ClientError(
            f"setting a fraction of {val_fraction:g} of {pairs:,} training pairs aside for validation leaves training "
            "or validation without a pair: give another fraction, or validation text"
        )


def _select(sequences: Sequences, kept: NDArray[np.bool_]) -> Sequences:
    """The sequences where `kept` is true."""
    lengths = sequences.lengths
    offsets = np.zeros(np.count_nonzero(kept) + 1, dtype=np.int64)
    np.cumsum(lengths[kept], out=offsets[1:])
    return Sequences(sequences.values[np.repeat(kept, lengths)], offsets)
