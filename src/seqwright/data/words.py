"""The words of a text before there is a vocabulary: numbered as they appear, counted, and kept for a second reading.

`python -P -m seqwright.data.words TEXT SPOOL` does it in a process of its own, beside one that reads the other side.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from seqwright.data.sequences import Sequences
from seqwright.data.text import read_blocks
from seqwright.data.vocabulary import Vocabulary
from seqwright.errors import ClientError
from seqwright.processes import signals_blocked


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
    command = [sys.executable, "-P", "-m", __name__, str(path), str(scratch)]
    with contextlib.ExitStack() as stack:
        with signals_blocked():
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own module
            )
            stack.callback(scratch.unlink, missing_ok=True)
            stack.callback(process.kill)

        def wait() -> tuple[Words, Spool]:
            told, log = process.communicate()
            if process.returncode:
                reason = log.strip().rpartition("\n")[2]
                raise ClientError(reason or f"{path} was not read: its process ended (exit code {process.returncode})")
            answer = json.loads(told)
            words = Words()
            words.numbers.update((word, number) for number, word in enumerate(answer["words"]))
            words.counts = np.array(answer["counts"], dtype=np.int64)
            return words, Spool(stack.enter_context(scratch.open("rb")), map(tuple, answer["sizes"]))

        yield wait


def main() -> None:
    """Read a text file for `spooling_apart`."""
    path, scratch = map(Path, sys.argv[1:])
    words = Words()
    try:
        with scratch.open("wb") as stream:
            sizes = words.spool(path, stream).sizes
    except ClientError as error:
        sys.exit(str(error))
    counts = words.counts[: len(words.numbers)].tolist()
    json.dump({"words": list(words.numbers), "counts": counts, "sizes": sizes}, sys.stdout)


if __name__ == "__main__":
    main()
