"""The words of a text before there is a vocabulary: numbered as they appear, counted, and kept for a second reading."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from seqwright.data.sequences import Sequences
from seqwright.data.text import read_blocks
from seqwright.data.vocabulary import Vocabulary
from seqwright.processes import ChildProcess


class _Numbers(dict[str, int]):
    """Words numbered as they first appear."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


class Words:
    """The words of a text before there is a vocabulary, and how often each was seen."""

    def __init__(self) -> None:
        self.numbers = _Numbers()
        self.counts = np.zeros(1 << 16, dtype=np.int64)

    def spool(self, path: Path, stream: IO[bytes], advance: Callable[[int], None] | None = None) -> "Spool":
        """Count the words of a text file, and keep their numbers in `stream`.

        Raises:
            ClientError: the file cannot be read or is not UTF-8 text.
        """
        spool = Spool(stream)
        for lines in read_blocks(path, advance=advance):
            numbered = split(lines, lambda words: map(self.numbers.__getitem__, words))
            while len(self.counts) < len(self.numbers):
                self.counts = np.concatenate((self.counts, np.zeros_like(self.counts)))
            np.add.at(self.counts, numbered.values, 1)
            spool.append(numbered)
        return spool

    def vocabulary(self, max_words: int | None, min_count: int) -> Vocabulary:
        """The vocabulary of all words seen so far."""
        counts = dict(zip(self.numbers, self.counts.tolist(), strict=False))
        return Vocabulary.from_counts(counts, max_words, min_count)

    def table(self, vocabulary: Vocabulary) -> NDArray[np.int32]:
        """The id of every word in a vocabulary, in the order of their numbers."""
        return np.array(vocabulary.ids(self.numbers), dtype=np.int32)


class Spool:
    """The numbers of a text's words, kept in a file between the first reading and the vocabulary."""

    def __init__(self, stream: IO[bytes], sizes: Iterable[tuple[int, int]] = ()) -> None:
        self.stream = stream
        self.sizes = list(sizes)

    def append(self, block: Sequences) -> None:
        """Keep a block."""
        self.stream.write(block.offsets.tobytes())
        self.stream.write(block.values.tobytes())
        self.sizes.append((block.offsets.nbytes, block.values.nbytes))

    def read(self, table: NDArray[np.int32]) -> Iterator[Sequences]:
        """Read every block again, with `table[number]` in place of every number."""
        self.stream.seek(0)
        for offsets, values in self.sizes:
            starts = np.frombuffer(self.stream.read(offsets), dtype=np.int64)
            yield Sequences(table[np.frombuffer(self.stream.read(values), dtype=np.int32)], starts)


def split(lines: list[str], number: Callable[[Iterable[str]], Iterable[int]]) -> Sequences:
    """Split lines on white space and number their words."""
    words = [line.split() for line in lines]
    offsets = np.zeros(len(lines) + 1, dtype=np.int64)
    np.cumsum([len(line) for line in words], out=offsets[1:])
    numbers = number(chain.from_iterable(words))
    return Sequences(np.fromiter(numbers, dtype=np.int32, count=int(offsets[-1])), offsets)


@contextlib.contextmanager
def spooling_apart(path: Path, scratch: Path) -> Iterator[Callable[[], tuple[Words, Spool]]]:
    """Read a text file in a process of its own while the block runs; yields what waits for it.

    Args:
        path: the text file.
        scratch: a file to keep the numbers in, gone at the end of the block.

    Raises:
        ClientError: from what is yielded: as `Words.spool` does.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(scratch.unlink, missing_ok=True)
        child = stack.enter_context(ChildProcess(_spool, path, scratch, name=f"the process that reads {path}"))

        def wait() -> tuple[Words, Spool]:
            words = Words()
            numbered, words.counts, sizes = child.receive()
            words.numbers.update((word, number) for number, word in enumerate(numbered))
            return words, Spool(stack.enter_context(scratch.open("rb")), sizes)

        yield wait


def _spool(
    connection: Connection, path: Path, scratch: Path
) -> tuple[list[str], NDArray[np.int64], list[tuple[int, int]]]:
    """In the process: read a text file; gives its words, how often each was seen, and the sizes of the spool."""
    words = Words()
    with scratch.open("wb") as stream:
        sizes = words.spool(path, stream).sizes
    return list(words.numbers), words.counts[: len(words.numbers)], sizes
