"""What commands print to standard error: messages and the log, without the credentials of URLs."""

from rich.console import Console

import seqwright.console
from seqwright.console import STDERR, print_line
from seqwright.remote import without_secrets

__all__ = ["STDERR", "say", "set_up_logging"]


def say(text: str) -> None:
    """Print a message to standard error, without the credentials of URLs."""
    print_line(STDERR, without_secrets(text))


def set_up_logging() -> Console:
    """Set up logging as `seqwright.console.set_up_logging` does, without the credentials of URLs."""
    return seqwright.console.set_up_logging(without_secrets)
