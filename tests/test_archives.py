"""Archives that anyone may have made: what a model may be is read, and no archive takes much memory."""

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seqwright import archives
from seqwright.archives import names_in, unpack
from seqwright.errors import ClientError


def pack(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 0.5  # a fraction takes an extended header
            tar.addfile(member, io.BytesIO(content))
    return path


@contextmanager
def little_memory(limit: int = 64 << 20) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_compression_is_read(mode: str, tmp_path: Path) -> None:
    files = {"model/config": b"a", "model/params": b"b" * 3_000_000, "other": b"c"}
    archive = pack(tmp_path / "model.tar.gz", files, mode)
    assert names_in(str(archive)) == list(files)
    unpack(str(archive), str(tmp_path), {"model/config": "config", "model/params": "params"}.get)
    assert (tmp_path / "config").read_bytes() == b"a"
    assert (tmp_path / "params").read_bytes() == b"b" * 3_000_000
    assert not (tmp_path / "other").exists()


def test_thousands_of_members_with_extended_headers_are_read(tmp_path: Path) -> None:
    files = {f"checkpoints/{'x' * 120}/{number}": b"" for number in range(5000)}
    archive = pack(tmp_path / "model.tar", files, "w")
    assert names_in(archive) == list(files)


def test_a_file_over_its_limit_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    archive = pack(tmp_path / "model.tar.gz", {"m/vocab": bytes(1001), "m/params": bytes(5000)})
    unpack(archive, tmp_path, lambda path: Path(path).name, {"vocab": 1001})
    (tmp_path / "vocab").unlink()
    with pytest.raises(ClientError, match=r"model\.tar\.gz: m/vocab has 1,001 bytes, a model at most 1,000"):
        unpack(archive, tmp_path, lambda path: Path(path).name, {"vocab": 1000})
    assert not (tmp_path / "vocab").exists()


def extended_header(kind: bytes, content: bytes) -> bytes:
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, len(content)
    return header.tobuf() + content + bytes(-len(content) % 512)


SHORT_ENTRIES = b"".join(b"%d %x=\n" % (len(b"%x" % number) + 4, number) for number in range(1 << 16))
"""Many entries of a header, each of which takes a hundred bytes of memory for its ten."""


def pack_one(name: str) -> bytes:
    return tarfile.TarInfo(name).tobuf() + bytes(1024)


def sparse_map(blocks: int) -> bytes:
    """A member whose map of holes goes on for many blocks."""
    header = bytearray(tarfile.TarInfo("sparse").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header) + (b"00000000001\0" * 42 + b"\1" + bytes(7)) * blocks


@pytest.mark.parametrize(
    "make",
    [
        lambda: extended_header(tarfile.XHDTYPE, b"30 mtime=1.000000000000000000\n") * 5000,
        lambda: extended_header(tarfile.XHDTYPE, SHORT_ENTRIES[: 400 * 1024]) * 100,
        lambda: extended_header(tarfile.XGLTYPE, SHORT_ENTRIES) + tarfile.TarInfo("a").tobuf() * 3,
        lambda: (extended_header(tarfile.GNUTYPE_LONGNAME, b"n" * 900_000) + tarfile.TarInfo("a").tobuf()) * 100,
        lambda: sparse_map(200_000),
    ],
    ids=["chain", "large chain", "global entries", "long names", "sparse map"],
)
def test_headers_that_pile_up_are_refused_in_little_memory(make: Callable[[], bytes], tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(gzip.compress(make(), 1))
    with little_memory(), pytest.raises(ClientError, match=r"model\.tar\.gz is not a readable model\.tar\.gz: "):
        names_in(archive)
    with little_memory(), pytest.raises(ClientError, match=r"model\.tar\.gz is not a readable model\.tar\.gz: "):
        unpack(archive, tmp_path, lambda path: "file")


@pytest.mark.parametrize("trailing", [False, True])
def test_what_unpacks_to_more_than_a_model_is_not_decompressed(
    trailing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 10 << 20)
    archive = pack(tmp_path / "model.tar", {"a": b"", "large": bytes(100 if trailing else 20 << 20)}, "w")
    data = archive.read_bytes() + bytes(20 << 20 if trailing else 0)
    archive.write_bytes(gzip.compress(data, 1))
    with pytest.raises(ClientError, match=r"unpacks to more than .* GiB"):
        names_in(archive)


def test_a_global_header_as_git_writes_it_is_read(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar"
    archive.write_bytes(extended_header(tarfile.XGLTYPE, b"19 comment=1234567\n") + pack_one("a"))
    assert names_in(archive) == ["a"]


def test_a_path_that_is_too_long_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="file name too long"):
        names_in(tmp_path / ("x" * 300))
