"""Locks between processes, that end with the process that holds them."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from seqwright.errors import ClientError
from seqwright.files import explained

if sys.platform != "win32":
    import fcntl

PATIENCE = 10.0
"""Seconds to wait for a lock: processes that were killed together do not all end at once."""


@contextlib.contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock during the block, and keep out all others that ask for the same one.

    The kernel takes it back from a process that was killed. Where a file system has no locks, or does not let the file
    be made, there is none.

    Args:
        path: the file that is locked, there as long as the lock is held.
        refusal: says what the lock is of, and what to do.

    Raises:
        ClientError: another process holds the lock, and has not given it up in `PATIENCE`; the message is `refusal`.
    """
    with explained(f"cannot write {path.parent}"):
        path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + PATIENCE
    while (descriptor := _open(path)) is not None and not _take(descriptor, path):
        os.close(descriptor)
        if time.monotonic() > until:
            raise ClientError(refusal)
        time.sleep(0.1)
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _open(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    return None


def _take(descriptor: int, path: Path) -> bool:
    """Lock an open file, where that is possible at all; False if another process has it, or has just removed it."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
