"""Locks between processes, released when the process that holds them ends, however it ends."""

import contextlib
import shutil
import tempfile
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
def locked(path: Path, refusal: str, timeout: float | None = None) -> Iterator[None]:
    """Hold a lock during the block, so that no other process can hold the same lock.

    The kernel releases the lock of a process that was killed. Where the file system has no locks, or the file cannot be
    made, the block runs without a lock.

    Args:
        path: the file to lock; it exists as long as the lock is held. Its folder is made if it does not exist, and
            removed at the end if nothing else was put into it.
        refusal: the message of the error: what another process is using, and what to do.
        timeout: seconds to wait for the lock; `LOCK_TIMEOUT` if not given, as long as it takes if negative.

    Raises:
        ClientError: another process still holds the lock after that time, or the folder cannot be made.
    """
    with describe_os_errors(f"cannot write {path.parent}"):
        is_new = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
    seconds = LOCK_TIMEOUT if timeout is None else timeout
    lock = FileLock(path, seconds, poll_interval=0.1, thread_local=False, fallback_to_soft=False)
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


class TemporaryFolder:
    """A new folder, removed at the end of a `with` block. If this process is killed, the next one removes it.

    Each folder has a lock that its process holds. Making one removes those in the same place whose lock is free.

    Args:
        parent: where to make it; the system's folder for temporary files if not given.

    Attributes:
        path: the folder.

    Raises:
        ClientError: it cannot be made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        place = parent or Path(tempfile.gettempdir())
        with describe_os_errors(f"cannot write to {place}"):
            for path in place.glob(f"{_PREFIX}*/{_LOCK}"):
                _remove_if_free(path)
            new = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=place))
            self._lock = FileLock(new / _LOCK, thread_local=False)
            self._lock.acquire()
            # Only now it gets a name that other processes look at; the lock stays with the file.
            self.path = new.rename(place / new.name.removeprefix("."))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def keep(self) -> None:
        """Leave the folder to the user; it is not removed."""
        (self.path / _LOCK).unlink(missing_ok=True)
        self._lock.release()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


_PREFIX, _LOCK = "seqwright-", ".lock"


def _remove_if_free(lock: Path) -> None:
    """Remove the folder of a lock that no process holds."""
    free = FileLock(lock, blocking=False)
    with contextlib.suppress(Timeout, OSError):  # another process holds or removes it, or it is another user's
        free.acquire()
        shutil.rmtree(lock.parent, ignore_errors=True)
        free.release()
