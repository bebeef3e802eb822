"""Requests to stop: signals that a loop asks about or that raise `SystemExit`, and waiting that a request ends."""

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

from seqwright.errors import client_error_from

T = TypeVar("T")

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a command: of Ctrl-C, of `kill` and service managers, of a terminal that is closed."""

Handler = Callable[[int, FrameType | None], None]


class StopRequested(Exception):  # noqa: N818 - it is no error
    """The work was given up because a stop was requested; nothing is left to save."""


@contextlib.contextmanager
def stop_on_signals(*numbers: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether one of the signals has come. A second signal has its former effect.

    Args:
        numbers: the signals, for example `STOP_SIGNALS`. If SIGHUP is ignored, as under `nohup`, it stays so. A second
            SIGHUP is ignored, too, because shells repeat it.
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
    """Let the first of the signals raise `SystemExit` in the block, with the status of shells: 128 plus its number.

    The default of the signals would end the process without `finally` and `with` blocks. A second signal has its former
    effect.

    Args:
        numbers: the signals; for SIGHUP see `stop_on_signals`.
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    with _caught_once(numbers, end):
        yield


@contextlib.contextmanager
def _caught_once(numbers: tuple[signal.Signals, ...], handle: Handler) -> Iterator[None]:
    """Handle the first of the signals; after it all have their former effect, but SIGHUP is ignored."""
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
    """Let SIGTERM raise `SystemExit` with status 0 in the block.

    By default the status would be that of the signal, and the first process of a container would ignore it.

    Yields:
        A function that ends the process if the signal has come before. Call it after code that may have swallowed the
        `SystemExit`, such as an import.
    """
    received = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        sys.exit(0)

    def end_if_received() -> None:
        if received:
            sys.exit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield end_if_received
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def in_background(work: Callable[[], T]) -> "Future[T]":
    """Call `work` in a thread that does not keep the process from ending.

    Raises:
        ClientError: the system refuses another thread.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as error:
        raise client_error_from(error) or error from error
    return future


def wait_unless_stopped(work: Callable[[], T], stop_requested: Callable[[], bool], grace: float) -> T:
    """Call `work` and return its result, or give up waiting for it after a request to stop.

    Args:
        work: the function; it continues in the background if it is given up.
        stop_requested: tells whether to stop.
        grace: seconds to wait after a request to stop.

    Raises:
        StopRequested: it had not returned `grace` seconds after a stop was requested.
    """
    future, deadline = in_background(work), float("inf")
    while not wait([future], _INTERVAL).done:
        if stop_requested():
            deadline = min(deadline, time.monotonic() + grace)
        if time.monotonic() >= deadline:
            raise StopRequested
    return future.result()


_INTERVAL = 0.1
"""Seconds between two calls of `stop_requested`."""
