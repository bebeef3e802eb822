"""Standard error as a console that progress bars and log lines share, so that a log line appears above a bar."""

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TextIO, cast

from rich.console import Console

LOG_FORMAT = "[%(asctime)s %(levelname)s] %(message)s"
"""How a log record becomes a line, in the syntax of `logging.Formatter`."""


class _CurrentStandardError:
    """A text stream that writes to what `sys.stderr` is at that time, and ignores that it cannot be written.

    A program may replace `sys.stderr` after the console was made, and a full disk under a log must not end training.
    """

    @property
    def _stream(self) -> TextIO | None:
        # While rich shows a progress bar, sys.stderr is a proxy that would send the text back to the console.
        stream: TextIO | None = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        return stream

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


STDERR = Console(stderr=True, file=cast(TextIO, _CurrentStandardError()))
"""Standard error; in a Jupyter notebook, the output of the cell."""


def can_show_bars(console: Console | None) -> bool:
    """Whether a progress bar of rich moves on this console: on a terminal, or in Jupyter where ipywidgets is installed.

    Where it does not, show progress as log lines.
    """
    if console is None:
        return False
    return console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)


def print_line(console: Console, text: str) -> None:
    """Print `text` as it is, without wrapping long lines or reading markup in it."""
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


class ConsoleHandler(logging.Handler):
    """Prints each log record to a console, as one line.

    Args:
        console: where the lines go.
        edit: changes the text of each line before it is printed, to remove passwords for example.
    """

    def __init__(self, console: Console = STDERR, edit: Callable[[str], str] = str) -> None:
        super().__init__()
        self._console = console
        self._edit = edit
        self.setFormatter(logging.Formatter(LOG_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        print_line(self._console, self._edit(self.format(record)))


@contextlib.contextmanager
def log_to(console: Console | None) -> Iterator[None]:
    """While the block runs, print the log of seqwright from INFO on to `console`.

    Does nothing where `console` is None, or where the program has set up logging itself: then its handlers decide.
    """
    logger = logging.getLogger("seqwright")
    if console is None or logger.hasHandlers():
        yield
        return
    handler, level = ConsoleHandler(console), logger.level
    logger.addHandler(handler)
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def set_up_logging(edit: Callable[[str], str] = str) -> Console:
    """Print the log of seqwright from INFO on, and of other libraries from WARNING on, to standard error.

    Replaces the handlers of the root logger: for a process that is seqwright's own, such as a command or a process
    that training starts.

    Args:
        edit: changes the text of each line before it is printed.

    Returns:
        Standard error, for progress bars.
    """
    logging.basicConfig(level=logging.WARNING, handlers=[ConsoleHandler(STDERR, edit)], force=True)
    logging.getLogger("seqwright").setLevel(logging.INFO)
    return STDERR
