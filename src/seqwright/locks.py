"""Locks between processes, that end with the process that holds them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from seqwright.errors import ClientError
from seqwright.files import describe_os_errors

LOCK_TIMEOUT = 10.0
"""Seconds to wait for a lock: processes that were killed together do not all end at once."""


def lock_path(path: Path) -> Path:
    """The file to lock while `path` is written, a hidden file in the same folder."""
    return path.parent / f".{path.name}.lock"


@contextlib.contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock during the block, and keep out all others that ask for the same one.

    The kernel takes it back from a process that was killed. Where a file system has no locks, or does not let the file
    be made, there is none.

    Args:
        path: the file that is locked, there as long as the lock is held. Its folder is made if need be, and does not
            stay if nothing else came into it.
        refusal: says what the lock is of, and what to do.

    Raises:
        ClientError: another process holds the lock, and has not given it up in `LOCK_TIMEOUT`; the message is `refusal`.
    """
    is_new = not path.parent.exists()
    with describe_os_errors(f"cannot write {path.parent}"):
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
