"""Tar archives that anyone may have made, read without trust."""

import contextlib
import errno
import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from seqwright.errors import ClientError

MAX_UNPACKED_BYTES = 32 << 30
MAX_MEMBERS = 10_000
"""Files and folders of an archive that may be a model."""

MAX_HEADER_BYTES = 1 << 20
"""What an extended header of an archive may take, which holds a long name above all."""


def unpack(archive: Path, folder: Path, wanted: Callable[[str], str | None]) -> None:
    """Copy chosen files, and no others, out of a tar archive.

    No path of the archive is followed: a file takes the plain name that `wanted` gives it, and a link is kept only
    where it stands for another chosen file of the archive.

    Args:
        archive: the archive, compressed or not.
        folder: where the files go.
        wanted: the name that the file at a path of the archive takes in `folder`; None leaves it out.

    Raises:
        ClientError: the archive is damaged, has more than `MAX_MEMBERS`, or unpacks to more than `MAX_UNPACKED_BYTES`,
            or two of its files take the same name; or there is no room in `folder`.
    """
    remaining = MAX_UNPACKED_BYTES
    paths: dict[str, str] = {}
    links: dict[str, str] = {}
    with _opened(archive) as tar:
        for member in _members(tar):
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
            remaining -= member.size
            if remaining < 0:
                raise ClientError(f"{archive} unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB: not a model")
            with _room_for(archive, folder), (folder / name).open("wb") as stream, content:
                while chunk := content.read(1 << 20):
                    stream.write(chunk)
        for name in links.keys() - paths.keys():
            if links[name] in paths:
                (folder / name).symlink_to(links[name])


def _link_target(member: tarfile.TarInfo, wanted: Callable[[str], str | None]) -> str | None:
    """The name of the chosen file that a link stands for; a symbolic link is relative to its own folder."""
    if member.issym():
        return wanted(posixpath.normpath(posixpath.join(posixpath.dirname(_name(member.name)), member.linkname)))
    return wanted(_name(member.linkname)) if member.islnk() else None


@contextlib.contextmanager
def _room_for(archive: Path, folder: Path) -> Iterator[None]:
    """Tell a full disk from a damaged archive."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ClientError(
            f"cannot unpack {archive} in {folder}: {os.strerror(error.errno).lower()}; make room there, or set TMPDIR "
            "to a folder that has it"
        ) from error


def names_in(archive: Path) -> list[str]:
    """The names of what a tar archive holds, `./` aside.

    Raises:
        ClientError: the archive is damaged, or has more than `MAX_MEMBERS`.
    """
    with _opened(archive) as tar:
        return [_name(member.name) for member in _members(tar)]


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """An archive to read, in the end to its last byte: there a compressed one has a checksum of what was read."""
    try:
        with tarfile.open(archive, tarinfo=_Member) as tar:
            yield tar
            while tar.fileobj is not None and tar.fileobj.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        reason = "it is not a tar archive" if "\n" in str(error) else str(error)  # tarfile lists all that it tried
        raise ClientError(f"{archive} is not a readable model.tar.gz: {reason}") from error


def _name(path: str) -> str:
    return path.removeprefix("./")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """What an archive holds, up to a number that no model has."""
    for number, member in enumerate(tar, start=1):
        if number > MAX_MEMBERS:
            raise ValueError(f"it has more than {MAX_MEMBERS:,} members")
        yield member


class _Member(tarfile.TarInfo):
    """A member of an archive whose name is not longer than any path: `tarfile` reads extended headers at once."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        if self.type in _EXTENDED and self.size > MAX_HEADER_BYTES:
            raise ValueError(f"an extended header of {self.size:,} bytes")
        found: tarfile.TarInfo | None = super()._proc_member(tar)  # type: ignore[misc]
        return found


_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
