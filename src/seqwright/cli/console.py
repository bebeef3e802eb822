"""The terminal that commands share, so that log lines appear above a progress bar and not in it."""

import contextlib
import logging
import sys
from typing import TextIO, cast

from rich.console import Console

from seqwright.remote import without_secrets


class _StandardError:
    """Standard error as it is at the time; what cannot be written is lost, for a log is no reason to end."""

    @property
    def _stream(self) -> TextIO | None:
        behind_a_progress_bar: TextIO | None = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        return behind_a_progress_bar

    @property
    def encoding(self) -> str:
        return self._stream.encoding if self._stream else "utf-8"

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            if self._stream:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            if self._stream:
                self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()


STDERR = Console(stderr=True, file=cast(TextIO, _StandardError()))
"""Standard error: progress and logs."""


def say(text: str) -> None:
    """Print a line to standard error, however long, without the credentials of URLs."""
    STDERR.print(without_secrets(text), markup=False, highlight=False, emoji=False, soft_wrap=True)


class ConsoleHandler(logging.Handler):
    """Prints log records to standard error, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        say(self.format(record))


def set_up_logging() -> Console:
    """Show the log of seqwright from INFO on, and of everything else from WARNING on; gives the terminal."""
    handler = ConsoleHandler()
    handler.setFormatter(logging.Formatter("[%(asctime)s %(levelname)s] %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("seqwright").setLevel(logging.INFO)
    return STDERR
