"""The terminal that commands share, so that log lines appear above a progress bar and not in it."""

import logging

from rich.console import Console

STDERR = Console(stderr=True)
"""Standard error: progress and logs."""


class ConsoleHandler(logging.Handler):
    """Prints log records to standard error, a line each, however long."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        STDERR.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def set_up_logging() -> Console:
    """Show the log of seqwright from INFO on, and of everything else from WARNING on; gives the terminal."""
    handler = ConsoleHandler()
    handler.setFormatter(logging.Formatter("[%(asctime)s %(levelname)s] %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("seqwright").setLevel(logging.INFO)
    return STDERR
