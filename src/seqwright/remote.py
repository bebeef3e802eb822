"""Paths that are URLs: `s3://` and whatever else fsspec knows, brought here to be read, and sent there once written.

All other rooms work on local files. A command asks its `Staging` for a local path in place of each of its own: a local
path stands for itself, a URL for a copy in the cache. Reads are cut in ranges, several at a time, and are cached by
the version that the other side tells; what was interrupted goes on where it stopped. Everything is tried again, after
longer and longer waits, unless the answer is final. No message has the credentials that a URL may carry.
"""

import functools
import hashlib
import json
import logging
import os
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import tenacity
from filelock import FileLock
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from seqwright.errors import ClientError
from seqwright.files import explained, writing

T = TypeVar("T")

RANGE = 16 << 20
"""Bytes that one request reads."""

STREAMS = 4
"""Requests at a time."""

ATTEMPTS = 6
"""Tries of a request, with waits of about 0.5, 1, 2, 4 and 8 seconds between them."""

CACHE_VARIABLE = "SEQWRIGHT_CACHE"

_LAST = ("config.json", "state.json")
"""Files that make a folder a model or a checkpoint: sent after all others, so that a half-sent one is neither."""

_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}}
}
"""What file systems are told beyond their own configuration; repeating is done here."""

_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
"""Object stores: what is sent there appears when all of it has arrived. Elsewhere it is renamed into place."""

_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_FINAL_NAMES = frozenset({"NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "ValueError"})

logger = logging.getLogger(__name__)


def is_remote(location: str) -> bool:
    """Whether a path is a URL."""
    return "://" in location


def shown(location: str) -> str:
    """A path as it may appear in messages: a URL without user, password and query, any of which may be a secret."""
    if not is_remote(location):
        return location
    parts = urlsplit(location)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def join(location: str, name: str) -> str:
    """The path of something within a folder."""
    return f"{location.rstrip('/')}/{name}" if is_remote(location) else str(Path(location) / name)


def cache_folder() -> Path:
    """Where copies of remote files are kept: `$SEQWRIGHT_CACHE`, or the user's cache folder. It may be emptied."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "seqwright"


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
        remote = _Remote(location)
        with _bars(self._console) as bars:
            return _fetch(remote, bars)

    def read_if_given(self, location: str | None) -> Path | None:
        """As `read`; nothing for nothing."""
        return self.read(location) if location else None

    def write_file(self, location: str) -> Path:
        """A file to write, whose place is the same each time, so that a broken run finds what it left."""
        if not is_remote(location):
            return Path(location)
        remote = _Remote.to_write(location)
        path = _folder_of(remote, "outgoing") / remote.name

        def send() -> None:
            if self._writes and self._ended_well and path.exists():
                _send(remote, path, remote.path)
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
        remote = _Remote.to_write(location)
        if self._writes and not may_exist and remote.files():
            raise ClientError(f"{remote} already exists and is not empty: name another folder or remove it")
        path = Path(tempfile.mkdtemp(dir=_folder_of(remote, "outgoing"))) / remote.name

        def send() -> None:
            if self._writes and self._ended_well:
                _push(remote, path, known={})
                shutil.rmtree(path.parent, ignore_errors=True)

        self._stack.callback(send)
        return path

    def mirror(self, location: str) -> Path:
        """A folder to read and write that is like the remote one now, and made like this one by `push` and at the end.

        Only what a run leaves for another is sent: no hidden files, and nothing in a folder `corpus`.
        """
        if not is_remote(location):
            return Path(location)
        remote = _Remote.to_write(location)
        path = _folder_of(remote, "mirrors") / remote.name
        if not self._writes:
            return path
        with _bars(self._console) as bars:
            _pull(remote, path, bars)
        self._stack.callback(lambda: push(location) if self._ended_well else try_to_push(location))
        return path


def push(location: str) -> None:
    """Make the remote folder like its mirror; does nothing for a local one.

    Raises:
        ClientError: the other side refuses, or does not answer.
    """
    if is_remote(location):
        remote = _Remote(location)
        path = _folder_of(remote, "mirrors") / remote.name
        known = _read_index(path)
        try:
            _push(remote, path, known, exact=True)
        finally:
            _write_index(path, known)


def try_to_push(location: str) -> None:
    """As `push`, but a failure is only logged: there will be another time."""
    try:
        push(location)
    except ClientError as error:
        logger.warning("%s; what is there stays as it was until the next checkpoint", error)


@dataclass(frozen=True)
class _File:
    """A file of the other side.

    Attributes:
        name: relative to what was asked for; its last part where that is the file itself.
        path: as the file system calls it.
        size: in bytes, where that is known.
        version: differs when the content does; empty where the other side tells nothing of the kind.
    """

    name: str
    path: str
    size: int | None
    version: str


class _Remote:
    """A URL and the file system that knows it."""

    def __init__(self, url: str) -> None:
        import fsspec
        from fsspec.core import url_to_fs

        self.url = url
        scheme = urlsplit(url).scheme
        try:
            self.fs, self.path = url_to_fs(url.rstrip("/"), skip_instance_cache=True, **_OPTIONS.get(scheme, {}))
        except ImportError as error:
            raise ClientError(f"{self}: {scheme}:// needs a package more: pip install 'seqwright[s3]'") from error
        except ValueError as error:
            known = ", ".join(sorted(fsspec.available_protocols()))
            raise ClientError(f"{self}: {scheme}:// is unknown; known are {known}") from error
        self.is_whole = scheme in _WHOLE

    @classmethod
    def to_write(cls, url: str) -> "_Remote":
        """One that can be written to, as far as its scheme tells."""
        if urlsplit(url).scheme in ("http", "https"):
            raise ClientError(f"{shown(url)} cannot be written to: name a folder, or another kind of URL")
        return cls(url)

    def __str__(self) -> str:
        return shown(self.url)

    @property
    def name(self) -> str:
        return posixpath.basename(urlsplit(self.url).path.rstrip("/")) or "all"

    def call(self, doing: str, function: Callable[..., T], *arguments: object, **options: object) -> T:
        """What a function of the file system gives, in the end.

        Raises:
            ClientError: it failed for good; the message starts with `doing`, `cannot read` for one.
        """
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            wait=tenacity.wait_exponential(0.5, max=20) + tenacity.wait_random(0, 0.5),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            before_sleep=lambda state: self._tell(doing, state),
            reraise=True,
        )
        try:
            return tries(function, *arguments, **options)
        except FileNotFoundError as error:
            raise ClientError(f"{doing} {self}: there is no such thing, or no such bucket") from error
        except Exception as error:
            raise ClientError(f"{doing} {self}: {self.reason(error)}") from error

    def _tell(self, doing: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        tried = f"attempt {state.attempt_number} of {ATTEMPTS}"
        logger.warning("%s %s: %s; trying again (%s)", doing, self, self.reason(error), tried)

    def reason(self, error: BaseException | None) -> str:
        """What an error says, without the secrets of the URL."""
        text = str(error) or type(error).__name__
        parts = urlsplit(self.url)
        for secret in (self.url, parts.netloc.rpartition("@")[0], parts.query, parts.password):
            if secret:
                text = text.replace(secret, str(self) if secret == self.url else "***")
        if isinstance(error, PermissionError) or type(error).__name__ in _FINAL_NAMES:
            text += " (check the credentials, and what they allow)"
        return text

    def _find(self) -> Mapping[str, Mapping[str, Any]]:
        try:
            info = self.fs.info(self.path)
        except FileNotFoundError:
            if not self.is_whole:
                return {}
            info = {"type": "directory"}  # a prefix without keys, unless the bucket is not there either
        return {self.path: info} if info["type"] == "file" else self.fs.find(self.path, detail=True)

    def files(self) -> list[_File]:
        """Every file of a folder, or the file itself; none where there is nothing."""
        self.fs.invalidate_cache()
        found: Mapping[str, Mapping[str, Any]] = self.call("cannot read", self._find)
        files = []
        for path, info in sorted(found.items()):
            name = path.removeprefix(self.path).strip("/") if path != self.path else self.name
            if info.get("type") == "directory" or path.endswith("/"):
                continue
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise ClientError(f"cannot read {self}: the name {name!r} leads out of it")
            files.append(_File(name, path, info.get("size"), _version(info)))
        return files


def _version(info: Mapping[str, Any]) -> str:
    marks = [info.get(key) for key in ("ETag", "etag", "md5Hash", "mtime", "created", "LastModified", "last_modified")]
    told = [str(mark) for mark in marks if mark]
    return _digest([*told, str(info.get("size"))]) if told else ""


def _may_pass(error: BaseException) -> bool:
    """Whether a failure may be over the next time."""
    final = isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES
    return isinstance(error, Exception) and not final


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _folder_of(remote: _Remote, purpose: str) -> Path:
    """The cache's folder for something, made if need be."""
    folder = cache_folder() / purpose / _digest([remote.url])
    with explained(f"cannot keep a copy of {remote}; set {CACHE_VARIABLE} to a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


Bars = Callable[[str, int | None], Callable[[int], None]]
"""Starts a progress bar with a text and a total of bytes; gives what moves it on."""


@contextmanager
def _bars(console: Console | None) -> Iterator[Bars]:
    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not (console and console.is_terminal)) as progress:

        def start(text: str, total: int | None) -> Callable[[int], None]:
            task = progress.add_task(text, total=total)
            return lambda count: progress.advance(task, count)

        yield start


def _fetch(remote: _Remote, bars: Bars) -> Path:
    """The cached copy of a remote file or folder, brought here first if there is none of this version."""
    files = remote.files()
    if not files:
        raise ClientError(f"cannot read {remote}: there is no such thing, or it may not be read")
    is_file = len(files) == 1 and files[0].path == remote.path
    home = _folder_of(remote, "copies")
    if any(not file.version for file in files):
        shutil.rmtree(home, ignore_errors=True)  # whether what is there is still the same, nobody can tell
        home.mkdir(parents=True, exist_ok=True)
    version = _digest([part for file in files for part in (file.name, file.version)])
    folder = home / version / remote.name
    with explained(f"cannot keep a copy of {remote} in {home}"), FileLock(home / ".lock"):
        if _fetch_missing(remote, {home / version / _local_name(file, remote, is_file): file for file in files}, bars):
            now = {file.name: file.version for file in remote.files()}
            if any(file.version != now.get(file.name) for file in files if file.version):
                shutil.rmtree(home / version, ignore_errors=True)
                raise ClientError(f"cannot read {remote}: it changed while it was read; try again when it is complete")
        for old in home.iterdir():
            if old.name not in (version, ".lock"):
                shutil.rmtree(old, ignore_errors=True)
    return folder


def _local_name(file: _File, remote: _Remote, is_file: bool) -> str:
    return remote.name if is_file else f"{remote.name}/{file.name}"


def _fetch_missing(remote: _Remote, files: Mapping[Path, _File], bars: Bars) -> bool:
    """Bring the files here that are not at their places yet; whether there were any."""
    missing = {target: file for target, file in files.items() if not target.exists()}
    if missing:
        size = sum(file.size or 0 for file in missing.values())
        logger.info("fetching %s, %.1f MB", remote, size / 1e6)
        advance = bars(f"fetching {remote}", size or None)
        for target, file in missing.items():
            _fetch_file(remote, file, target, advance)
    return bool(missing)


def _fetch_file(remote: _Remote, file: _File, target: Path, advance: Callable[[int], None]) -> None:
    """Bring a file here; what an earlier try got is kept."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if file.size is None:
        remote.call("cannot read", remote.fs.get_file, file.path, str(part))
        part.replace(target)
        return
    with part.open("ab") as stream, ThreadPoolExecutor(STREAMS) as pool:
        start = stream.tell()
        advance(start)
        while start < file.size:
            ends = range(start, min(file.size, start + STREAMS * RANGE), RANGE)
            ranges = [(at, min(at + RANGE, file.size)) for at in ends]
            for content in pool.map(functools.partial(_read_range, remote, file), ranges):
                stream.write(content)
                start += len(content)
                advance(len(content))
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(target)


def _read_range(remote: _Remote, file: _File, wanted: tuple[int, int]) -> bytes:
    start, end = wanted

    def read() -> bytes:
        content: bytes = remote.fs.cat_file(file.path, start=start, end=end)
        if len(content) == file.size:  # a server that knows no ranges
            content = content[start:end]
        if len(content) != end - start:
            raise OSError(f"{len(content)} bytes came instead of {end - start}")
        return content

    return remote.call("cannot read", read)


def _send(remote: _Remote, source: Path, path: str) -> None:
    """Write a local file to `path`, whole or not at all."""
    kept = f" ({source} is kept)"

    def put() -> None:
        if remote.is_whole:
            remote.fs.put_file(str(source), path)
            return
        folder, _, name = path.rpartition("/")
        scratch = f"{folder}/.{name}.tmp"
        remote.fs.makedirs(folder, exist_ok=True)
        remote.fs.put_file(str(source), scratch)
        remote.fs.mv(scratch, path)

    try:
        remote.call("cannot write", put)
    except ClientError as error:
        raise ClientError(f"{error}{kept}") from error


def _push(remote: _Remote, folder: Path, known: dict[str, list[str | int]], exact: bool = False) -> None:
    """Send the files of a folder that differ from those `known`, which is brought up to date.

    Args:
        remote: where to.
        folder: the local folder.
        known: size, time and remote version of each file that is there already, by name.
        exact: whether files that are not here are removed there.
    """
    for name, path in sorted(_names(folder).items(), key=lambda pair: (posixpath.basename(pair[0]) in _LAST, pair[0])):
        with explained(f"cannot send {path} to {remote}"):
            status = path.stat()
        mark: list[str | int] = [status.st_size, status.st_mtime_ns]
        if known.get(name, [])[:2] == mark:
            continue
        there = f"{remote.path}/{name}"
        _send(remote, path, there)
        remote.fs.invalidate_cache()
        known[name] = [*mark, _version(remote.call("cannot read", remote.fs.info, there))]
    if exact:
        for name in sorted(set(known) - set(_names(folder))):
            remote.call("cannot write", _remove, remote, f"{remote.path}/{name}")
            del known[name]


def _remove(remote: _Remote, path: str) -> None:
    if remote.fs.exists(path):
        remote.fs.rm_file(path)


def _names(folder: Path) -> dict[str, Path]:
    """The files of a folder that are for others, by their relative names."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    hidden = {name for name in names if name.startswith(("corpus/", ".")) or "/." in name}
    return {name: path for name, path in names.items() if name not in hidden}


def _pull(remote: _Remote, folder: Path, bars: Bars) -> None:
    """Make a local folder like the remote one."""
    known = _read_index(folder)
    with explained(f"cannot keep a copy of {remote} in {folder}"):
        folder.mkdir(exist_ok=True)
        there = {file.name: file for file in remote.files()}
        for name, path in _names(folder).items():
            mark = known.get(name)
            if name not in there or mark is None or mark[2] != there[name].version or mark[0] != path.stat().st_size:
                path.unlink()
        _fetch_missing(remote, {folder / name: file for name, file in there.items()}, bars)
        known = {}
        for name, file in there.items():
            status = (folder / name).stat()
            known[name] = [status.st_size, status.st_mtime_ns, file.version]
        for inner in folder.iterdir():
            if inner.is_dir() and inner.name != "corpus" and not any(inner.iterdir()):
                inner.rmdir()
    _write_index(folder, known)


def _read_index(folder: Path) -> dict[str, list[str | int]]:
    path = folder.with_name("index.json")
    return json.loads(path.read_bytes()) if path.exists() else {}


def _write_index(folder: Path, known: Mapping[str, list[str | int]]) -> None:
    with writing(folder.with_name("index.json")) as stream:
        stream.write(json.dumps(known).encode())
