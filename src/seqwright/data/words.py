"""Count the words of a text before there is a vocabulary, and store the text as ids for the second reading.

Words get provisional ids in the order in which they appear. The text is stored as provisional ids in a temporary file;
when all words are counted, a table gives the vocabulary's id of every provisional id.
"""

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


class _ProvisionalIds(dict[str, int]):
    """Words and their provisional ids: a new word gets the next id when it is looked up."""

    def __missing__(self, word: str) -> int:
        new = self[word] = len(self)
        return new


class WordCounter:
    """Counts the words of texts.

    Attributes:
        ids: the provisional id of every word.
        counts: how often every word occurs, by provisional id; longer than there are words.
    """

    def __init__(self) -> None:
        self.ids = _ProvisionalIds()
        self.counts = np.zeros(1 << 16, dtype=np.int64)

    def read(self, path: Path, stream: IO[bytes], advance: Callable[[int], None] | None = None) -> "IdFile":
        """Count the words of a text file and write the text as provisional ids to `stream`.

        Raises:
            ClientError: the file cannot be read or is not UTF-8 text.
        """
        id_file = IdFile(stream)
        for lines in read_blocks(path, advance=advance):
            sequences = to_sequences(lines, lambda words: map(self.ids.__getitem__, words))
            while len(self.counts) < len(self.ids):
                self.counts = np.concatenate((self.counts, np.zeros_like(self.counts)))
            np.add.at(self.counts, sequences.values, 1)
            id_file.append(sequences)
        return id_file

    def vocabulary(self, max_words: int | None, min_count: int) -> Vocabulary:
        """The vocabulary of all words counted so far."""
        counts = dict(zip(self.ids, self.counts.tolist(), strict=False))
        return Vocabulary.from_counts(counts, max_words, min_count)

    def final_ids(self, vocabulary: Vocabulary) -> NDArray[np.int32]:
        """The vocabulary's id of every word, by provisional id."""
        return np.array(vocabulary.ids(self.ids), dtype=np.int32)


class IdFile:
    """A text as provisional ids in a temporary file, in blocks.

    Args:
        stream: the file.
        sizes: the bytes of offsets and of ids of every block that is in the file already.
    """

    def __init__(self, stream: IO[bytes], sizes: Iterable[tuple[int, int]] = ()) -> None:
        self.stream = stream
        self.sizes = list(sizes)

    def append(self, block: Sequences) -> None:
        """Write a block."""
        self.stream.write(block.offsets.tobytes())
        self.stream.write(block.values.tobytes())
        self.sizes.append((block.offsets.nbytes, block.values.nbytes))

    def read(self, final_ids: NDArray[np.int32]) -> Iterator[Sequences]:
        """Read all blocks, with `final_ids[id]` in place of every provisional id."""
        self.stream.seek(0)
        for offset_bytes, id_bytes in self.sizes:
            offsets = np.frombuffer(self.stream.read(offset_bytes), dtype=np.int64)
            yield Sequences(final_ids[np.frombuffer(self.stream.read(id_bytes), dtype=np.int32)], offsets)


def to_sequences(lines: list[str], look_up: Callable[[Iterable[str]], Iterable[int]]) -> Sequences:
    """Split lines on white space and look up the ids of all words."""
    words = [line.split() for line in lines]
    offsets = np.zeros(len(lines) + 1, dtype=np.int64)
    np.cumsum([len(line) for line in words], out=offsets[1:])
    ids = look_up(chain.from_iterable(words))
    return Sequences(np.fromiter(ids, dtype=np.int32, count=int(offsets[-1])), offsets)


@contextlib.contextmanager
def counting_in_subprocess(path: Path, scratch: Path) -> Iterator[Callable[[], tuple[WordCounter, IdFile]]]:
    """Count the words of a text file in a process of its own while the block runs.

    Args:
        path: the text file.
        scratch: the file for the provisional ids, removed at the end of the block.

    Yields:
        A function that waits for the process and returns its results. It raises `ClientError` as `WordCounter.read`
        does.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(scratch.unlink, missing_ok=True)
        child = stack.enter_context(ChildProcess(_count_words, path, scratch, name=f"the process that reads {path}"))

        def wait() -> tuple[WordCounter, IdFile]:
            counter = WordCounter()
            words, counter.counts, sizes = child.receive()
            counter.ids.update((word, index) for index, word in enumerate(words))
            return counter, IdFile(stack.enter_context(scratch.open("rb")), sizes)

        yield wait


def _count_words(
    connection: Connection, path: Path, scratch: Path
) -> tuple[list[str], NDArray[np.int64], list[tuple[int, int]]]:
    """In the process: count the words of a text file; returns them, their counts, and the sizes of the id file."""
    counter = WordCounter()
    with scratch.open("wb") as stream:
        sizes = counter.read(path, stream).sizes
    return list(counter.ids), counter.counts[: len(counter.ids)], sizes
