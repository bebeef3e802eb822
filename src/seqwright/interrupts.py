"""Being asked to stop: SIGTERM (and, from a terminal, Ctrl-C) as a question that a loop can ask, or as a clean end."""

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

logger = logging.getLogger(__name__)

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a command to end: Ctrl-C, `kill` and service managers, a terminal that is closed."""


class StopRequested(Exception):  # noqa: N818 - it is no error
    """What was going on was given up, for a stop was requested; there is nothing to save."""


@contextlib.contextmanager
def stop_on_signals(*numbers: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether one of the signals has come; the first is caught, a second has its old effect.

    Args:
        numbers: the signals, SIGTERM and SIGINT for example.
    """
    requested = threading.Event()
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: FrameType | None) -> None:
        requested.set()
        restore()
        logger.warning(
            "%s: stopping after this update; give the signal again to stop at once", signal.Signals(number).name
        )

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in numbers:
        signal.signal(number, note)
    try:
        yield requested.is_set
    finally:
        restore()


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[Callable[[], None]]:
    """Let SIGTERM end the process with status 0 while the block runs: it raises `SystemExit` in it.

    Without, it would end with the signal's status; as the first process of a container it would not end at all.

    Yields:
        What ends the process where the signal has come and what ran then, an import for example, has swallowed it.
    """
    asked = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        sys.exit(0)

    def end_if_asked() -> None:
        if asked:
            sys.exit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield end_if_asked
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
