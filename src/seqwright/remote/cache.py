"""The folder that keeps copies of remote files."""

import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from seqwright.files import describe_os_errors
from seqwright.remote.filesystem import Remote, digest

CACHE_VARIABLE = "SEQWRIGHT_CACHE"


def cache_folder() -> Path:
    """Where copies of remote files are kept: `$SEQWRIGHT_CACHE`, or the user's cache folder. It may be emptied."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "seqwright"


def folder_of(remote: Remote, purpose: str) -> Path:
    """The cache's folder for something, made if need be."""
    folder = cache_folder() / purpose / digest([remote.url])
    with describe_os_errors(f"cannot keep a copy of {remote}; set {CACHE_VARIABLE} to a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


class Scratch:
    """A new folder for what is to be sent somewhere, and a claim on it that lasts no longer than this process.

    What processes that are no more have left of their own, for any place, is removed first.

    Args:
        remote: where it goes.

    Attributes:
        path: the folder.
    """

    def __init__(self, remote: Remote) -> None:
        home = folder_of(remote, "outgoing")
        with describe_os_errors(f"cannot write to {home}"), FileLock(home.parent / ".lock"):
            for claim in home.parent.glob(f"*/{_SCRATCH}*/{_CLAIM}"):
                _remove_if_free(claim)
            self.path = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=home))
            self._claim = FileLock(self.path / _CLAIM, thread_local=False)
            self._claim.acquire()

    def keep(self) -> None:
        """Leave the folder for the user to look after."""
        self._claim.release()
        (self.path / _CLAIM).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._claim.release()


_SCRATCH, _CLAIM = "new-", ".claim"


def _remove_if_free(claim: Path) -> None:
    """Remove the folder of a claim that no process holds."""
    lock = FileLock(claim, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return
    shutil.rmtree(claim.parent, ignore_errors=True)
    lock.release()
