"""Crowds, disconnects, deadlines, a full queue and the end of service, over HTTP."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from seqwright.inference.translator import Translator
from seqwright.serving.limits import Limits
from tests.serving.conftest import ENDLESS, running

PATIENCE = 30.0


def request(*texts: str, **configuration: object) -> dict[str, object]:
    return {"instances": [{"data": text, "configuration": configuration} for text in texts]}


def queued(url: str) -> int:
    """Instances that wait, as /metrics says."""
    found = re.search(r"^seqwright_queue_instances (\d+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def eventually(holds: bool, since: float) -> bool:
    """Whether to stop waiting; fails where it takes too long."""
    assert time.monotonic() - since < PATIENCE
    time.sleep(0.01)
    return holds


def test_a_crowd_gets_the_answers_of_a_lone_client(url: str, translator: Translator) -> None:
    texts = [" ".join(f"w{4 + (i * 5 + j) % 20}" for j in range(1 + i % 9)) for i in range(96)]
    expected = [each.text for each in translator.translate(texts, batch_size=1)]

    async def crowd() -> list[str]:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            gate = asyncio.Semaphore(32)

            async def ask(text: str) -> str:
                async with gate:
                    answer = await client.post("/invocations", json=request(text))
                return str(answer.json()["predictions"][0]["target"])

            return await asyncio.gather(*map(ask, texts))

    assert asyncio.run(crowd()) == expected
    figures = httpx.get(f"{url}/metrics").text
    assert float(figures.split("seqwright_batch_size_count ")[1].split()[0]) < 96


@pytest.fixture
def narrow(translator: Translator) -> Iterator[str]:
    """An endpoint that searches one instance at a time and takes on two more."""
    with running(translator, Limits(max_batch=1, backlog=1)) as url:
        yield url


@contextlib.asynccontextmanager
async def asking(url: str, *texts: str) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """A request whose search takes long; its client goes away when the block ends."""
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        task = asyncio.create_task(client.post(f"{url}/invocations", json=request(*texts, **ENDLESS)))
        try:
            yield task
        finally:
            task.cancel()


@pytest.mark.parametrize("text", ["w5", "w5" + " " * 200], ids=["small body", "large body"])
def test_nothing_is_computed_for_clients_that_went_away(narrow: str, text: str) -> None:
    async def go_away() -> None:
        async with asking(narrow, *[text] * 50):
            since = time.monotonic()
            while not eventually(await asyncio.to_thread(queued, narrow) == 49, since):
                await asyncio.sleep(0)

    asyncio.run(go_away())
    since = time.monotonic()
    while not eventually(queued(narrow) == 0, since):
        pass
    assert httpx.post(f"{narrow}/invocations", json=request("w5")).status_code == 200
    assert "seqwright_batch_size_sum 2.0" in httpx.get(f"{narrow}/metrics").text


@contextlib.asynccontextmanager
async def full_queue(url: str) -> AsyncIterator[None]:
    """While in the block, no request is accepted."""
    async with asking(url, *["w5"] * 9), contextlib.AsyncExitStack() as stack:
        since = time.monotonic()
        while not eventually(await asyncio.to_thread(queued, url) == 8, since):
            await asyncio.sleep(0)
        for count in range(1, 3):
            await stack.enter_async_context(asking(url, "w6"))
            since = time.monotonic()
            while not eventually(await asyncio.to_thread(queued, url) >= 8 + count - 1, since):
                await asyncio.sleep(0)
        yield


def test_a_full_queue_answers_503_with_retry_after(narrow: str) -> None:
    async def ask(path: str) -> httpx.Response:
        async with full_queue(narrow), httpx.AsyncClient(timeout=PATIENCE) as client:
            return await client.post(f"{narrow}{path}", json=request("w7"))

    for path in ("/invocations", "/endpoints/any/invocations?x=1"):
        response = asyncio.run(ask(path))
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["error"]["code"] == "queue_full"
        assert ("x-amzn-errortype" in response.headers) == path.startswith("/endpoints")
        assert "date" in response.headers
    counted = re.search(r'seqwright_requests_total{status="503"} (\S+)', httpx.get(f"{narrow}/metrics").text)
    assert counted is not None
    assert float(counted[1]) >= 2


def test_refusals_leave_the_connection_as_any_answer_does(narrow: str) -> None:
    body = json.dumps(request("w7")).encode()
    post = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    post %= len(body), body
    last = post.replace(b"Host: x", b"Host: x\r\nConnection: close")

    async def ask() -> bytes:
        async with full_queue(narrow):
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(narrow).port)
            for part in (post[:100], post[100:] + post, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", last):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.05)
            answers = await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            return answers

    answers = asyncio.run(ask())
    statuses = [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"503", b"503", b"200", b"503"]
    assert answers.count(b"queue_full") == 3


def test_a_request_past_its_deadline_is_cancelled(translator: Translator) -> None:
    with running(translator, Limits(deadline=0.5)) as url:
        response = httpx.post(f"{url}/invocations", json=request(*["w5"] * 40, **ENDLESS), timeout=PATIENCE)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert httpx.post(f"{url}/invocations", json=request("w5")).status_code == 200
        assert queued(url) == 0


def test_a_body_that_does_not_arrive_gets_408(translator: Translator) -> None:
    with running(translator, Limits(deadline=0.3)) as url:
        with socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=PATIENCE) as connection:
            connection.sendall(
                b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b'Content-Length: 100\r\n\r\n{"instances": '
            )
            answer = connection.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code": "request_timeout"' in answer


def test_large_bodies_are_held_only_up_to_a_bound(translator: Translator) -> None:
    with running(translator, Limits(max_buffered_bytes=10_000)) as url:
        response = httpx.post(f"{url}/invocations", json=request("w5 " * 4000))
        assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_full")
        assert httpx.post(f"{url}/invocations", json=request("w5 " * 3000)).status_code == 200


def test_the_end_of_service_waits_for_the_answers(translator: Translator) -> None:
    answers: list[httpx.Response] = []

    def ask(url: str) -> None:
        answers.append(httpx.post(f"{url}/invocations", json=request(*["w5"] * 40), timeout=PATIENCE))

    with running(translator, Limits(max_batch=1)) as url:
        asker = threading.Thread(target=ask, args=(url,))
        asker.start()
        since = time.monotonic()
        while not eventually(queued(url) > 0, since):
            pass
    asker.join(PATIENCE)
    assert answers[0].status_code == 200
    assert len(answers[0].json()["predictions"]) == 40
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/ping")
