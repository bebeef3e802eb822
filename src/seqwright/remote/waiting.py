"""Waiting for the other side, but not for ever once a stop was requested."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")

StopRequested = Callable[[], bool]
"""Says whether to stop, to go on another time; asked again and again, from any thread."""

_INTERVAL = 0.1
"""Seconds between two questions whether to stop."""


class StoppedError(Exception):
    """A stop was requested before all was done; what was done is kept, and the same command goes on from it."""


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


def outlast(work: Callable[[], T], stop_requested: StopRequested, grace: float) -> T:
    """What `work` gives, however long it takes, but for a stop.

    Args:
        work: what to do; it goes on in the background where it is not waited for.
        stop_requested: says whether to stop.
        grace: seconds to wait after that.

    Raises:
        StoppedError: it was not done `grace` seconds after a stop was requested.
    """
    future, until = in_background(work), float("inf")
    while not wait([future], _INTERVAL).done:
        if stop_requested():
            until = min(until, time.monotonic() + grace)
        if time.monotonic() >= until:
            raise StoppedError
    return future.result()
