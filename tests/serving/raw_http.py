"""HTTP as bytes over a socket, for what no client library sends."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from seqwright.serving.negotiation import JSON

PATIENCE = 30.0

PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSE = "Connection: close\r\n"
HEAD = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def body_of(*texts: str) -> bytes:
    return json.dumps({"instances": [{"data": text} for text in texts]}).encode()


def post(body: bytes, more: str = "", *, version: str = "1.1") -> bytes:
    """A POST of JSON as it is sent."""
    head = f"POST /invocations HTTP/{version}\r\nHost: localhost\r\nContent-Type: {JSON}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n{more}\r\n".encode() + body


def chunked(body: bytes) -> bytes:
    """A POST whose length is not said."""
    sized = post(b"", f"Transfer-Encoding: chunked\r\n{CLOSE}").replace(b"Content-Length: 0\r\n", b"")
    return sized + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def exchange(url: str, *parts: bytes, pause: float = 0.05) -> bytes:
    """Everything that the server answers to `parts`, sent one after another, until it closes the connection."""

    async def talk() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        answers = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        return answers

    return asyncio.run(talk())


def statuses(answers: bytes) -> list[int]:
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


@contextmanager
def sending(url: str, *parts: bytes, pause: float = 0.1) -> Iterator[socket.socket]:
    """A connection over which some bytes were sent."""
    with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=PATIENCE) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        yield connection


def answers_on(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def check_error(answer: bytes, status: int, code: str) -> None:
    """Check that the last of some answers is that error, in the form of all."""
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert statuses(answer)[-1] == status
    assert b"content-type: application/json" in head.lower()
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert (error["code"], error["instance"]) == (code, None)
    assert len(error["message"]) > 10


def trickle(connection: socket.socket, data: bytes) -> bytes:
    """What the server answers, until it closes the connection, while the client sends and sends."""

    def send() -> None:
        try:
            while True:
                connection.sendall(data)
                time.sleep(0.05)
        except OSError:
            pass

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    answer = b""
    try:
        while received := connection.recv(1 << 16):
            answer += received
    except ConnectionResetError:
        pass
    sender.join(PATIENCE)
    assert not sender.is_alive()
    return answer
