"""Whole files and folders, to and fro."""

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

from seqwright.errors import ClientError
from seqwright.files import describe_os_errors, writing
from seqwright.interrupts import in_background
from seqwright.remote.cache import folder_of
from seqwright.remote.filesystem import Remote, RemoteFile, digest, version_of

RANGE = 16 << 20
"""Bytes that one request reads."""

STREAMS = 4
"""Requests at a time."""

_LAST = ("config.json", "state.json")
"""Files that make a folder a model or a checkpoint: sent after all others, so that a half-sent one is neither."""

_LOGGER = logging.getLogger(__name__)

Index = dict[str, list[str | int]]
"""Size, time of change and remote version of each file that both sides have, by name."""

_IN_FLIGHT: list[str | int] = [-1, 0, ""]
"""The mark of a file that is being sent or removed: which of its versions the other side has, nobody can tell."""

Bars = Callable[[str, int | None], Callable[[int], None]]
"""Starts a progress bar with a text and a total of bytes; gives what moves it on."""


@contextmanager
def bars_on(console: Console | None) -> Iterator[Bars]:
    """Progress bars on a terminal; none elsewhere."""
    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not (console and console.is_terminal)) as progress:

        def start(text: str, total: int | None) -> Callable[[int], None]:
            task = progress.add_task(text, total=total)
            return lambda count: progress.advance(task, count)

        yield start


def fetch(remote: Remote, bars: Bars) -> Path:
    """The cached copy of a remote file or folder, brought here first if there is none of this version."""
    files = remote.files()
    if not files:
        raise ClientError(f"cannot read {remote}: there is no such thing, or it may not be read")
    is_file = len(files) == 1 and files[0].path == remote.path
    home = folder_of(remote, "copies")
    version = digest([part for file in files for part in (file.name, file.version)])
    if any(not file.version for file in files):
        version = uuid.uuid4().hex  # whether what is there is still the same, nobody can tell
    folder = home / version / remote.name
    with describe_os_errors(f"cannot keep a copy of {remote} in {home}"), FileLock(home / ".lock"):
        if _fetch_missing(remote, {home / version / _local_name(file, remote, is_file): file for file in files}, bars):
            now = {file.name: file.version for file in remote.files()}
            if any(file.version != now.get(file.name) for file in files if file.version):
                shutil.rmtree(home / version, ignore_errors=True)
                raise ClientError(f"cannot read {remote}: it changed while it was read; try again when it is complete")
        for old in home.iterdir():
            if old.name not in (version, ".lock"):
                shutil.rmtree(old, ignore_errors=True)
    return folder


def _local_name(file: RemoteFile, remote: Remote, is_file: bool) -> str:
    return remote.name if is_file else f"{remote.name}/{file.name}"


def _fetch_missing(remote: Remote, files: Mapping[Path, RemoteFile], bars: Bars) -> bool:
    """Bring the files here that are not at their places yet; whether there were any."""
    missing = {target: file for target, file in files.items() if not target.exists()}
    if missing:
        size = sum(file.size or 0 for file in missing.values())
        _LOGGER.info("fetching %s, %.1f MB", remote, size / 1e6)
        advance = bars(f"fetching {remote}", size or None)
        for target, file in missing.items():
            _fetch_file(remote, file, target, advance)
    return bool(missing)


def _fetch_file(remote: Remote, file: RemoteFile, target: Path, advance: Callable[[int], None]) -> None:
    """Bring a file here; what an earlier try got is kept."""
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
            ends = range(start, min(file.size, start + STREAMS * RANGE), RANGE)
            ranges = [(at, min(at + RANGE, file.size)) for at in ends]
            for arriving in [in_background(functools.partial(_read_range, remote, file, each)) for each in ranges]:
                content = arriving.result()
                stream.write(content)
                start += len(content)
                advance(len(content))
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(target)


def _read_range(remote: Remote, file: RemoteFile, wanted: tuple[int, int]) -> bytes:
    start, end = wanted

    def read() -> bytes:
        content: bytes = remote.fs.cat_file(file.path, start=start, end=end)
        if len(content) == file.size:  # a server that knows no ranges
            content = content[start:end]
        if len(content) != end - start:
            raise OSError(f"{len(content)} bytes came instead of {end - start}")
        return content

    return remote.call("cannot read", read)


def send_file(remote: Remote, source: Path, path: str) -> None:
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


def send_folder(
    remote: Remote, folder: Path, known: Index, exact: bool = False, note: Callable[[], None] = lambda: None
) -> None:
    """Send the files of a folder that differ from those `known`, which is brought up to date.

    Args:
        remote: where to.
        folder: the local folder.
        known: what is there already.
        exact: whether files that are not here are removed there.
        note: called whenever `known` has changed, before the other side does and after.
    """
    for name, path in sorted(_names(folder).items(), key=lambda pair: (posixpath.basename(pair[0]) in _LAST, pair[0])):
        with describe_os_errors(f"cannot send {path} to {remote}"):
            status = path.stat()
        mark: list[str | int] = [status.st_size, status.st_mtime_ns]
        if known.get(name, [])[:2] == mark:
            continue
        there = f"{remote.path}/{name}"
        known[name] = _IN_FLIGHT
        note()
        send_file(remote, path, there)
        remote.fs.invalidate_cache()
        known[name] = [*mark, version_of(remote.call("cannot read", remote.fs.info, there))]
        note()
    if exact:
        for name in sorted(set(known) - set(_names(folder))):
            known[name] = _IN_FLIGHT
            note()
            remote.call("cannot write", _remove, remote, f"{remote.path}/{name}")
            del known[name]
            note()


def _remove(remote: Remote, path: str) -> None:
    if remote.fs.exists(path):
        remote.fs.rm_file(path)


def _names(folder: Path) -> dict[str, Path]:
    """The files of a folder that are for others, by their relative names."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    hidden = {name for name in names if name.startswith(("corpus/", ".")) or "/." in name}
    return {name: path for name, path in names.items() if name not in hidden}


def fetch_folder(remote: Remote, folder: Path, bars: Bars) -> None:
    """Make a local folder like the remote one; where that is as it was left, what is here is the newer, and is kept."""
    known = read_index(folder)
    with describe_os_errors(f"cannot keep a copy of {remote} in {folder}"):
        folder.mkdir(exist_ok=True)
        there = {file.name: file for file in remote.files()}
        if not _is_as_left(there, known):
            _remove_what_differs(remote, folder, there, known)
            known = {}
        kept = {name: mark for name, mark in known.items() if name in there and (folder / name).exists()}
        _fetch_missing(remote, {folder / name: file for name, file in there.items()}, bars)
        known = {}
        for name, file in there.items():
            status = (folder / name).stat()
            known[name] = kept.get(name) or [status.st_size, status.st_mtime_ns, file.version]
        for inner in folder.iterdir():
            if inner.is_dir() and inner.name != "corpus" and not any(inner.iterdir()):
                inner.rmdir()
    write_index(folder, known)


def _is_as_left(there: Mapping[str, RemoteFile], known: Index) -> bool:
    """Whether nobody else has changed the remote folder, as far as its versions tell."""
    sure = {name: mark for name, mark in known.items() if mark != _IN_FLIGHT}
    versions = {name: file.version for name, file in there.items() if name in sure or name not in known}
    return all(versions.values()) and versions == {name: mark[2] for name, mark in sure.items()}


def _remove_what_differs(remote: Remote, folder: Path, there: Mapping[str, RemoteFile], known: Index) -> None:
    """Remove the files of a folder that are not as the remote one has them."""
    unsent = False
    for name, path in _names(folder).items():
        mark, status = known.get(name, _IN_FLIGHT), path.stat()
        version = there[name].version if name in there else ""
        if not version or mark[2] != version or mark[0] != status.st_size:
            unsent |= mark[:2] != [status.st_size, status.st_mtime_ns]
            path.unlink()
    if unsent:
        _LOGGER.warning("%s was changed elsewhere: what this machine had not sent there is given up for it", remote)


def read_index(folder: Path) -> Index:
    """What `write_index` has kept for a folder; nothing where there is nothing."""
    path = folder.with_name("index.json")
    return json.loads(path.read_bytes()) if path.exists() else {}


def write_index(folder: Path, known: Index) -> None:
    """Keep what is known of the other side, beside the folder."""
    with writing(folder.with_name("index.json")) as stream:
        stream.write(json.dumps(known).encode())
