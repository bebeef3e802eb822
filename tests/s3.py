"""A real S3 API on loopback that can be told to fail."""

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
"""Answers in the API's place, or gives None to let it answer."""


class S3(threading.Thread):
    """The API, what it was asked, and what it is told to do instead of answering.

    Attributes:
        asked: how often each method and path came.
        fault: how it fails; not at all unless told.
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


def failing(times: int, status: str = "503 Slow Down", method: str = "GET") -> Fault:
    """Refuses that many requests for objects, then no more."""
    left = [times]

    def fault(environ: Environ, start: Start) -> Iterable[bytes] | None:
        if environ["REQUEST_METHOD"] != method or environ["PATH_INFO"].count("/") < 2 or not left[0]:
            return None
        left[0] -= 1
        start(status, [("Content-Length", "0")])
        return [b""]

    return fault


def terminating(method: str, part: str, released: threading.Event) -> Fault:
    """Answers no request of that method for a path with that part in it until released, and has this process ended."""

    def fault(environ: Environ, start: Start) -> Iterable[bytes] | None:
        if environ["REQUEST_METHOD"] == method and part in environ["PATH_INFO"]:
            if not released.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
            released.wait(60)
        return None

    return fault


def slow(environ: Environ, start: Start) -> Iterable[bytes] | None:
    """Takes its time."""
    time.sleep(0.3)
    return None
