"""Local copies of what a command reads and writes at URLs."""

import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from rich.console import Console

from seqwright.errors import ClientError, SeqwrightError
from seqwright.interrupts import StopRequested, wait_unless_stopped
from seqwright.locks import TemporaryFolder
from seqwright.remote.cache import folder_of, outgoing_folder
from seqwright.remote.filesystem import Remote, RemoteFile, is_remote, redacted
from seqwright.remote.transfers import (
    StartBar,
    fetch,
    fetch_mirror,
    progress_bars,
    read_index,
    send_file,
    send_folder,
    write_index,
)

T = TypeVar("T")

GRACE = 5.0
"""Seconds to finish sending after a stop was requested."""

_LOGGER = logging.getLogger(__name__)

_PUSHING = threading.Lock()
"""Held by the one `push` that a process makes at a time."""


def _never() -> bool:
    return False


class LocalCopies(AbstractContextManager["LocalCopies"]):
    """Local paths in place of URLs: copies of what is read, and files and folders to be sent.

    A path that is not a URL stands for itself. At the end of the block, what was written is sent; after an error only
    mirrors are, and the message of the error names URLs in place of their copies. After a request to stop, sending may
    take `GRACE` seconds; what is not sent by then is logged.

    Args:
        console: a terminal for progress bars.
        writes: whether to send anything; of several processes that do the same, one does.
        stop_requested: says whether to stop.

    Raises:
        ClientError: from any method and at the end of the block: there is no such file or folder, the service refuses
            or does not answer, or the cache cannot be written.
        StopRequested: from any method: a stop was requested while it fetched something.
    """

    def __init__(
        self, console: Console | None = None, writes: bool = True, stop_requested: Callable[[], bool] = _never
    ) -> None:
        self._console = console
        self._writes = writes
        self._stop_requested = stop_requested
        self._sends: dict[str, Callable[[bool], None]] = {}
        self._read: dict[str, str] = {}
        self._written: dict[str, str] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, SeqwrightError) and error.args == (str(error),):
            error.args = (self._with_urls(str(error)),)
        if isinstance(error, StopRequested):
            _LOGGER.warning("stopped while fetching: the same command goes on with what is here")
            return
        waiting = list(self._sends)

        def send() -> None:
            for location in list(waiting):
                self._sends[location](error is None)
                waiting.remove(location)

        try:
            wait_unless_stopped(send, self._stop_requested, GRACE)
        except (StopRequested, ClientError) as failure:
            if not self._stop_requested():
                raise
            _LOGGER.warning(
                "stopped before everything was sent to %s%s: it is kept here, and the same command goes on with it and "
                "sends it",
                " and ".join(map(redacted, waiting)),
                f" ({failure})" if str(failure) else "",
            )

    def _with_urls(self, message: str) -> str:
        """A message with the URLs that the user gave in place of paths in the cache."""
        for path, location in self._read.items():
            message = message.replace(path, redacted(location))
        for path, location in self._written.items():
            if path in message:
                url = redacted(location)
                message = f"{message.replace(path, url)} ({url} is {path} until it is sent)"
        return message

    def _with_bars(self, function: Callable[[StartBar], T]) -> T:
        """Call a function that shows progress bars, unless a stop is requested meanwhile."""

        def work() -> T:
            with progress_bars(self._console) as start_bar:
                return function(start_bar)

        return wait_unless_stopped(work, self._stop_requested, grace=0)

    def _files_of(self, remote: Remote) -> list[RemoteFile]:
        return wait_unless_stopped(remote.files, self._stop_requested, grace=0)

    def read(self, location: str) -> Path:
        """The local path of a file or folder to read, fetched into the cache if it is not there."""
        if not is_remote(location):
            return Path(location)
        path = self._with_bars(lambda start_bar: fetch(Remote(location), start_bar))
        self._read[str(path)] = location
        return path

    def read_if_given(self, location: str | None) -> Path | None:
        """As `read`; None for None."""
        return self.read(location) if location else None

    def write_file(self, location: str) -> Path:
        """The local path of a file to write. It is the same each time, so that an interrupted run can be resumed."""
        if not is_remote(location):
            return Path(location)
        remote = Remote.to_write(location)
        if any(file.path != remote.path for file in self._files_of(remote)):
            raise ClientError(f"cannot write {remote}: it is a folder; name a file")
        path = folder_of(remote, "outgoing") / remote.name

        def send(succeeded: bool) -> None:
            if self._writes and succeeded and path.exists():
                send_file(remote, path, remote.path)
                shutil.rmtree(path.parent, ignore_errors=True)

        self._sends[location], self._written[str(path)] = send, location
        return path

    def write_folder(self, location: str, may_exist: bool = False) -> Path:
        """The local path of a folder to write.

        Args:
            location: the path or URL.
            may_exist: whether files that exist there may be replaced.
        """
        if not is_remote(location):
            return Path(location)
        remote = Remote.to_write(location)
        if self._writes and not may_exist and self._files_of(remote):
            raise ClientError(f"{remote} already exists and is not empty: name another folder or remove it")
        temporary = TemporaryFolder(outgoing_folder())
        path = temporary.path / remote.name

        def send(succeeded: bool) -> None:
            if self._writes and succeeded:
                try:
                    send_folder(remote, path, index={})
                except ClientError:
                    temporary.keep()
                    raise
            temporary.remove()

        self._sends[location], self._written[str(path)] = send, location
        return path

    def mirror(self, location: str) -> Path:
        """The local path of a folder to read and write, a mirror of the remote one.

        It is fetched now, and sent by `push` and at the end of the block: only what another run needs, so no hidden
        files, and nothing in a folder `corpus`.
        """
        if not is_remote(location):
            return Path(location)
        remote = Remote.to_write(location)
        path = folder_of(remote, "mirrors") / remote.name
        if not self._writes:
            return path
        self._with_bars(lambda start_bar: fetch_mirror(remote, path, start_bar))
        self._written[str(path)] = location
        self._sends[location] = lambda succeeded: push(location) if succeeded else try_to_push(location)
        return path


def push(location: str) -> None:
    """Make a remote folder equal to its mirror; does nothing for a local path.

    Raises:
        ClientError: the service refuses or does not answer.
    """
    if is_remote(location):
        remote = Remote(location)
        path = folder_of(remote, "mirrors") / remote.name
        with _PUSHING:
            index = read_index(path)
            send_folder(remote, path, index, delete_others=True, save_index=lambda: write_index(path, index))


def try_to_push(location: str, stop_requested: Callable[[], bool] = _never) -> None:
    """As `push`, but a failure is only logged: the next checkpoint sends what is missing.

    After a request to stop it does nothing, or returns while something is being sent; the end of the command waits for
    that.
    """
    if stop_requested():
        return
    try:
        wait_unless_stopped(lambda: push(location), stop_requested, grace=0)
    except StopRequested:
        return
    except ClientError as error:
        _LOGGER.warning("%s; what is there stays as it was until the next checkpoint", error)
