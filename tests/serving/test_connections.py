"""Requests as they arrive on connections: in parts, together, without end, or no HTTP at all."""

import dataclasses
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise

import httpx
import pytest
import torch

from seqwright.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from seqwright.inference.translator import Translator
from seqwright.serving import bodies, server
from tests.serving.conftest import ENDLESS, random_model, running
from tests.serving.raw_http import (
    CLOSE,
    HEAD,
    PING,
    answers_on,
    body_of,
    check_error,
    chunked,
    exchange,
    post,
    sending,
    statuses,
    trickle,
)

LONG = body_of(*["w5 w6 w7"] * 400)


@pytest.mark.parametrize(
    "sent",
    [
        post(body_of("w4"), CLOSE),
        post(LONG, CLOSE),
        post(body_of("w4"), version="1.0"),
        post(body_of("w4"), f"Expect: 100-continue\r\n{CLOSE}"),
        chunked(body_of("w4")),
        post(body_of("w4"), CLOSE).replace(b"Content-Length: ", b"Content-Length: 00000000000000000000"),
        post(body_of("w4"), CLOSE).replace(b"/invocations", b"/%69nvocations"),
        post(body_of("w4"), CLOSE).replace(b"/invocations", b"/endpoints/any%20name/invocations?x=1"),
    ],
)
def test_requests_of_every_form_are_answered(url: str, sent: bytes) -> None:
    assert statuses(exchange(url, sent))[-1] == 200


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade"])
@pytest.mark.parametrize("first_part", [b"", b"POST /invocations", b"HTTP2-Settings\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("sent", [post(body_of("w4")), post(LONG), chunked(body_of("w4"))])
def test_an_offer_to_speak_http_2_is_ignored(url: str, sent: bytes, first_part: bytes, name: bytes) -> None:
    line, _, rest = sent.replace(CLOSE.encode(), b"").partition(b"\r\n")
    offering = line + b"\r\n" + OFFER.replace(b"Upgrade:", name + b":") + rest
    cut = offering.index(first_part) + len(first_part)
    answers = exchange(url, offering[:cut], offering[cut:], post(body_of("w4 w5"), CLOSE))
    assert statuses(answers) == [200, 200]


def test_requests_sent_without_waiting_are_answered_in_order(url: str) -> None:
    many, one = post(body_of(*["w4 w5"] * 30)), post(body_of("w4"))
    answers = exchange(url, many + one + PING + many + post(b"{", CLOSE))
    assert statuses(answers) == [200, 200, 200, 200, 400]
    found = [part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert [body.count(b"target") for body in found] == [30, 1, 0, 30, 0]


def test_a_body_may_arrive_late_and_in_parts(url: str) -> None:
    request = post(body_of("w4 w5 w6"))
    cuts = [0, 40, len(request) - 30, len(request) - 10, len(request)]
    parts = [request[start:end] for start, end in pairwise(cuts)]
    assert statuses(exchange(url, *parts, post(body_of("w4"), CLOSE))) == [200, 200]


@pytest.mark.parametrize("length", [9_000, 300_000, 5_000_000])
def test_large_bodies_are_not_taken_for_large_heads(url: str, length: int) -> None:
    body = body_of("w4" + " " * length)
    assert statuses(exchange(url, post(body, CLOSE))) == [200]
    assert statuses(exchange(url, post(body)[:-1], post(body)[-1:] + post(b"{", CLOSE))) == [200, 400]


def test_every_request_is_counted_once(translator: Translator) -> None:
    with running(translator) as url:
        for body in (body_of("w4"), LONG, b"{", body_of("w4")):
            httpx.post(f"{url}/invocations", headers={"Content-Type": "application/json"}, content=body)
        figures = httpx.get(f"{url}/metrics").text
    assert 'seqwright_requests_total{status="200"} 3.0' in figures
    assert 'seqwright_requests_total{status="400"} 1.0' in figures


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 nonsense\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\n\r\n",
        b"GET /p\xffng HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x:999999/ping HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    ],
)
def test_bytes_that_are_not_http_get_400(url: str, sent: bytes) -> None:
    assert statuses(exchange(url, sent)) == [400]
    assert httpx.get(f"{url}/ping").status_code == 200


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /ping HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"],
        [HEAD + b"X: " + b"a" * 70_000 + b"\r\nContent-Length: 2\r\n\r\n{}"],
        [b"GET /ping HTTP/1.1\r\nX: a", *[b"a" * 20_000] * 4],
        [b"GET /ping HTTP/1.1\r\n", *[b"X: a\r\n" * 5_000] * 3],
        [b"\r\n", *[b"\r\n" * 10_000] * 4],
    ],
    ids=["a long header", "of a POST", "header without end", "headers without end", "only blank lines"],
)
def test_a_head_that_is_too_large_is_refused(url: str, parts: list[bytes]) -> None:
    check_error(exchange(url, *parts), 431, "head_too_large")


def test_many_requests_at_once_are_not_a_large_head(url: str) -> None:
    count = 2_000
    sent = PING * count + PING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert statuses(exchange(url, sent)) == [200] * (count + 1)


def test_a_body_that_nobody_reads_does_not_keep_a_connection(url: str) -> None:
    sent = HEAD.replace(b"invocations", b"nothing") + b"Content-Length: 1000000000\r\n\r\n"
    with sending(url, sent) as connection:
        assert statuses(trickle(connection, b"a" * 10_000))[0] == 404


def test_trailers_without_end_do_not_keep_a_connection(url: str) -> None:
    trailers = chunked(body_of("w4")).removesuffix(b"\r\n")
    with sending(url, trailers) as connection:
        trickle(connection, b"X: " + b"a" * 1_000_000 + b"\r\n")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such bound")
def test_a_client_that_reads_nothing_is_disconnected(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_UNREAD_SECONDS", 1.0)
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000
    with running(translator) as url, sending(url, ask, pause=5) as connection, pytest.raises(ConnectionResetError):
        answers_on(connection)


def test_a_client_that_reads_slowly_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_SEND_SECONDS", 1.0)
    trained = dataclasses.replace(random_model(), target_vocabulary=long_words(15))
    instances = [{"data": f"w{4 + i % 20}", "configuration": {"max_output_length": 3}} for i in range(400)]
    ask = post(json.dumps({"instances": instances}).encode())
    with running(Translator(trained, torch.device("cpu"))) as url, sending(url, ask) as connection:
        answer = read_slowly(connection, seconds=5)
    length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    assert length > 10_000_000
    assert len(answer) < length


def long_words(count: int) -> Vocabulary:
    """A vocabulary of words that make large answers."""
    return Vocabulary([*SPECIAL_TOKENS, *(f"{number}" * 20_000 for number in range(10, 10 + count))])


def read_slowly(connection: socket.socket, seconds: float) -> bytes:
    """What arrives if a client reads a little at a time, and all that is left after some seconds."""
    answer = connection.recv(1000)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer += connection.recv(1000)
        time.sleep(0.01)
    return answer + answers_on(connection)


STALLED = {
    "in the body": HEAD + b"Content-Length: 100\r\n\r\n{",
    "before the body": HEAD + b"Content-Length: 100\r\n\r\n",
    "in a large body": HEAD + b"Content-Length: 100000\r\n\r\n{",
    "behind another": PING + HEAD + b"Content-Length: 100\r\n\r\n{",
}


@pytest.mark.parametrize("sent", STALLED.values(), ids=STALLED.keys())
def test_the_shutdown_does_not_wait_for_bodies_that_do_not_arrive(translator: Translator, sent: bytes) -> None:
    with ExitStack() as stack:
        with running(translator) as url:
            stalled, idle, new, head = (
                stack.enter_context(sending(url, each)) for each in (sent, PING, b"", b"POST /invocations HT")
            )
        check_error(answers_on(stalled), 503, "shutting_down")
        assert statuses(answers_on(idle)) == [200]
        assert answers_on(new) == answers_on(head) == b""


def test_a_body_may_still_arrive_shortly_after_the_shutdown_began(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_GRACE_SECONDS", 8.0)
    request = post(body_of("w4"))
    with ExitStack() as stack:
        with running(translator) as url:
            connection = stack.enter_context(sending(url, request[:-5]))
            threading.Timer(2, connection.sendall, [request[-5:]]).start()
        assert statuses(answers_on(connection)) == [200]


@pytest.mark.parametrize("padding", [0, 100_000], ids=["small body", "large body"])
def test_requests_that_take_too_long_get_503_at_the_shutdown(
    translator: Translator, monkeypatch: pytest.MonkeyPatch, padding: int
) -> None:
    monkeypatch.setattr(server, "_DRAIN_SECONDS", 0.5)
    instance = {"data": "w5" + " " * padding, "configuration": ENDLESS}
    with ExitStack() as stack:
        with running(translator) as url:
            sent = post(json.dumps({"instances": [instance, *[{**instance, "data": "w5"}] * 40]}).encode())
            connection = stack.enter_context(sending(url, sent))
        check_error(answers_on(connection), 503, "shutting_down")


@pytest.fixture
def local(translator: Translator) -> Iterator[str]:
    """An endpoint that answers to two names."""
    with running(translator, allowed_hosts={"localhost", "[::1]"}) as url:
        yield url


@pytest.mark.parametrize("path", ["/invocations", "/endpoints/a/invocations", "/ping", "/metrics", "/"])
def test_requests_for_another_host_get_421(local: str, path: str) -> None:
    method = "POST" if path.endswith("invocations") else "GET"
    for host, is_allowed in (
        ("localhost", True),
        ("LocalHost:8080", True),
        ("localhost.", True),
        ("[::1]", True),
        ("[::1]:8080", True),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("localhost.evil.example", False),
        ("127.0.0.1", False),
    ):
        response = httpx.request(method, f"{local}{path}", headers={"Host": host}, content=b"")
        assert (response.status_code == 421) != is_allowed, host
        if not is_allowed:
            assert response.json()["error"]["code"] == "wrong_host"
