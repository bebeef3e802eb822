"""Writing files and folders so that a reader sees the whole of them or nothing."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from seqwright.errors import ClientError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write to; it becomes `path` only when the block ends without an error.

    It lies in the same folder, reaches the disk, and is renamed over `path`. When the block raises, it is removed and
    whatever was at `path` before is still there.

    Raises:
        ClientError: the disk is full or the folder cannot be written.
    """
    with describe_os_errors(f"cannot write {path}"):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(descriptor)
        try:
            yield Path(name)
            with open(name, "rb+") as stream:  # some systems reach the disk only through what is open for writing
                os.fsync(stream.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing, as `replacing` does."""
    with replacing(path) as scratch, scratch.open("wb") as stream:
        yield stream


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends without an error, and vanishes otherwise.

    An empty folder that cannot be renamed over, a container's mount point for one, is filled in place and emptied
    again after an error.

    Raises:
        ClientError: `path` exists and is not an empty folder, the disk is full, or the parent cannot be written.
    """
    require_absent(path)
    with describe_os_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        in_place = path.is_dir() and (os.path.ismount(path) or not os.access(path.parent, os.W_OK))
        scratch = path if in_place else Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        try:
            yield scratch
            if not in_place:
                os.chmod(scratch, 0o777 & ~_umask())
                os.replace(scratch, path)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        _sync_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what writers that were killed have left of a file or folder: beside it, and in the folder itself."""
    for leftover in (*path.parent.glob(f".{path.name}.*.tmp"), *path.glob(".*.tmp")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def read_json_object(path: Path) -> dict[str, object]:
    """The one JSON object that a file holds; a byte order mark before it is skipped.

    Raises:
        ClientError: the file cannot be read, has more than 16 MiB, is not JSON, or holds something else.
    """
    limit = 16 << 20
    with describe_os_errors(f"cannot read {path}"), path.open("rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ClientError(f"{path} has more than {limit >> 20} MiB, where a few names and values should be")
    try:
        values = json.loads(content)
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


@contextlib.contextmanager
def describe_os_errors(what: str) -> Iterator[None]:
    """Turn an operating-system error in the block into a `ClientError` that starts with `what`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        place = f" ({error.filename})" if error.filename and str(error.filename) not in what else ""
        raise ClientError(f"{what}: {reason[:1].lower()}{reason[1:]}{place}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable; some file systems cannot, and need not."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
