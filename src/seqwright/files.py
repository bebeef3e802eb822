"""Writing files and folders so that a reader sees the whole of them or nothing."""

import codecs
import contextlib
import glob
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from seqwright.errors import ClientError, os_error_reason

StrPath = str | os.PathLike[str]
"""A path as public functions take it."""

MAX_JSON_BYTES = 64 << 20
"""The largest JSON file of settings or state that is read."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file in the same folder; it replaces `path` when the block ends without an error.

    Its content reaches the disk before it is renamed. When the block raises, the temporary file is removed and `path`
    stays as it was.

    Raises:
        ClientError: the disk is full, the folder cannot be written, or the name is too long.
    """
    with describe_os_errors(f"cannot write {path}"):
        temporary = _temporary_path(path)
        # The kernel applies the process's umask to the mode; no code of ours has to read the umask, which would
        # change it for other threads.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing that replaces `path`, as `replacing` does."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        yield stream


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; it is renamed to `path` when the block ends without an error, and removed otherwise.

    All of its files reach the disk before the rename. An empty folder that cannot be replaced, such as the mount point
    of a container or the current folder, is filled in place, and emptied again after an error.

    Raises:
        ClientError: `path` exists and is not an empty folder, the disk is full, the parent cannot be written, or the
            name is too long.
    """
    require_absent(path)
    with describe_os_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_fixed = path.name in ("", "..") or os.path.ismount(path) or not os.access(path.parent, os.W_OK)
        in_place = is_fixed and path.is_dir()
        folder = path if in_place else _temporary_path(path)
        if not in_place:
            folder.mkdir()
        try:
            yield folder
            _flush_all(folder)
            if not in_place:
                os.replace(folder, path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        _flush_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder so that a kill never leaves a part of it under its name; see `remove_leftovers`.

    Raises:
        OSError: it does not exist or cannot be renamed.
    """
    doomed = _temporary_path(path)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files and folders of `path`, and those in `path`, that killed processes have left.

    Call it only where no other process writes `path`.
    """
    for leftover in (*path.parent.glob(f".{glob.escape(path.name)}.*.tmp"), *path.glob(".*.tmp")):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """The content of a small file.

    Args:
        path: the file.
        limit: the most bytes that such a file can sensibly have; a larger one is not read.
        what: what to call it in messages.

    Raises:
        ClientError: the file cannot be read, or is larger.
    """
    with describe_os_errors(f"cannot read {what}"):
        size = path.stat().st_size
        if size > limit:
            raise ClientError(f"{what} has {size:,} bytes, where at most {limit:,} make sense")
        return path.read_bytes()


def read_json_object(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, object]:
    """The one JSON object that a file holds; a byte order mark before it is skipped.

    Raises:
        ClientError: the file cannot be read, is larger than `limit` bytes, is not JSON, or holds something else.
    """
    content = read_bytes(path, limit, str(path))
    try:
        values = json.loads(content.removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError) as error:
        raise ClientError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ClientError(f"{path} must hold one JSON object, names and values in braces")
    return values


def require_absent(path: Path) -> None:
    """Check that `path` can become a new folder: it does not exist, or is an empty folder.

    Raises:
        ClientError: something is there already.
    """
    with describe_os_errors(f"cannot write {path}"):
        if path.is_dir():
            if any(path.iterdir()):
                raise ClientError(f"{path} already exists and is not empty: name another folder or remove it")
        elif path.exists() or path.is_symlink():
            raise ClientError(f"{path} already exists and is not a folder: name another path or remove it")


def folder_with(folder: Path, names: Collection[str]) -> Path:
    """`folder`, or its one subfolder that has a file of one of the names, where `folder` itself has none.

    Copying or unpacking often puts a folder into another one.
    """

    def has_one(candidate: Path) -> bool:
        return any((candidate / name).is_file() for name in names)

    if has_one(folder):
        return folder
    inner = [path for path in folder.iterdir() if path.is_dir() and has_one(path)]
    return inner[0] if len(inner) == 1 else folder


@contextlib.contextmanager
def describe_os_errors(what: str) -> Iterator[None]:
    """Turn an operating-system error in the block into a `ClientError` that starts with `what`."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename and str(error.filename) not in what else ""
        raise ClientError(f"{what}: {os_error_reason(error)}{place}") from error


def _temporary_path(path: Path) -> Path:
    """A new name beside `path`, which `remove_leftovers` finds."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"


def _flush_all(folder: Path) -> None:
    """Write everything in a folder to the disk, subfolders included."""
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            _flush_folder(path)
        elif path.is_file() and not path.is_symlink():
            _flush(path)
    _flush_folder(folder)


def _flush(path: Path) -> None:
    """Write a file's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Write a folder's names to the disk, so that a rename in it lasts; some file systems cannot, and need not."""
    with contextlib.suppress(OSError):
        _flush(folder)
