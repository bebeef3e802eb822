"""Being asked to stop: SIGTERM (and, from a terminal, Ctrl-C) as a question that a loop can ask."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

logger = logging.getLogger(__name__)


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
