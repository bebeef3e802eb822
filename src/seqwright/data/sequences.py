"""Many token sequences in two flat arrays: the form of ids between files and batches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Sequences:
    """N sequences of token ids, one after another.

    Attributes:
        values: the ids of all sequences, int32 `[total]`.
        offsets: where each sequence starts, and `total` as the last entry, int64 `[N + 1]`. Sequence `i` is
            `values[offsets[i]:offsets[i + 1]]`.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> Self:
        """Make them of lists of ids."""
        lists = list(sequences)
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in lists], out=offsets[1:])
        values = np.fromiter((token for ids in lists for token in ids), dtype=np.int32, count=int(offsets[-1]))
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        """The ids of sequence `index`, a view."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of ids in each sequence, `[N]`."""
        return np.diff(self.offsets)
