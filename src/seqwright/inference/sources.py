"""Source sequences from files of any size: text, JSON Lines or RecordIO, a block at a time."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import cast

from seqwright.data.recordio import read_records
from seqwright.data.text import decode_available, read_blocks
from seqwright.data.vocabulary import Vocabulary
from seqwright.errors import ClientError


@dataclass(frozen=True)
class Source:
    """One sequence to translate.

    Attributes:
        tokens: its tokens; of a record, those that its ids stand for.
        ids: their ids, without BOS or EOS.
    """

    tokens: list[str]
    ids: list[int]


def read_sources(
    path: Path | None, vocabulary: Vocabulary, size: int, advance: Callable[[int], None] | None = None
) -> Iterator[list[Source]]:
    """Read a file by what its name says: `*.jsonl`, `*.rec`, or else text, one sequence a line; text of either
    kind may be packed, `*.gz`.

    A line of JSON Lines is an object with the tokens under `source`, as in the endpoint. A record's sequence is its
    feature `source`.

    Args:
        path: the file; None reads text from standard input.
        vocabulary: the source vocabulary.
        size: sequences in a block; a block of standard input has fewer where no more are there yet.
        advance: called after every block of lines with the bytes of the file that were read for it.

    Raises:
        ClientError: the file cannot be read or is damaged; the line or record is named.
    """
    if path is not None and path.suffix == ".rec":
        yield from _records(path, vocabulary, size)
        return
    if path is None:
        if sys.stdin is None:
            raise ClientError("standard input is closed: name a file with --input")
        blocks = decode_available(cast(BufferedReader, sys.stdin.buffer), "standard input", size)
    else:
        blocks = read_blocks(path, size, advance)
    if path is not None and path.name.removesuffix(".gz").endswith(".jsonl"):
        blocks = _json_sources(blocks, path)
    for texts in blocks:
        yield [Source(tokens, vocabulary.ids(tokens)) for tokens in map(str.split, texts)]


def _json_sources(blocks: Iterable[list[str]], path: Path) -> Iterator[list[str]]:
    """The text under `source` in every line; blank lines are passed over."""
    number = count(1)
    for block in blocks:
        numbered = [(next(number), line) for line in block]
        yield [_json_source(line, f"{path}: line {n:,}") for n, line in numbered if line.strip()]


def _json_source(line: str, origin: str) -> str:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ClientError(f"{origin} is not valid JSON ({error})") from error
    source = content.get("source") if isinstance(content, dict) else None
    if not isinstance(source, str):
        raise ClientError(f'{origin} must be an object with a text under "source", such as {{"source": "a b c"}}')
    if not source.isascii() and any("\ud800" <= letter <= "\udfff" for letter in source):
        raise ClientError(f"{origin} has half of a character, a lone surrogate: it cannot be written as text")
    return source


def _records(path: Path, vocabulary: Vocabulary, size: int) -> Iterator[list[Source]]:
    number = count(1)
    for (sequences,) in read_records(path, ("source",)):
        block: list[Source] = []
        for index in range(len(sequences)):
            ids, record = sequences[index].tolist(), next(number)
            if ids and max(ids) >= len(vocabulary):
                raise ClientError(
                    f"{path}: record {record:,} has the id {max(ids)}, but the model's source vocabulary ends at "
                    f"{len(vocabulary) - 1}: was the file made for another model?"
                )
            block.append(Source(vocabulary.words(ids), ids))
            if len(block) == size:
                yield block
                block = []
        if block:
            yield block
