"""Connections that stall, never end or are no HTTP: each has a bound, and each answer the form of every other."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from seqwright.inference.translator import Translator
from seqwright.serving import connections, server
from seqwright.serving.limits import Limits
from tests.serving.conftest import ENDLESS, running
from tests.serving.test_direct import PING, body_of, chunked, exchange, post, statuses
from tests.serving.test_under_load import eventually, queued

PATIENCE = 30.0
HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


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


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 nonsense\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\n\r\n",
        b"GET /p\xffng HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x:999999/ping HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_the_error_in_json(url: str, sent: bytes) -> None:
    check_error(exchange(url, sent), 400, "malformed_http")


@pytest.mark.parametrize("before", [PING, post(body_of("w4")), post(body_of("w4")) + PING])
@pytest.mark.parametrize("bad", [b"\x16\x03\x01 nonsense\r\n\r\n", chunked(b"{}").replace(b"\r\n2\r\n", b"\r\nx\r\n")])
def test_requests_before_it_are_answered_first(url: str, before: bytes, bad: bytes) -> None:
    answer = exchange(url, before + bad)
    assert statuses(answer) == [200] * before.count(b"HTTP/1.1") + [400]
    check_error(answer, 400, "malformed_http")


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /ping HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"],
        [b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"],
        [b"GET /ping HTTP/1.1\r\nX: a", *[b"a" * 20_000] * 4],
        [b"GET /ping HTTP/1.1\r\n", *[b"X: a\r\n" * 5_000] * 3],
        [b"\r\n", *[b"\r\n" * 10_000] * 4],
    ],
    ids=["a long header", "a long URL", "a header without end", "headers without end", "blank lines without end"],
)
def test_the_head_of_a_request_has_a_bound(url: str, parts: list[bytes]) -> None:
    check_error(exchange(url, *parts), 431, "head_too_large")


def test_many_requests_at_once_are_not_a_large_head(url: str) -> None:
    count = 2_000
    sent = PING * count + PING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert statuses(exchange(url, sent)) == [200] * (count + 1)


def test_the_head_of_a_request_has_a_deadline(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.5)
    with running(translator) as url:
        with sending(url, b"GET /ping HTTP/1.1\r\nX: ") as connection:
            check_error(trickle(connection, b"a"), 408, "request_timeout")
        with sending(url, PING, b"G") as connection:
            answer = answers_on(connection)
            assert statuses(answer) == [200, 408]
            check_error(answer, 408, "request_timeout")
        with sending(url) as connection:
            assert answers_on(connection) == b""
        with sending(url, b"\r\n", b"\r\n") as connection:
            assert answers_on(connection) == b""


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


def test_a_body_that_nobody_reads_does_not_keep_a_connection(translator: Translator) -> None:
    sent = HEAD.replace(b"invocations", b"nothing") + b"Content-Length: 1000000000\r\n\r\n"
    with running(translator, keep_alive=1) as url, sending(url, sent) as connection:
        assert statuses(trickle(connection, b"a")) == [404]


@pytest.mark.skipif(sys.platform != "linux", reason="no such bound elsewhere")
def test_a_client_that_does_not_read_is_given_up(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_UNREAD_SECONDS", 1.0)
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000
    with running(translator) as url, sending(url, ask, pause=5) as connection, pytest.raises(ConnectionResetError):
        answers_on(connection)


def test_a_request_has_a_bound_in_all(url: str) -> None:
    trailers = chunked(body_of("w4")).removesuffix(b"\r\n")
    with sending(url, trailers) as connection:
        check_error(trickle(connection, b"X: " + b"a" * 1_000_000 + b"\r\n"), 413, "body_too_large")


STALLED = {
    "in the head": b"POST /invocations HT",
    "before a small body": HEAD + b"Content-Length: 100\r\n\r\n",
    "in a small body": HEAD + b"Content-Length: 100\r\n\r\n{",
    "in a large body": HEAD + b"Content-Length: 100000\r\n\r\n{",
    "behind another": PING + HEAD + b"Content-Length: 100\r\n\r\n{",
}


@pytest.mark.parametrize("sent", STALLED.values(), ids=STALLED.keys())
def test_the_end_of_service_does_not_wait_for_stalled_requests(translator: Translator, sent: bytes) -> None:
    with ExitStack() as stack:
        with running(translator) as url:
            stalled, idle, new = (stack.enter_context(sending(url, each)) for each in (sent, PING, b""))
        check_error(answers_on(stalled), 503, "shutting_down")
        assert statuses(answers_on(idle)) == [200]
        assert answers_on(new) == b""


def test_a_request_on_its_way_has_a_moment_at_the_end_of_service(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_GRACE_SECONDS", 8.0)
    request = post(body_of("w4"))
    with ExitStack() as stack:
        with running(translator) as url:
            parts = [(request[:30], request[30:]), (request[:-5], request[-5:]), (PING[:9], PING[9:])]
            begun = [(stack.enter_context(sending(url, first)), rest) for first, rest in parts]

            def go_on() -> None:
                for connection, rest in begun:
                    connection.sendall(rest)

            threading.Timer(2, go_on).start()
        answers = [answers_on(connection) for connection, _ in begun]
    assert [statuses(answer) for answer in answers] == [[200], [200], [503]]
    assert b'{"status":"stopping"}' in answers[2]


def test_the_end_of_service_waits_for_answers_before_what_is_no_http(translator: Translator) -> None:
    sent = post(body_of(*["w4 w5 w6"] * 60)) + chunked(b"{}").replace(b"\r\n2\r\n", b"\r\nx\r\n")
    with ExitStack() as stack:
        with running(translator, Limits(max_batch=1)) as url:
            connection = stack.enter_context(sending(url, sent, pause=0))
            while "batch_size_count 0.0" in httpx.get(f"{url}/metrics").text:
                pass
        answer = answers_on(connection)
    assert statuses(answer) == [200, 400]


@pytest.mark.parametrize("padding", [0, 10_000], ids=["small body", "large body"])
def test_the_end_of_service_has_a_bound(translator: Translator, monkeypatch: pytest.MonkeyPatch, padding: int) -> None:
    monkeypatch.setattr(server, "_DRAIN_SECONDS", 0.5)
    instance = {"data": "w5" + " " * padding, "configuration": ENDLESS}
    with ExitStack() as stack:
        with running(translator) as url:
            sent = post(json.dumps({"instances": [instance, *[{**instance, "data": "w5"}] * 40]}).encode())
            connection = stack.enter_context(sending(url, sent))
        check_error(answers_on(connection), 503, "shutting_down")


def test_nothing_is_computed_for_a_client_that_left_after_two_requests(translator: Translator) -> None:
    instance = {"data": "w5", "configuration": ENDLESS}
    sent = post(json.dumps({"instances": [instance] * 200}).encode()) + PING
    with running(translator, Limits(max_batch=1)) as url:
        with sending(url, sent):
            since = time.monotonic()
            while not eventually(queued(url) == 199, since):
                pass
        since = time.monotonic()
        while not eventually(queued(url) == 0, since):
            pass
        assert "seqwright_batch_size_count 1.0" in httpx.get(f"{url}/metrics").text
