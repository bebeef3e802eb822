"""A real S3 API on loopback, for tests: it can be told to fail."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Environ = dict[str, Any]
Start = Callable[..., Any]
Respond = Callable[[Environ, Start], Iterable[bytes]]
Fault = Callable[[Environ, Start], Iterable[bytes] | None]
"""Answers in place of the API, or returns None to let it answer."""

CONTENT = bytes(range(256)) * 10
"""The content of a file."""


class S3(threading.Thread):
    """The API in a thread of its own.

    Attributes:
        url: where it answers.
        asked: how often each method and path was requested.
        fault: how it fails; not at all by default.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._app: Respond = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._respond, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.asked: Counter[str] = Counter()
        self.fault: Fault = lambda environ, start: None

    def _respond(self, environ: Environ, start: Start) -> Iterable[bytes]:
        self.asked[f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"] += 1
        failed = self.fault(environ, start)
        return self._app(environ, start) if failed is None else failed

    def run(self) -> None:
        self._server.serve_forever()

    def close(self) -> None:
        self._server.shutdown()
        self.join()

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1")


def put(s3: S3, key: str, content: bytes) -> None:
    """Put an object into the bucket."""
    s3.client().put_object(Bucket="bucket", Key=key, Body=content)


def objects(s3: S3) -> dict[str, bytes]:
    """All objects of the bucket, by key."""
    client = s3.client()
    found = client.list_objects_v2(Bucket="bucket").get("Contents", [])
    return {each["Key"]: client.get_object(Bucket="bucket", Key=each["Key"])["Body"].read() for each in found}


def failing(times: int, status: str = "503 Slow Down", method: str = "GET") -> Fault:
    """A fault that refuses so many requests for objects, and no more."""
    left = [times]

    def fault(environ: Environ, start: Start) -> Iterable[bytes] | None:
        if environ["REQUEST_METHOD"] != method or environ["PATH_INFO"].count("/") < 2 or not left[0]:
            return None
        left[0] -= 1
        start(status, [("Content-Length", "0")])
        return [b""]

    return fault


def terminating(method: str, part: str, released: threading.Event) -> Fault:
    """A fault that sends SIGTERM to this process at a request for a path with that part, and answers when released."""

    def fault(environ: Environ, start: Start) -> Iterable[bytes] | None:
        if environ["REQUEST_METHOD"] == method and part in environ["PATH_INFO"]:
            if not released.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
            released.wait(60)
        return None

    return fault


def slow(environ: Environ, start: Start) -> Iterable[bytes] | None:
    """A fault that delays every answer."""
    time.sleep(0.3)
    return None
