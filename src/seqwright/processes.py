"""Starting processes of our own by `multiprocessing`, as a part of one command."""

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

from seqwright.interrupts import ENDING

_SAFE_PATH = "PYTHONSAFEPATH"


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """A context to start processes in that import nothing of the current folder and leave signals to this one.

    Python looks for modules in the current folder first when it starts as `multiprocessing` starts it: a user's
    `random.py` would be run. And a terminal sends Ctrl-C to every process, to those that still import as well: the
    signals of `interrupts.ENDING` stay blocked in the new process, and in what it forks. They wait for the end of the
    block in this one.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        resource_tracker.ensure_running()  # where it has yet to be started, that unblocks signals
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before
