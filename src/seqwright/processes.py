"""Starting processes of our own, as parts of one command."""

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

from seqwright.interrupts import STOP_SIGNALS

_SAFE_PATH = "PYTHONSAFEPATH"


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals of `interrupts.STOP_SIGNALS` in the block, and in what is started in it.

    A signal between the start of a process and the first line that sees to its end would leave it behind.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """A context to start `multiprocessing`'s processes in, which leave signals to this one and import its modules only.

    Python looks for modules in the current folder first when it starts as `multiprocessing` starts it: a user's
    `random.py` would be run. And a terminal sends Ctrl-C to every process, to those that still import as well: the
    signals of `interrupts.STOP_SIGNALS` stay blocked in the new process, and in what it forks. In this one they are
    handled at the end of the block.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        resource_tracker.ensure_running()  # where it has yet to be started, that unblocks signals
        with signals_blocked():
            yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before
