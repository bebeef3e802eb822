"""Text files as blocks of lines, with errors that name the line."""

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from seqwright.errors import ClientError
from seqwright.files import describe_os_errors

BLOCK = 1024
"""Lines read together: enough to keep numpy busy, few enough for the processor's cache."""

MAX_LINE_BYTES, MAX_BLOCK_BYTES = 16 << 20, 64 << 20
"""Bytes of a line and of a block, far more than sentences need: a small packed file can hold lines of any length."""


def read_blocks(
    path: str | Path, size: int = BLOCK, advance: Callable[[int], None] | None = None
) -> Iterator[list[str]]:
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
    before = 0
    while lines := _read_lines(stream, origin, size, before):
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
