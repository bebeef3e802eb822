"""Fetching files and folders from an S3 API on loopback, one that can be told to fail."""

import sys
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from seqwright.errors import ClientError
from seqwright.remote import LocalCopies, transfers
from seqwright.remote.cache import cache_folder
from tests.s3 import CONTENT, S3, Environ, failing, objects, put, slow


def test_a_file_is_read_in_ranges_and_from_the_cache_until_it_changes(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "RANGE", 1000)
    put(s3, "a/b.bin", CONTENT)
    with LocalCopies() as copies:
        path = copies.read("s3://bucket/a/b.bin")
        assert (path.name, path.read_bytes()) == ("b.bin", CONTENT)
        assert s3.asked["GET /bucket/a/b.bin"] == 3
        assert copies.read("s3://bucket/a/b.bin") == path
        assert s3.asked["GET /bucket/a/b.bin"] == 3
        put(s3, "a/b.bin", CONTENT[::-1])
        assert copies.read("s3://bucket/a/b.bin").read_bytes() == CONTENT[::-1]
    assert not list((cache_folder() / "copies").rglob("*.part"))


def test_a_folder_is_fetched_with_its_subfolders(s3: S3) -> None:
    put(s3, "data/train/x.rec", b"x")
    put(s3, "data/train/deeper/y.rec", b"y")
    put(s3, "data/train2/z.rec", b"z")
    with LocalCopies() as copies:
        folder = copies.read("s3://bucket/data/train/")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.rec")} == {"x.rec", "deeper/y.rec"}


def test_an_interrupted_fetch_continues_where_it_stopped(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "RANGE", 100)
    monkeypatch.setattr(transfers, "STREAMS", 1)
    put(s3, "file", CONTENT)

    def fault(environ: Environ, start: Callable[..., Any]) -> Iterable[bytes] | None:
        if environ.get("HTTP_RANGE", "").startswith("bytes=1500-"):
            start("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        return None

    s3.fault = fault
    with (
        pytest.raises(ClientError, match=r"cannot read s3://bucket/file: .*check the credentials"),
        LocalCopies() as copies,
    ):
        copies.read("s3://bucket/file")
    s3.fault = lambda environ, start: None
    s3.asked.clear()
    with LocalCopies() as copies:
        assert copies.read("s3://bucket/file").read_bytes() == CONTENT
    assert s3.asked["GET /bucket/file"] == 11


def truncated(times: int) -> Callable[..., Iterable[bytes] | None]:
    left = [times]

    def fault(environ: Environ, start: Callable[..., Any]) -> Iterable[bytes] | None:
        if environ["REQUEST_METHOD"] != "GET" or environ["PATH_INFO"].count("/") < 2 or not left[0]:
            return None
        left[0] -= 1
        start("206 Partial Content", [("Content-Length", str(len(CONTENT)))])
        return [CONTENT[:100]]

    return fault


@pytest.mark.parametrize("name", ["503", "500", "cut", "slow"])
def test_errors_that_pass_are_tried_again(name: str, s3: S3) -> None:
    faults = {"503": failing(2), "500": failing(2, "500 Internal Server Error"), "cut": truncated(2), "slow": slow}
    put(s3, "file", CONTENT)
    s3.fault = faults[name]
    with LocalCopies() as copies:
        assert copies.read("s3://bucket/file").read_bytes() == CONTENT
        target = copies.write_file("s3://bucket/out")
        target.write_bytes(CONTENT)
    assert objects(s3)["out"] == CONTENT


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("s3://bucket/nothing", "there is no such file or folder"),
        ("s3://nobucket/x", "no such bucket"),
        ("s3://bucket/evil", "leads out of it"),
        ("smoke://signal/x", "smoke:// is unknown"),
    ],
)
def test_an_error_names_the_url_that_cannot_be_read(location: str, words: str, s3: S3) -> None:
    put(s3, "evil/../../x", b"x")
    with pytest.raises(ClientError, match=words) as caught, LocalCopies() as copies:
        copies.read(location)
    assert location in str(caught.value)


@pytest.mark.parametrize(
    ("location", "module", "package"),
    [
        ("gs://bucket/x", "gcsfs", "gcsfs"),
        ("abfs://container/x", "adlfs", "adlfs"),
        ("sftp://host/x", "fsspec.implementations.sftp", "paramiko"),
        ("http://host/x", "fsspec.implementations.http", "aiohttp"),
        ("filecache::gs://bucket/x", "gcsfs", "gcsfs"),
        ("s3://bucket/x", "s3fs", "seqwright[s3]"),
    ],
)
def test_a_missing_package_is_named_with_how_to_install_it(
    location: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("gs", "abfs", "sftp", "http", "s3"):  # as in a process that has not used it yet
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, name, raising=False)
    with pytest.raises(ClientError, match="needs another package") as caught, LocalCopies() as copies:
        copies.read(location)
    assert package in str(caught.value)
    assert ("seqwright[s3]" in str(caught.value)) == location.startswith("s3")


def test_wrong_credentials_give_an_error_without_the_secret(s3: S3) -> None:
    put(s3, "file", b"x")
    client = s3.client()

    def require_login(count: bytes) -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{s3.url}/moto-api/reset-auth", count, headers)  # noqa: S310 - loopback
        urllib.request.urlopen(request).close()  # noqa: S310

    require_login(b"0")
    try:
        for use in (LocalCopies.read, LocalCopies.write_folder, LocalCopies.mirror):
            with pytest.raises(ClientError, match="check the credentials") as caught, LocalCopies() as copies:
                use(copies, "s3://bucket/file")
            assert "whisper" not in str(caught.value)
    finally:
        require_login(b"inf")
    assert client.list_objects_v2(Bucket="bucket")["KeyCount"] == 1
