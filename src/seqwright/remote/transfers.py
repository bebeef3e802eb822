"""Fetching and sending files and folders."""

import functools
import json
import logging
import os
import posixpath
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from seqwright.console import can_show_bars
from seqwright.errors import ClientError
from seqwright.files import describe_os_errors, writing
from seqwright.interrupts import in_background
from seqwright.remote.cache import folder_of
from seqwright.remote.filesystem import Remote, RemoteFile, digest, version_of

RANGE = 16 << 20
"""Bytes that one request reads."""

STREAMS = 4
"""Requests at the same time."""

_SENT_LAST = ("config.json", "state.json")
"""Files without which a folder is no model or no checkpoint: a folder that is half sent has none of them."""

_LOGGER = logging.getLogger(__name__)

Index = dict[str, list[str | int]]
"""For each file of a mirror: its size and time of change here, and its version there."""

_UNKNOWN: list[str | int] = [-1, 0, ""]
"""The entry of a file that is being sent or removed: the service may have the old or the new version."""

StartBar = Callable[[str, int | None], Callable[[int], None]]
"""Starts a progress bar with a text and a total of bytes, and returns the function that advances it."""


@contextmanager
def progress_bars(console: Console | None) -> Iterator[StartBar]:
    """Yield what starts progress bars on a terminal; elsewhere they are not shown."""
    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not can_show_bars(console)) as progress:

        def start(text: str, total: int | None) -> Callable[[int], None]:
            task = progress.add_task(text, total=total)
            return lambda count: progress.advance(task, count)

        yield start


def fetch(remote: Remote, start_bar: StartBar) -> Path:
    """Fetch a file or folder into the cache, unless this version of it is there, and return its path.

    Raises:
        ClientError: it does not exist, changes while it is read, or cannot be read; or the cache cannot be written.
    """
    files = remote.files()
    if not files:
        raise ClientError(f"cannot read {remote}: there is no such file or folder, or it may not be read")
    is_file = len(files) == 1 and files[0].path == remote.path
    folder = folder_of(remote, "copies")
    version = digest([part for file in files for part in (file.name, file.version)])
    if any(not file.version for file in files):
        version = uuid.uuid4().hex  # whether the copy is still the same is not known
    path = folder / version / remote.name
    with describe_os_errors(f"cannot keep a copy of {remote} in {folder}"), FileLock(folder / ".lock"):
        targets = {path if is_file else path / file.name: file for file in files}
        if _fetch_missing(remote, targets, start_bar):
            now = {file.name: file.version for file in remote.files()}
            if any(file.version != now.get(file.name) for file in files if file.version):
                shutil.rmtree(folder / version, ignore_errors=True)
                raise ClientError(f"cannot read {remote}: it changed while it was read; try again when it is complete")
        for old in folder.iterdir():
            if old.name not in (version, ".lock"):
                shutil.rmtree(old, ignore_errors=True)
    return path


def _fetch_missing(remote: Remote, files: Mapping[Path, RemoteFile], start_bar: StartBar) -> bool:
    """Fetch the files that do not exist at their local paths; returns whether there were any."""
    missing = {target: file for target, file in files.items() if not target.exists()}
    if missing:
        size = sum(file.size or 0 for file in missing.values())
        _LOGGER.info("fetching %s, %.1f MB", remote, size / 1e6)
        advance = start_bar(f"fetching {remote}", size or None)
        for target, file in missing.items():
            _fetch_file(remote, file, target, advance)
    return bool(missing)


def _fetch_file(remote: Remote, file: RemoteFile, target: Path, advance: Callable[[int], None]) -> None:
    """Fetch a file; if an earlier attempt was interrupted, only the rest of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if file.size is None:
        remote.call("cannot read", remote.fs.get_file, file.path, str(part))
        part.replace(target)
        return
    with part.open("ab") as stream:
        start = stream.tell()
        advance(start)
        while start < file.size:
            starts = range(start, min(file.size, start + STREAMS * RANGE), RANGE)
            ranges = [(at, min(at + RANGE, file.size)) for at in starts]
            for future in [in_background(functools.partial(_read_range, remote, file, *each)) for each in ranges]:
                content = future.result()
                stream.write(content)
                start += len(content)
                advance(len(content))
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(target)


def _read_range(remote: Remote, file: RemoteFile, start: int, end: int) -> bytes:
    def read() -> bytes:
        content: bytes = remote.fs.cat_file(file.path, start=start, end=end)
        if len(content) == file.size:  # the server ignores ranges
            content = content[start:end]
        if len(content) != end - start:
            raise OSError(f"{len(content)} bytes came instead of {end - start}")
        return content

    return remote.call("cannot read", read)


def send_file(remote: Remote, source: Path, path: str) -> None:
    """Send a local file to a path of the file system of `remote`, where it appears completely or not at all.

    Raises:
        ClientError: the service refuses or does not answer; the message names the local file, which stays.
    """

    def put() -> None:
        if remote.is_object_store:
            remote.fs.put_file(str(source), path)
            return
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/.{name}.tmp"
        remote.fs.makedirs(folder, exist_ok=True)
        remote.fs.put_file(str(source), temporary)
        remote.fs.mv(temporary, path)

    try:
        remote.call("cannot write", put)
    except ClientError as error:
        raise ClientError(f"{error} ({source} is kept)") from error


def send_folder(
    remote: Remote,
    folder: Path,
    index: Index,
    delete_others: bool = False,
    save_index: Callable[[], None] = lambda: None,
) -> None:
    """Send the files of a folder that are not in `index` as they are, and enter them there.

    Args:
        remote: where to send them.
        folder: the local folder.
        index: the files that the service has.
        delete_others: whether to remove files of the index that the local folder does not have.
        save_index: called after every change of the index; before each change at the service, too, so that a killed
            process leaves no wrong entry.

    Raises:
        ClientError: the service refuses or does not answer.
    """
    files = _files_to_send(folder)
    for name, path in sorted(files.items(), key=lambda pair: (posixpath.basename(pair[0]) in _SENT_LAST, pair[0])):
        with describe_os_errors(f"cannot send {path} to {remote}"):
            status = path.stat()
        here: list[str | int] = [status.st_size, status.st_mtime_ns]
        if index.get(name, [])[:2] == here:
            continue
        target = f"{remote.path}/{name}"
        index[name] = _UNKNOWN
        save_index()
        send_file(remote, path, target)
        remote.fs.invalidate_cache()
        index[name] = [*here, version_of(remote.call("cannot read", remote.fs.info, target))]
        save_index()
    if delete_others:
        for name in sorted(set(index) - set(_files_to_send(folder))):
            index[name] = _UNKNOWN
            save_index()
            remote.call("cannot write", _remove, remote, f"{remote.path}/{name}")
            del index[name]
            save_index()


def _remove(remote: Remote, path: str) -> None:
    if remote.fs.exists(path):
        remote.fs.rm_file(path)


def _files_to_send(folder: Path) -> dict[str, Path]:
    """The files of a folder by relative names, but hidden ones and those of a folder `corpus`."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path
        for name, path in names.items()
        if not (name.startswith(("corpus/", ".")) or "/." in name)
    }  # fmt: skip


def fetch_mirror(remote: Remote, folder: Path, start_bar: StartBar) -> None:
    """Make a local folder equal to a remote one.

    If nobody else has changed the remote folder since this machine last sent it, the local one is the newer, and stays.

    Raises:
        ClientError: the service refuses or does not answer, or the cache cannot be written.
    """
    index = read_index(folder)
    with describe_os_errors(f"cannot keep a copy of {remote} in {folder}"):
        folder.mkdir(exist_ok=True)
        files = {file.name: file for file in remote.files()}
        if not _is_unchanged(files, index):
            _remove_differing(remote, folder, files, index)
            index = {}
        entries = {name: entry for name, entry in index.items() if name in files and (folder / name).exists()}
        _fetch_missing(remote, {folder / name: file for name, file in files.items()}, start_bar)
        index = {}
        for name, file in files.items():
            status = (folder / name).stat()
            index[name] = entries.get(name) or [status.st_size, status.st_mtime_ns, file.version]
        for inner in folder.iterdir():
            if inner.is_dir() and inner.name != "corpus" and not any(inner.iterdir()):
                inner.rmdir()
    write_index(folder, index)


def _is_unchanged(files: Mapping[str, RemoteFile], index: Index) -> bool:
    """Whether the remote folder has the versions of the index; those that are not known may be any."""
    known = {name: entry for name, entry in index.items() if entry != _UNKNOWN}
    versions = {name: file.version for name, file in files.items() if name in known or name not in index}
    return all(versions.values()) and versions == {name: entry[2] for name, entry in known.items()}


def _remove_differing(remote: Remote, folder: Path, files: Mapping[str, RemoteFile], index: Index) -> None:
    """Remove the local files that are not known to be equal to the remote ones."""
    unsent = False
    for name, path in _files_to_send(folder).items():
        entry, status = index.get(name, _UNKNOWN), path.stat()
        version = files[name].version if name in files else ""
        if not version or entry[2] != version or entry[0] != status.st_size:
            unsent |= entry[:2] != [status.st_size, status.st_mtime_ns]
            path.unlink()
    if unsent:
        _LOGGER.warning("%s was changed elsewhere: files of this machine that were not sent there are removed", remote)


def read_index(folder: Path) -> Index:
    """The saved index of a mirror; empty if there is none."""
    path = folder.with_name("index.json")
    return json.loads(path.read_bytes()) if path.exists() else {}


def write_index(folder: Path, index: Index) -> None:
    """Save the index of a mirror in the folder that holds it."""
    with writing(folder.with_name("index.json")) as stream:
        stream.write(json.dumps(index).encode())
