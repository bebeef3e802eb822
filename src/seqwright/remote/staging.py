"""Local paths in place of the paths that a command was given."""

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
from seqwright.remote.filesystem import Remote, RemoteFile, is_remote, shown
from seqwright.remote.transfers import (
    Bars,
    bars_on,
    fetch,
    fetch_folder,
    read_index,
    send_file,
    send_folder,
    write_index,
)

T = TypeVar("T")

GRACE = 5.0
"""Seconds that what a command has written may take to be sent, once a stop was requested."""

_LOGGER = logging.getLogger(__name__)

_PUSHING = threading.Lock()
"""Held by the one push that a process makes at a time."""


def _never() -> bool:
    return False


class Staging(AbstractContextManager["Staging"]):
    """Local paths in place of the paths that a command was given.

    When the block ends without an error, what was written is sent to where it belongs; after an error only mirrored
    folders are, and its message names URLs in place of their copies. Once a stop was requested, nothing that is not
    sent within `GRACE` is waited for; that is logged.

    Args:
        console: a terminal for progress bars.
        writes: whether to write at all; of several processes that do the same, one does.
        stop_requested: says whether to stop.

    Raises:
        ClientError: from any method and at the end of the block: the other side has no such thing, refuses, or does not
            answer; or the cache cannot be written.
        StopRequested: from any method: a stop was requested before all was there.
    """

    def __init__(
        self, console: Console | None = None, writes: bool = True, stop_requested: Callable[[], bool] = _never
    ) -> None:
        self._console = console
        self._writes = writes
        self._stop_requested = stop_requested
        self._sends: dict[str, Callable[[bool], None]] = {}
        self._copies: dict[str, str] = {}
        self._written: dict[str, str] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, SeqwrightError) and error.args == (str(error),):
            error.args = (self._with_urls(str(error)),)
        if isinstance(error, StopRequested):
            _LOGGER.warning("stopped before all was here: the same command goes on from what is")
            return
        waiting = list(self._sends)

        def send() -> None:
            for location in list(waiting):
                self._sends[location](error is None)
                waiting.remove(location)

        try:
            wait_unless_stopped(send, self._stop_requested, GRACE)
        except (StopRequested, ClientError) as failed:
            if not self._stop_requested():
                raise
            reason = f" ({failed})" if str(failed) else ""
            names = " and ".join(map(shown, waiting))
            _LOGGER.warning(
                "ending without all that belongs to %s%s: it is kept here, and the same command goes on from it and "
                "sends it",
                *(names, reason),
            )

    def _with_urls(self, message: str) -> str:
        """A message that speaks of what the user named, and not of the cache alone."""
        for path, location in self._copies.items():
            message = message.replace(path, shown(location))
        for path, location in self._written.items():
            if path in message:
                message = f"{message.replace(path, shown(location))} ({shown(location)} is {path} until it is sent)"
        return message

    def _bring(self, function: Callable[[Bars], T]) -> T:
        """What a function gives that is told how to show progress bars."""

        def work() -> T:
            with bars_on(self._console) as bars:
                return function(bars)

        return wait_unless_stopped(work, self._stop_requested, grace=0)

    def _files_of(self, remote: Remote) -> list[RemoteFile]:
        return wait_unless_stopped(remote.files, self._stop_requested, grace=0)

    def read(self, location: str) -> Path:
        """A file or folder to read."""
        if not is_remote(location):
            return Path(location)
        path = self._bring(lambda bars: fetch(Remote(location), bars))
        self._copies[str(path)] = location
        return path

    def read_if_given(self, location: str | None) -> Path | None:
        """As `read`; nothing for nothing."""
        return self.read(location) if location else None

    def write_file(self, location: str) -> Path:
        """A file to write, whose place is the same each time, so that a broken run finds what it left."""
        if not is_remote(location):
            return Path(location)
        remote = Remote.to_write(location)
        if any(file.path != remote.path for file in self._files_of(remote)):
            raise ClientError(f"cannot write {remote}: it is a folder; name a file")
        path = folder_of(remote, "outgoing") / remote.name

        def send(has_ended_well: bool) -> None:
            if self._writes and has_ended_well and path.exists():
                send_file(remote, path, remote.path)
                shutil.rmtree(path.parent, ignore_errors=True)

        self._sends[location], self._written[str(path)] = send, location
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
        if self._writes and not may_exist and self._files_of(remote):
            raise ClientError(f"{remote} already exists and is not empty: name another folder or remove it")
        temporary = TemporaryFolder(outgoing_folder())
        path = temporary.path / remote.name

        def send(has_ended_well: bool) -> None:
            if self._writes and has_ended_well:
                try:
                    send_folder(remote, path, known={})
                except ClientError:
                    temporary.keep()
                    raise
            temporary.remove()

        self._sends[location], self._written[str(path)] = send, location
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
        self._bring(lambda bars: fetch_folder(remote, path, bars))
        self._written[str(path)] = location
        self._sends[location] = lambda has_ended_well: push(location) if has_ended_well else try_to_push(location)
        return path


def push(location: str) -> None:
    """Make the remote folder like its mirror; does nothing for a local one.

    Raises:
        ClientError: the other side refuses, or does not answer.
    """
    if is_remote(location):
        remote = Remote(location)
        path = folder_of(remote, "mirrors") / remote.name
        with _PUSHING:
            known = read_index(path)
            send_folder(remote, path, known, exact=True, note=lambda: write_index(path, known))


def try_to_push(location: str, stop_requested: Callable[[], bool] = _never) -> None:
    """As `push`, but a failure is only logged: there will be another time.

    Once a stop was requested it does nothing, and returns while something is being sent: the end of the command waits
    for that.
    """
    if stop_requested():
        return
    try:
        wait_unless_stopped(lambda: push(location), stop_requested, grace=0)
    except StopRequested:
        return
    except ClientError as error:
        _LOGGER.warning("%s; what is there stays as it was until the next checkpoint", error)
