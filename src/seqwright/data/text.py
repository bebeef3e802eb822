"""Text files as blocks of lines, with errors that name the line."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from seqwright.errors import ClientError
from seqwright.files import describe_os_errors

BLOCK = 1024
"""Lines read together: enough to keep numpy busy, few enough for the processor's cache."""


def read_blocks(path: Path, size: int = BLOCK, advance: Callable[[int], None] | None = None) -> Iterator[list[str]]:
    """Read a UTF-8 text file, unpacked where its name ends in `.gz`.

    Args:
        path: the file.
        size: how many lines a block has.
        advance: called after every block with how many bytes of the file were read for it.

    Yields:
        Up to `size` lines, without their ends. Only a line feed ends a line.

    Raises:
        ClientError: the file cannot be read or unpacked, or a line is not UTF-8; the message names the line.
    """
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
        size: how many lines a block has.

    Yields:
        Up to `size` lines, without their ends. Only a line feed ends a line.

    Raises:
        ClientError: a line is not UTF-8; the message names it.
    """
    before = 0
    while lines := list(islice(stream, size)):
        data = b"".join(lines)
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
