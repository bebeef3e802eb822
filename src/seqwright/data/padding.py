"""Padding in data that people hand in: id 0 behind the ids of a sequence.

Some pipelines fill records up with id 0, `PAD`, to the same length, as other algorithms want it. A model must not
learn or read these ids: they are cut off, and counted for one warning. Id 0 before other ids means nothing and is
refused.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqwright.data.sequences import Sequences
from seqwright.data.vocabulary import PAD
from seqwright.errors import ClientError

logger = logging.getLogger(__name__)


@dataclass
class PaddingCount:
    """How much padding was cut off.

    Attributes:
        records: records with padding on any side.
        ids: ids that were cut off.
    """

    records: int = 0
    ids: int = 0

    def warn(self, origin: str) -> None:
        """Log one warning where there was padding."""
        if self.records:
            logger.warning(
                "%s: padding was cut off: %s ids 0 at the ends of the sequences of %s records; no record needs padding",
                origin, f"{self.ids:,}", f"{self.records:,}",
            )  # fmt: skip


def cut_padding(ids: Sequence[int]) -> list[int]:
    """The ids of one sequence without the zeros at its end; empty where all are zeros.

    Raises:
        ClientError: a 0 stands before another id.
    """
    length = len(ids)
    while length and ids[length - 1] == PAD:
        length -= 1
    kept = list(ids[:length])
    if PAD in kept:
        raise ClientError(inner_padding(kept.index(PAD)))
    return kept


def inner_padding(position: int) -> str:
    """The complaint about id 0 at a position of a sequence, counted from 0, before another id."""
    return f"id {PAD} at position {position + 1:,}, before other ids: it is padding, which may only stand at the end"


def count_padding(sequences: Sequences) -> NDArray[np.int64]:
    """How many ids 0 are at the end of every sequence, `[N]`."""
    nonzero = np.flatnonzero(sequences.values)
    before = np.searchsorted(nonzero, sequences.offsets[1:])  # ids other than 0 up to the end of each sequence
    ends = np.concatenate(([0], nonzero + 1))[before]  # behind the last of them
    return sequences.offsets[1:] - np.maximum(ends, sequences.offsets[:-1])


def shorten(sequences: Sequences, cut: NDArray[np.int64]) -> Sequences:
    """The sequences without their last `cut` ids, `[N]`."""
    lengths = sequences.lengths - cut
    offsets = np.zeros_like(sequences.offsets)
    np.cumsum(lengths, out=offsets[1:])
    position = np.arange(len(sequences.values)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    return Sequences(sequences.values[position < np.repeat(lengths, sequences.lengths)], offsets)
