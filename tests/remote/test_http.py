"""Files of HTTP servers."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqwright.errors import ClientError
from seqwright.remote import LocalCopies
from tests.s3 import CONTENT, S3, put


def test_a_file_is_read_over_http_but_not_written(s3: S3) -> None:
    put(s3, "file", CONTENT)
    url = s3.client().generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "file"})
    with LocalCopies() as copies:
        assert copies.read(url).read_bytes() == CONTENT
        with pytest.raises(ClientError, match="cannot be written to"):
            copies.write_file(f"{s3.url}/bucket/file")


@contextlib.contextmanager
def served(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a file of an HTTP server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/in.txt"
        server.shutdown()


@pytest.fixture
def answers() -> Iterator[tuple[str, list[int]]]:
    """An HTTP server, and the statuses of its next answers; when there are none left it has a file."""
    left: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(left.pop(0) if left else 200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"w5 w6")

        do_HEAD = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - as http.server calls it
            """Say nothing."""

    with served(Handler) as url:
        yield url, left


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_copy_is_used_until_the_http_server_tells_another_version(
    header: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQWRIGHT_CACHE", str(tmp_path))
    told, content, gets = {header: "one"}, [b"w5 w6"], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in {**told, "Content-Length": str(len(content[0]))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                gets.append(self.path)
                self.wfile.write(content[0])

        do_HEAD = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - as http.server calls it
            """Say nothing."""

    with served(Handler) as url, LocalCopies() as copies:
        assert copies.read(url).read_bytes() == b"w5 w6"
        gets.clear()
        assert copies.read(url).read_bytes() == b"w5 w6"
        assert not gets
        told[header], content[0] = "two", b"w6 w7"
        assert copies.read(url).read_bytes() == b"w6 w7"
        told.clear()
        content[0] = b"w7 w8"
        for _ in range(2):  # the length alone tells of no version
            gets.clear()
            assert copies.read(url).read_bytes() == b"w7 w8"
            assert gets


def test_a_busy_http_server_is_asked_again(answers: tuple[str, list[int]]) -> None:
    url, left = answers
    left.extend([503] * 3)
    with LocalCopies() as copies:
        assert copies.read(url).read_bytes() == b"w5 w6"
    assert not left


def test_a_refusal_of_an_http_server_is_an_error_at_once(answers: tuple[str, list[int]]) -> None:
    url, left = answers
    left.extend([403] * 4)
    with LocalCopies() as copies, pytest.raises(ClientError, match="403"):
        copies.read(url)
    assert len(left) == 2
    left[:] = [404] * 2
    with LocalCopies() as copies, pytest.raises(ClientError, match="there is no such file or folder"):
        copies.read(url)
