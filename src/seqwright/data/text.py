"""Text files as blocks of lines, with errors that name the line."""

import codecs
import gzip
import io
import select
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from seqwright.errors import ClientError
from seqwright.files import StrPath, describe_os_errors

BLOCK = 1024
"""Lines read together: enough to keep numpy busy, few enough for the processor's cache."""

_CHUNK_BYTES = 1 << 20

MAX_LINE_BYTES, MAX_BLOCK_BYTES = 16 << 20, 64 << 20
"""Bytes of a line and of a block, far more than sentences need: a small packed file can hold lines of any length."""


def read_blocks(path: StrPath, size: int = BLOCK, advance: Callable[[int], None] | None = None) -> Iterator[list[str]]:
    """Read a UTF-8 text file, decompressed if its name ends in `.gz`.

    Args:
        path: the file.
        size: lines in a block.
        advance: called after every block with how many bytes of the file were read for it.

    Yields:
        Up to `size` lines, without their ends. Only a line feed ends a line. A byte order mark at the start of the
        file is skipped.

    Raises:
        ClientError: the file cannot be read or decompressed, or a line is not UTF-8 or too long; the message names
            the line.
    """
    path = Path(path)
    with describe_os_errors(f"cannot read {path}"), path.open("rb") as raw:
        stream: BinaryIO = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        before, tells = 0, advance is not None and raw.seekable()  # a pipe does not say where it is
        try:
            for block in decode_blocks(stream, str(path), size):
                yield block
                if advance is not None and tells:
                    advance(raw.tell() - before)
                    before = raw.tell()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ClientError(f"{path}: the gzip file is damaged or cut short ({error}). Make it again") from error


def decode_blocks(stream: BinaryIO, origin: str, size: int = BLOCK) -> Iterator[list[str]]:
    """Read UTF-8 text from a stream.

    Args:
        stream: the bytes.
        origin: what to call the stream in messages.
        size: lines in a block.

    Yields:
        Up to `size` lines, without their ends. Only a line feed ends a line. A byte order mark at the start of the
        stream is skipped.

    Raises:
        ClientError: a line is not UTF-8 or too long; the message names it.
    """
    yield from _decode(_line_blocks(stream, origin, size), origin)


def decode_available(stream: BufferedReader, origin: str, size: int = BLOCK) -> Iterator[list[str]]:
    """Read UTF-8 text from a stream as it arrives; otherwise as `decode_blocks`.

    A block ends early where no more text is there yet: who writes a line and waits for the answer gets it.

    Args:
        stream: the bytes, from a pipe, a terminal or a file.
        origin: what to call the stream in messages.
        size: lines in a block at most.
    """
    yield from _decode(_available_blocks(stream, origin, size), origin)


def _decode(blocks: Iterable[list[bytes]], origin: str) -> Iterator[list[str]]:
    """The text of blocks of lines, without the ends of the lines."""
    before = 0
    for lines in blocks:
        data = b"".join(lines)
        if before == 0 and data.startswith(codecs.BOM_UTF8) and not (data := data.removeprefix(codecs.BOM_UTF8)):
            return  # an editor's idea of an empty file
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            line = before + data.count(b"\n", 0, error.start) + 1
            byte = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
            raise ClientError(
                f"{origin}: line {line:,} is not UTF-8 text (byte {byte:,} of the line: {error.reason}). "
                "Convert it to UTF-8"
            ) from error
        yield text.removesuffix("\n").split("\n")
        before += len(lines)


def _line_blocks(stream: BinaryIO, origin: str, size: int) -> Iterator[list[bytes]]:
    """The lines of a stream, `size` at a time."""
    before = 0
    while lines := _read_lines(stream, origin, size, before):
        yield lines
        before += len(lines)


def _available_blocks(stream: BufferedReader, origin: str, size: int) -> Iterator[list[bytes]]:
    """The lines of a stream, up to `size` at a time: those that are there."""
    lines: list[bytes] = []
    rest, before = b"", 0
    while chunk := stream.read1(_CHUNK_BYTES):  # waits only if nothing is there
        *whole, rest = (rest + chunk).split(b"\n")
        lines += [line + b"\n" for line in whole]
        if len(rest) > MAX_LINE_BYTES:
            raise ClientError(f"{origin}: line {before + len(lines) + 1:,} is longer than {MAX_LINE_BYTES >> 20} MiB")
        while len(lines) >= size or (lines and not _is_readable(stream)):
            yield lines[:size]
            before += len(lines[:size])
            lines = lines[size:]
    if rest:
        lines.append(rest)
    if lines:
        yield lines


def _is_readable(stream: BufferedReader) -> bool:
    """Whether reading would not wait; no where the system cannot tell."""
    try:
        return bool(select.select([stream], [], [], 0)[0])
    except OSError:
        return False


def _read_lines(stream: BinaryIO, origin: str, size: int, before: int) -> list[bytes]:
    """Up to `size` lines of a stream, of which `before` were read already."""
    lines: list[bytes] = []
    total = 0
    for line in islice(iter(partial(stream.readline, MAX_LINE_BYTES + 1), b""), size):
        lines.append(line)
        total += len(line)
        if len(line) > MAX_LINE_BYTES or total > MAX_BLOCK_BYTES:
            raise ClientError(
                f"{origin}: line {before + len(lines):,} is too long: a line may have {MAX_LINE_BYTES >> 20} MiB, and "
                f"{size:,} lines in a row {MAX_BLOCK_BYTES >> 20} MiB. Is this text, one sequence a line?"
            )
    return lines
