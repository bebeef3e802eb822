"""Being asked to end: as a question that a loop can ask, as an end that tidies up, or while something is waited for."""

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a command to end: Ctrl-C, `kill` and service managers, a terminal that is closed."""

Handler = Callable[[int, FrameType | None], None]


class StopRequested(Exception):  # noqa: N818 - it is no error
    """What was going on was given up, for a stop was requested; there is nothing to save that is not saved."""


@contextlib.contextmanager
def stop_on_signals(*numbers: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether one of the signals has come; the first is caught, a second has its old effect.

    Args:
        numbers: the signals, `STOP_SIGNALS` for example. SIGHUP stays ignored where it is, as `nohup` has it, and a
            second one is too: shells repeat it.
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
def exit_on_signals(*numbers: signal.Signals) -> Iterator[None]:
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
def exit_on_sigterm() -> Iterator[Callable[[], None]]:
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


def in_background(work: Callable[[], T]) -> "Future[T]":
    """Do `work` in a thread that does not keep the process from ending, whatever it waits for."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def wait_unless_stopped(work: Callable[[], T], stop_requested: Callable[[], bool], grace: float) -> T:
    """What `work` gives, however long it takes, but for a stop.

    Args:
        work: what to do; it goes on in the background where it is not waited for.
        stop_requested: says whether to stop.
        grace: seconds to wait after that.

    Raises:
        StopRequested: it was not done `grace` seconds after a stop was requested.
    """
    future, until = in_background(work), float("inf")
    while not wait([future], _INTERVAL).done:
        if stop_requested():
            until = min(until, time.monotonic() + grace)
        if time.monotonic() >= until:
            raise StopRequested
    return future.result()


_INTERVAL = 0.1
"""Seconds between two questions whether to stop."""
