"""Being asked to end: as a question that a loop can ask, or as an end that tidies up."""

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

Handler = Callable[[int, FrameType | None], None]


class StopRequested(Exception):  # noqa: N818 - it is no error
    """What was going on was given up, for a stop was requested; there is nothing to save."""


@contextlib.contextmanager
def stop_on_signals(*numbers: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether one of the signals has come; the first is caught, a second has its old effect.

    Args:
        numbers: the signals, `ENDING` for example. SIGHUP stays ignored where it is, as `nohup` has it, and a second
            one is too: shells repeat it.
    """
    requested = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        requested.set()
        logger.warning(
            "%s: stopping after this update; give the signal again to stop at once", signal.Signals(number).name
        )

    with _caught_once(numbers, note):
        yield requested.is_set


@contextlib.contextmanager
def end_on_signals(*numbers: signal.Signals) -> Iterator[None]:
    """In the block, the first of the signals raises `SystemExit` with status 128 and its number, as shells have it.

    So what was begun is tidied up, which the signals' default does not do; a second one has its old effect.

    Args:
        numbers: the signals; SIGHUP as in `stop_on_signals`.
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    with _caught_once(numbers, end):
        yield


@contextlib.contextmanager
def _caught_once(numbers: tuple[signal.Signals, ...], handle: Handler) -> Iterator[None]:
    """Handle the first of the signals, after which all have their old effect, but SIGHUP none."""
    before = {number: signal.getsignal(number) for number in numbers}
    if before.get(signal.SIGHUP) is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def first(number: int, frame: FrameType | None) -> None:
        restore()
        if signal.SIGHUP in before:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        handle(number, frame)

    for number in before:
        signal.signal(number, first)
    try:
        yield
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
