"""The streams of a command: messages and the log go to standard error, results to standard output."""

import io
import os
import sys
from typing import TYPE_CHECKING

from rich.console import Console

import seqwright.console
from seqwright.console import STDERR, print_line
from seqwright.errors import ClientError, os_error_reason
from seqwright.remote import without_secrets

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["STDERR", "StandardOutputError", "discard_output", "say", "set_up_logging", "set_up_output"]


def say(text: str) -> None:
    """Print a message to standard error, without the credentials of URLs."""
    print_line(STDERR, without_secrets(text))


def set_up_logging() -> Console:
    """Set up logging as `seqwright.console.set_up_logging` does, without the credentials of URLs."""
    return seqwright.console.set_up_logging(without_secrets)


class StandardOutputError(ClientError):
    """Standard output cannot be written."""


class _StandardOutput(io.RawIOBase):
    """Standard output without a buffer, whose errors can be told from those of other files.

    Args:
        descriptor: its file descriptor, which stays open.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write `data`, or the first bytes of it, and return how many.

        Raises:
            StandardOutputError: the disk is full, for example.
            BrokenPipeError: nobody reads it any more.
        """
        try:
            return os.write(self._descriptor, data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StandardOutputError(f"cannot write standard output: {os_error_reason(error)}") from error


def set_up_output() -> None:
    """Write standard output in UTF-8, as result files are, whatever the locale; and tell its errors from others.

    Where a program has replaced `sys.stdout`, only the encoding is set.
    """
    if sys.stdout is not sys.__stdout__:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        return
    if sys.stdout is None:  # closed by whoever started the process
        return
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_StandardOutput(sys.stdout.fileno())),
        encoding="utf-8",
        line_buffering=sys.stdout.line_buffering or sys.stdout.write_through,  # write_through: python -u
    )


def discard_output() -> None:
    """Drop what standard output has buffered and cannot write, so that Python does not try again when it ends."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
