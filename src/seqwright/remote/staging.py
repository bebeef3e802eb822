"""Local paths in place of the paths that a command was given."""

import logging
import shutil
import tempfile
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

from rich.console import Console

from seqwright.errors import ClientError
from seqwright.remote.cache import folder_of
from seqwright.remote.filesystem import Remote, is_remote
from seqwright.remote.transfers import bars_on, fetch, fetch_folder, read_index, send_file, send_folder, write_index

_LOGGER = logging.getLogger(__name__)


class Staging(AbstractContextManager["Staging"]):
    """Local paths in place of the paths that a command was given.

    When the block ends without an error, what was written is sent to where it belongs; after an error only mirrored
    folders are.

    Args:
        console: a terminal for progress bars.
        writes: whether to write at all; of several processes that do the same, one does.

    Raises:
        ClientError: from any method and at the end of the block: the other side has no such thing, refuses, or does not
            answer; or the cache cannot be written.
    """

    def __init__(self, console: Console | None = None, writes: bool = True) -> None:
        self._console = console
        self._writes = writes
        self._stack = ExitStack()
        self._ended_well = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended_well = error is None
        self._stack.__exit__(kind, error, traceback)

    def read(self, location: str) -> Path:
        """A file or folder to read."""
        if not is_remote(location):
            return Path(location)
        remote = Remote(location)
        with bars_on(self._console) as bars:
            return fetch(remote, bars)

    def read_if_given(self, location: str | None) -> Path | None:
        """As `read`; nothing for nothing."""
        return self.read(location) if location else None

    def write_file(self, location: str) -> Path:
        """A file to write, whose place is the same each time, so that a broken run finds what it left."""
        if not is_remote(location):
            return Path(location)
        remote = Remote.to_write(location)
        if any(file.path != remote.path for file in remote.files()):
            raise ClientError(f"cannot write {remote}: it is a folder; name a file")
        path = folder_of(remote, "outgoing") / remote.name

        def send() -> None:
            if self._writes and self._ended_well and path.exists():
                send_file(remote, path, remote.path)
                shutil.rmtree(path.parent, ignore_errors=True)

        self._stack.callback(send)
        return path

    def write_folder(self, location: str, may_exist: bool = False) -> Path:
        """A folder to write.

        Args:
            location: where it goes.
            may_exist: whether files that are there already may be replaced.
        """
        if not is_remote(location):
            return Path(location)
        remote = Remote.to_write(location)
        if self._writes and not may_exist and remote.files():
            raise ClientError(f"{remote} already exists and is not empty: name another folder or remove it")
        path = Path(tempfile.mkdtemp(dir=folder_of(remote, "outgoing"))) / remote.name

        def send() -> None:
            if self._writes and self._ended_well:
                send_folder(remote, path, known={})
                shutil.rmtree(path.parent, ignore_errors=True)

        self._stack.callback(send)
        return path

    def mirror(self, location: str) -> Path:
        """A folder to read and write that is like the remote one now, and made like this one by `push` and at the end.

        Only what a run leaves for another is sent: no hidden files, and nothing in a folder `corpus`.
        """
        if not is_remote(location):
            return Path(location)
        remote = Remote.to_write(location)
        path = folder_of(remote, "mirrors") / remote.name
        if not self._writes:
            return path
        with bars_on(self._console) as bars:
            fetch_folder(remote, path, bars)
        self._stack.callback(lambda: push(location) if self._ended_well else try_to_push(location))
        return path


def push(location: str) -> None:
    """Make the remote folder like its mirror; does nothing for a local one.

    Raises:
        ClientError: the other side refuses, or does not answer.
    """
    if is_remote(location):
        remote = Remote(location)
        path = folder_of(remote, "mirrors") / remote.name
        known = read_index(path)
        try:
            send_folder(remote, path, known, exact=True)
        finally:
            write_index(path, known)


def try_to_push(location: str) -> None:
    """As `push`, but a failure is only logged: there will be another time."""
    try:
        push(location)
    except ClientError as error:
        _LOGGER.warning("%s; what is there stays as it was until the next checkpoint", error)
