"""Word vectors in text files, as word2vec, GloVe and fastText write them.

A row is a word and its numbers, separated by single spaces. word2vec and fastText write a first line with the number
of rows and the width; GloVe writes none, and has a few words with spaces in them.
"""

import math
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqwright.data.text import read_blocks
from seqwright.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from seqwright.errors import ClientError
from seqwright.files import StrPath

_ROWS = 64
"""Rows read together: fewer than the lines of a text, as a row of wide vectors takes some 100 KB."""

_HEADER = re.compile(r"\d{1,18} (\d{1,18})", re.ASCII)


def read_vectors(
    path: StrPath, vocabulary: Vocabulary, *, width: int, hyperparameter: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Read the vectors of those N words that are in a vocabulary.

    The rows of other words are only checked for their width, so that memory is bounded by the vocabulary. If a word
    has several rows, the first one is used.

    Args:
        path: UTF-8 text of vectors, decompressed if its name ends in `.gz`.
        vocabulary: the words to look for, the special tokens included.
        width: numbers in a vector, E.
        hyperparameter: the name of the hyperparameter that sets the width, for messages.

    Returns:
        The words' ids `[N]`, in the order of the file, and their vectors `[N, E]`.

    Raises:
        ClientError: the file cannot be read or decompressed, is empty, or has none of the words; the file or one of
            its rows has another width; the vector of a word of the vocabulary has a field that is not a number, or not
            finite in float32. The message names the line.
    """
    path = Path(path)
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise ClientError(f"{path} is empty: name a file with a word and its vector on each line")
    has_header, found = _parse_first_line(first[1], width)
    if found != width:
        raise ClientError(
            f"{path}: line {first[0]:,}: these are vectors of {found} numbers, but {hyperparameter} is {width}: "
            f"set {hyperparameter}={found}, or take vectors of {width} numbers"
        )
    rows: dict[int, NDArray[np.float32]] = {}
    for number, line in lines if has_header else chain([first], lines):
        word = _word(line, width, spaces=not has_header)
        if word is None:
            raise ClientError(
                f"{path}: line {number:,} is not a word and {width} numbers, but {line.count(' ') + 1} fields, "
                f"the first {_shortened(line.split(' ', 1)[0])}. Repair the line, or fetch the file again"
            )
        if word in vocabulary and (index := vocabulary.ids([word])[0]) not in rows:
            rows[index] = _vector(line, width, f"{path}: line {number:,}: {_shortened(word)}")
    if all(index < len(SPECIAL_TOKENS) for index in rows):
        raise ClientError(
            f"{path} has no word of the vocabulary: take vectors of the same language, case and tokens as the data"
        )
    return np.fromiter(rows, dtype=np.int64), np.stack(list(rows.values()))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbers, counted from 1, and contents of the lines that are not blank, without white space at their ends."""
    lines = chain.from_iterable(read_blocks(path, _ROWS))
    for number, line in enumerate(lines, start=1):
        if stripped := line.rstrip():
            yield number, stripped


def _parse_first_line(line: str, width: int) -> tuple[bool, int]:
    """Whether the first line is a header, and the width of the vectors; `width` where the line cannot tell."""
    if header := _HEADER.fullmatch(line):
        return True, int(header[1])
    fields = line.split(" ")[1:]
    return False, len(fields) if fields and all(map(_is_number, fields)) else width


def _word(line: str, width: int, spaces: bool) -> str | None:
    """The word before the last `width` fields of a line; None if the line does not fit the width.

    With `spaces`, the word may have spaces in it; but if all its parts after the first are numbers, they belong to a
    vector that is too long.
    """
    fields = line.count(" ")
    if fields == width:
        return line.split(" ", 1)[0]
    if fields < width or not spaces:
        return None
    word = line.rsplit(" ", width)[0]
    return None if all(map(_is_number, word.split(" ")[1:])) else word


def _vector(line: str, width: int, place: str) -> NDArray[np.float32]:
    """The last `width` fields of a line as numbers, `[E]`."""
    fields = line.rsplit(" ", width)[1:]
    with np.errstate(over="ignore"):
        vector = np.array([_number(field) for field in fields], dtype=np.float32)
    if not np.isfinite(vector).all():
        wrong = fields[int(np.argmin(np.isfinite(vector)))]
        raise ClientError(
            f"{place} has {_shortened(wrong)} in its vector, which is not a finite number. "
            "Repair the line, or fetch the file again"
        )
    return vector


def _number(text: str) -> float:
    """A text as a number; NaN if it is not one."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _is_number(text: str) -> bool:
    return not math.isnan(_number(text))


def _shortened(text: str, limit: int = 60) -> str:
    """A text as messages show it."""
    return repr(text if len(text) <= limit else f"{text[:limit]}…")
