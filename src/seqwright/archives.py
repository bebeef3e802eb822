"""Read tar archives that may come from anyone."""

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from seqwright.errors import ClientError
from seqwright.files import StrPath

MAX_UNPACKED_BYTES = 32 << 30
"""Bytes of the largest archive, decompressed, that may be a model."""

MAX_MEMBERS = 10_000
"""Files and folders of an archive that may be a model."""

MAX_HEADER_BYTES, MEMBER_HEADER_BYTES = 1 << 20, 2 << 10
"""Bytes that all headers of an archive may take, and how many more for each of its members."""

MAX_GLOBAL_HEADERS = 1000
"""Entries of global headers, which `tarfile` copies for every member."""


def unpack(
    archive: StrPath,
    folder: StrPath,
    wanted: Callable[[str], str | None],
    limits: Mapping[str, int] | None = None,
) -> None:
    """Copy chosen files, and no others, out of a tar archive.

    No path of the archive is used as a path: a file gets the plain name that `wanted` gives it, and a link is kept only
    if it refers to another chosen file of the archive.

    Args:
        archive: the archive, compressed or not.
        folder: where the files go.
        wanted: gives the name in `folder` for the path of a file in the archive; None leaves the file out.
        limits: the most bytes that a file may have, by its name in `folder`; for others only `MAX_UNPACKED_BYTES`
            counts.

    Raises:
        ClientError: the archive is damaged, has more than `MAX_MEMBERS`, or unpacks to more than `MAX_UNPACKED_BYTES`;
            a file is larger than its limit; two files get the same name; or there is no room in `folder`.
    """
    archive, folder, limits = Path(archive), Path(folder), limits or {}
    paths: dict[str, str] = {}
    links: dict[str, str] = {}
    with _open(archive) as (tar, stream):
        for member in _members(tar, stream):
            name = wanted(_name(member.name))
            if name is None:
                continue
            if target := _link_target(member, wanted):
                links[name] = target
            content = tar.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            if paths.setdefault(name, member.name) != member.name:
                raise ClientError(f"{archive} holds two files for {name}: {paths[name]} and {member.name}")
            if member.size > (limit := limits.get(name, MAX_UNPACKED_BYTES)):
                raise ClientError(f"{archive}: {member.name} has {member.size:,} bytes, a model at most {limit:,}")
            stream.allow(member.size)
            with _explain_full_disk(archive, folder), (folder / name).open("wb") as file, content:
                while chunk := content.read(1 << 20):
                    file.write(chunk)
        for name in links.keys() - paths.keys():
            if links[name] in paths:
                (folder / name).symlink_to(links[name])


def _link_target(member: tarfile.TarInfo, wanted: Callable[[str], str | None]) -> str | None:
    """The name of the chosen file that a link stands for; a symbolic link is relative to its own folder."""
    if member.issym():
        return wanted(posixpath.normpath(posixpath.join(posixpath.dirname(_name(member.name)), member.linkname)))
    return wanted(_name(member.linkname)) if member.islnk() else None


@contextlib.contextmanager
def _explain_full_disk(archive: Path, folder: Path) -> Iterator[None]:
    """Distinguish a full disk from a damaged archive."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ClientError(
            f"cannot unpack {archive} in {folder}: {os.strerror(error.errno).lower()}; make room there, or, if it "
            "is a temporary folder of the system, set TMPDIR to another one"
        ) from error


def names_in(archive: StrPath) -> list[str]:
    """The paths of all members of a tar archive, without `./` at the start.

    Raises:
        ClientError: the archive is damaged, has more than `MAX_MEMBERS`, or unpacks to more than `MAX_UNPACKED_BYTES`.
    """
    with _open(Path(archive)) as (tar, stream):
        return [_name(member.name) for member in _members(tar, stream)]


class _BoundedReader(io.BufferedReader):
    """The decompressed bytes of an archive, for `tarfile`, which reads headers of any size and keeps what they say.

    It may read as many bytes as it was allowed to.
    """

    allowed = MAX_HEADER_BYTES

    def allow(self, size: int) -> None:
        """Allow to read `size` bytes more."""
        self.allowed += size

    def read(self, size: int | None = -1) -> bytes:
        """Read `size` bytes."""
        size = -1 if size is None else size
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"an extended header of {size:,} bytes")
        self.allowed -= size
        if self.allowed < 0:
            raise ValueError("its headers take more bytes than the names of its files can need")
        return super().read(size)


def _decompressed(file: io.BufferedReader) -> BinaryIO:
    """The contents of a file that may be compressed, by its first bytes."""
    start = file.peek(8)
    if start.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if start.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(file))
    if start.startswith(b"\xfd7zXZ"):
        return cast(BinaryIO, lzma.LZMAFile(file))
    return file


@contextlib.contextmanager
def _open(archive: Path) -> Iterator[tuple[tarfile.TarFile, _BoundedReader]]:
    """Open an archive, and read it to its last byte in the end: a compressed one has a checksum there."""
    try:
        with archive.open("rb") as file, contextlib.ExitStack() as stack:
            raw = _decompressed(file)
            stream = stack.enter_context(_BoundedReader(cast(io.RawIOBase, raw)))
            try:
                tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r:"))
            except tarfile.ReadError as error:
                raise ValueError("it is not a tar archive") from error
            yield tar, stream
            while raw.read(1 << 20):
                _check_size(raw.tell())
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, lzma.LZMAError, zlib.error) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else error
        raise ClientError(f"{archive} is not a readable model.tar.gz: {reason}") from error


def _name(path: str) -> str:
    return path.removeprefix("./")


def _members(tar: tarfile.TarFile, stream: _BoundedReader) -> Iterator[tarfile.TarInfo]:
    """The members of an archive, within the bounds of this module."""
    for number, member in enumerate(tar, start=1):
        if number > MAX_MEMBERS:
            raise ValueError(f"it has more than {MAX_MEMBERS:,} members")
        if len(tar.pax_headers) > MAX_GLOBAL_HEADERS:
            raise ValueError(f"it has more than {MAX_GLOBAL_HEADERS:,} entries of global headers")
        _check_size(member.offset_data + member.size)
        member.pax_headers = {}  # `tarfile` has applied them, and would keep them as long as the archive is open
        yield member
        stream.allow(MEMBER_HEADER_BYTES)


def _check_size(size: int) -> None:
    if size > MAX_UNPACKED_BYTES:
        raise ValueError(f"it unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB: not a model")
