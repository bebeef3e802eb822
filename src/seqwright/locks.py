"""Locks between processes, released when the process that holds them ends, however it ends."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from seqwright.errors import ClientError
from seqwright.files import describe_os_errors

LOCK_TIMEOUT = 10.0
"""Seconds to wait for a lock: of processes that were killed together, some end later than others."""


def lock_path(path: Path) -> Path:
    """The file to lock while `path` is written, a hidden file in the same folder."""
    return path.parent / f".{path.name}.lock"


@contextlib.contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock during the block, so that no other process can hold the same lock.

    The kernel releases the lock of a process that was killed. Where the file system has no locks, or the file cannot be
    made, the block runs without a lock.

    Args:
        path: the file to lock; it exists as long as the lock is held. Its folder is made if it does not exist, and
            removed at the end if nothing else was put into it.
        refusal: the message of the error: what another process is using, and what to do.

    Raises:
        ClientError: another process still holds the lock after `LOCK_TIMEOUT`, or the folder cannot be made.
    """
    with describe_os_errors(f"cannot write {path.parent}"):
        is_new = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, LOCK_TIMEOUT, poll_interval=0.1, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ClientError(refusal) from error
    except OSError:
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                path.parent.rmdir()
