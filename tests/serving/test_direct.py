"""Small requests, which the HTTP protocol answers itself, against those that go through ASGI."""

import asyncio
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from seqwright.inference.translator import Translator
from seqwright.serving import direct
from seqwright.serving.batcher import Batcher
from seqwright.serving.direct import DirectProtocol
from seqwright.serving.negotiation import JSON, JSON_LINES, RECORDIO
from tests.serving.conftest import running
from tests.serving.records import framed, record

PATIENCE = 30.0

PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
PLAIN = {"Content-Type": JSON}


def body_of(*texts: str) -> bytes:
    return json.dumps({"instances": [{"data": text} for text in texts]}).encode()


def post(body: bytes, more: str = "", *, version: str = "1.1") -> bytes:
    """A POST of JSON as it is sent."""
    head = f"POST /invocations HTTP/{version}\r\nHost: x\r\nContent-Type: {JSON}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n{more}\r\n".encode() + body


@pytest.fixture(scope="module")
def through_asgi(translator: Translator) -> Iterator[str]:
    """The endpoint behind uvicorn's own protocol."""
    with running(translator, http=HttpToolsProtocol) as url:
        yield url


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


CLOSE = "Connection: close\r\n"
LONG = body_of(*["w5 w6 w7"] * 400)


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/invocations", PLAIN, body_of("w4 w5", "w6")),
        ("/invocations", {**PLAIN, "Accept": RECORDIO}, body_of("w4 w5", "w6")),
        ("/invocations", {"Content-Type": JSON_LINES, "Accept": f"{JSON};q=0.5, */*"}, b'{"source": "w4"}\n'),
        ("/invocations", {"Content-Type": RECORDIO}, framed(record([4, 5]))),
        ("/endpoints/any%20name/invocations?x=1", PLAIN, body_of("w4 " * 20)),
        ("/invocations", PLAIN, body_of(*["w4 w5"] * 100)),
        ("/invocations", PLAIN, body_of("w4", "")),
        ("/endpoints/a/invocations", PLAIN, b"{"),
        ("/invocations", {}, body_of("w4")),
        ("/invocations", {**PLAIN, "Accept": "text/html"}, body_of("w4")),
        ("/invocations", PLAIN, b""),
        ("/nothing", PLAIN, body_of("w4")),
        ("/%69nvocations", PLAIN, body_of("w4")),
        ("/endpoints/a%2Fb/invocations", PLAIN, body_of("w4")),
        ("/invocations", {**PLAIN, "Content-Encoding": "gzip"}, body_of("w4")),
    ],
)
def test_the_answer_is_that_of_the_asgi_application(
    url: str, through_asgi: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    ours, asgi = (httpx.post(f"{each}{path}", headers=headers, content=body) for each in (url, through_asgi))
    assert ours.status_code == asgi.status_code
    assert ours.content == asgi.content
    assert {**ours.headers, "date": ""} == {**asgi.headers, "date": ""}


def chunked(body: bytes) -> bytes:
    """A POST whose length is not said."""
    sized = post(b"", f"Transfer-Encoding: chunked\r\n{CLOSE}").replace(b"Content-Length: 0\r\n", b"")
    return sized + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize(
    "request_sent",
    [
        post(body_of("w4"), CLOSE),
        post(LONG, CLOSE),
        post(body_of("w4"), version="1.0"),
        post(body_of("w4"), f"Expect: 100-continue\r\n{CLOSE}"),
        chunked(body_of("w4")),
    ],
)
def test_every_other_request_is_answered_too(url: str, request_sent: bytes) -> None:
    assert statuses(exchange(url, request_sent))[-1] == 200


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade"])
@pytest.mark.parametrize("first_part", [b"", b"POST /invocations", b"HTTP2-Settings\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("request_sent", [post(body_of("w4")), post(LONG), chunked(body_of("w4"))])
def test_an_offer_to_speak_http_2_is_passed_over(url: str, request_sent: bytes, first_part: bytes, name: bytes) -> None:
    line, _, rest = request_sent.replace(CLOSE.encode(), b"").partition(b"\r\n")
    offering = line + b"\r\n" + OFFER.replace(b"Upgrade:", name + b":") + rest
    cut = offering.index(first_part) + len(first_part)
    answers = exchange(url, offering[:cut], offering[cut:], post(body_of("w4 w5"), CLOSE))
    assert statuses(answers) == [200, 200]


def test_requests_sent_without_waiting_are_answered_in_order(url: str) -> None:
    many, one = post(body_of(*["w4 w5"] * 30)), post(body_of("w4"))
    answers = exchange(url, many + one + PING + many + post(body_of(""), CLOSE))
    assert statuses(answers) == [200, 200, 200, 200, 400]
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert [body.count(b"target") for body in bodies] == [30, 1, 0, 30, 0]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The URLs of the requests whose heads the parser has read."""
    urls: list[bytes] = []
    begin_request = DirectProtocol.begin_request

    def noting(self: DirectProtocol) -> None:
        urls.append(self.url)
        begin_request(self)

    monkeypatch.setattr(DirectProtocol, "begin_request", noting)
    return urls


def test_a_head_that_is_known_is_not_parsed_again(translator: Translator, parsed: list[bytes]) -> None:
    texts = ["w4", "w5", "w", "w6", "w9 w4"]
    with running(translator) as url:
        answers = exchange(url, *(post(body_of(text)) for text in texts), post(b"{", CLOSE))
        again = exchange(url, post(body_of("w7")), post(b"{"), post(body_of("w8"), CLOSE))
    found = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in answers.split(b"HTTP/1.1 ")[1:-1]]
    assert found == [{"predictions": [{"target": each.text}]} for each in translator.translate(texts)]
    assert statuses(answers) == [200] * 5 + [400]
    assert statuses(again) == [200, 400, 200]
    # three lengths and the one that closes, then a length that is new and another that closes
    assert len(parsed) == 3 + 1 + 1 + 1


@pytest.mark.parametrize("size", [1, 7, 60, 129, 180, 300, 1000])
def test_known_heads_may_come_in_parts_and_together(url: str, size: int) -> None:
    known, other = post(body_of("w4 w5")), post(body_of("w4 w5 w6"))
    exchange(url, known, other, post(b"", CLOSE))
    stream = known * 2 + PING + other + known + other * 2 + post(body_of("w4"), CLOSE)
    parts = [stream[start : start + size] for start in range(0, len(stream), size)]
    answers = exchange(url, known, *parts, pause=0.002)
    assert statuses(answers) == [200] * 9
    assert answers.count(b"target") == 8


@pytest.mark.parametrize("more", ["Authorization: Bearer x\r\n", f"X-Long: {'x' * 3000}\r\n"])
def test_credentials_and_long_heads_are_not_kept(translator: Translator, parsed: list[bytes], more: str) -> None:
    with running(translator) as url:
        answers = exchange(url, *[post(body_of("w4"), more)] * 3, post(body_of("w4"), CLOSE))
    assert statuses(answers) == [200] * 4
    assert len(parsed) == 4


def test_only_so_many_heads_are_kept(
    translator: Translator, parsed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_MOST_HEADS", 2)
    asked = [post(body_of("w4"), f"X-Number: {number}\r\n") for number in (1, 2, 3, 3, 2, 1)]
    with running(translator) as url:
        assert statuses(exchange(url, *asked, post(body_of("w4"), CLOSE))) == [200] * 7
    assert len(parsed) == 3 + 1 + 1  # the second and the third are known, the first no more; and the one that closes


def test_a_request_whose_head_is_known_is_refused_too(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    known = post(body_of("w4"))
    with running(translator) as url:
        assert statuses(exchange(url, known, post(b"", CLOSE))) == [200, 400]
        monkeypatch.setattr(Batcher, "full", property(lambda _: True))
        answers = exchange(url, known, known, post(b"", CLOSE))
        figures = httpx.get(f"{url}/metrics").text
    assert statuses(answers) == [503, 503, 400]
    assert b"retry-after: 1" in answers.lower()
    assert 'seqwright_requests_total{status="503"} 2.0' in figures


@pytest.mark.parametrize("patience", [10.0, 0.01])
def test_a_body_may_come_late_and_in_parts(url: str, monkeypatch: pytest.MonkeyPatch, patience: float) -> None:
    monkeypatch.setattr(direct, "_PATIENCE", patience)
    request = post(body_of("w4 w5 w6"))
    cuts = [0, 40, len(request) - 30, len(request) - 10, len(request)]
    parts = [request[start:end] for start, end in pairwise(cuts)]
    answers = exchange(url, *parts, post(body_of("w4"), CLOSE))
    assert statuses(answers) == [200, 200]


def test_a_client_may_leave_before_its_body_has_come(url: str) -> None:
    async def leave() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        writer.write(post(body_of("w4"))[:-5])
        await writer.drain()
        writer.close()

    asyncio.run(leave())
    assert httpx.post(f"{url}/invocations", headers=PLAIN, content=body_of("w4")).status_code == 200


def test_what_is_counted_is_counted_once(translator: Translator) -> None:
    with running(translator) as url:
        for body in (body_of("w4"), LONG, b"{", body_of("w4")):
            httpx.post(f"{url}/invocations", headers=PLAIN, content=body)
        figures = httpx.get(f"{url}/metrics").text
    assert 'seqwright_requests_total{status="200"} 3.0' in figures
    assert 'seqwright_requests_total{status="400"} 1.0' in figures


def test_zeros_before_a_length_do_not_make_a_body_small(url: str) -> None:
    head = (
        f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nContent-Length: {'0' * 20}200000000\r\n\r\n"
    )
    assert statuses(exchange(url, head.encode(), b" " * 10_000)) == [413]
    body = body_of("w4")
    asked = post(body, CLOSE).replace(b"Content-Length: ", b"Content-Length: 00000000000000000000")
    assert statuses(exchange(url, asked)) == [200]


def test_a_refused_connection_is_not_kept_for_ever(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batcher, "full", property(lambda _: True))
    head, end, body = post(body_of("w4")).partition(b"\r\n\r\n")
    with running(translator, keep_alive=1) as url:
        assert statuses(exchange(url, head + end, body)) == [503]


def test_an_answer_at_once_does_not_end_the_wait_for_the_next(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    translate = Translator.translate_batch

    def slowly(*arguments: Any, **options: Any) -> Iterator[None]:
        time.sleep(2)
        return translate(*arguments, **options)

    monkeypatch.setattr(Translator, "translate_batch", slowly)
    with running(translator, keep_alive=1) as url:
        assert statuses(exchange(url, post(b"{") + post(body_of("w4"), CLOSE))) == [400, 200]
