"""Small requests for translations, answered by the HTTP protocol itself.

What ASGI takes for a request (a scope, a cycle, a task that watches for the client's leaving, an answer in two writes)
is as much as everything else that the endpoint of a small model does for a sentence besides searching, and the searches
go without it. So a POST with a small body goes straight to who answers it. At ten times the load that the endpoint can
bear, nine of ten requests are refused, and what that costs is taken from the tenth: a request that would be refused is
so as soon as its headers are there. Every other request is uvicorn's: large, chunked, by another method, behind another
on its connection, or for another route.

A client sends the same headers again and again. Those that were parsed once and found to be of this kind are known by
their bytes from then on, and so is where the request ends: one that comes in one piece is not parsed again.

An offer to speak HTTP/2 instead, which every client of Java's standard library makes, is passed over, as RFC 9110 (7.8)
allows: to the parser it would be the end of HTTP, and the body be lost (https://github.com/Kludex/uvicorn/issues/2722).
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Protocol, cast

from starlette.datastructures import Headers
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from seqwright.serving.connections import BoundedProtocol, as_bytes
from seqwright.serving.errors import RequestError

SMALL_BODY = 1 << 13
"""Bytes of the largest body that counts as small: no more than what an open connection takes by itself."""

_DIGITS = 10
"""Digits of a Content-Length from which on its body does not count as small, zeros before it included."""

_PATIENCE = 1.0
"""Seconds until a body that has not come is waited for by uvicorn instead, which has a deadline for it."""


class Answering(Protocol):
    """Who answers the requests of a route."""

    def refusal(self) -> bytes | None:
        """The `as_bytes` of the 503 that any request would get now; None if it would get another answer."""

    def beginning(self, headers: Headers) -> "Begin":
        """How requests with these headers are answered."""


Begin = Callable[[bytes, Callable[[Response], None]], Callable[[], None]]
"""Answers a request, given its body and what gets the answer, now or later; returns what to call when the client goes
away."""


class Application(Protocol):
    """An application with routes whose requests need nothing of ASGI."""

    heads: "dict[bytes, Head]"
    """Those that are known, oldest first."""

    def answering(self, url: bytes) -> Answering | None:
        """Who answers a POST to `url`; None if that is for the application."""


_UPGRADE = re.compile(rb"^upgrade:[^\r\n]*\r\n", re.IGNORECASE | re.MULTILINE)
"""The header in which a client offers another protocol."""


_UNHEARD = asyncio.Event()
"""What uvicorn sets when a body arrives or a connection is lost; nobody waits for it here."""


@dataclass(frozen=True)
class Head:
    """The line and headers of a small POST on a connection that stays.

    Attributes:
        answering: who answers.
        begin: how.
        length: bytes of the body.
    """

    answering: Answering
    begin: Begin
    length: int


_MOST_HEADS = 1024
_LONGEST_HEAD = 1 << 11
"""Heads that are remembered, and bytes of the longest of them."""


@dataclass(eq=False)
class _Exchange:
    """A request and its answer, in the place of uvicorn's `RequestResponseCycle`: what of it uvicorn reads and sets."""

    head: Head
    body: bytearray = field(default_factory=bytearray)
    keep_alive: bool = True
    response_started: bool = False
    response_complete: bool = False
    disconnected: bool = False
    message_event: asyncio.Event = _UNHEARD


_REFUSED = cast(
    RequestResponseCycle,
    SimpleNamespace(response_complete=True, response_started=True, disconnected=False, message_event=_UNHEARD),
)
"""A request that was answered: uvicorn passes over the body that is still to come."""


class DirectProtocol(BoundedProtocol):
    """uvicorn's protocol, but for small POSTs of an `Application`."""

    _incoming: _Exchange | None = None
    """What has its headers, and not yet all of its body."""
    _hand_over_timer: asyncio.TimerHandle | None = None
    _leave: Callable[[], None] | None = None
    """To call when the client goes away."""
    _head: bytes = b""
    """What the data at hand begins with, where that is the whole head of a request."""

    def data_received(self, data: bytes) -> None:
        """Parse what is not known, and give a body that is late a moment."""
        self._head = b""
        if self._is_between() and self._is_free():
            self._head = data[: data.find(b"\r\n\r\n") + 4]
            known = cast(Application, self.config.app).heads.get(self._head)
            if known and len(data) == len(self._head) + known.length:
                self._take_in(known, data[len(self._head) :])
                return
        if b"pgrade" in data and not self._is_in_body():
            head, end, rest = data.partition(b"\r\n\r\n")
            data, self._head = _UPGRADE.sub(b"", head + end[:2]) + end[2:] + rest, b""
        super().data_received(data)
        if self._incoming and not self._hand_over_timer:
            self._hand_over_timer = self.loop.call_later(_PATIENCE, self._hand_over)

    def begin_request(self) -> None:
        """Refuse a request, take it in, or leave it to uvicorn."""
        seen, self._head = self._head, b""
        answering = cast(Application, self.config.app).answering(self.url) if self._is_plain() else None
        if answering and (refusal := answering.refusal()):
            self.cycle = _REFUSED
            self.send(503, refusal, keep_alive=True)
            self.on_response_complete()
            return
        headers = Headers(raw=self.headers)
        length = headers.get("content-length", "")
        if answering and length.isdecimal() and len(length) < _DIGITS and int(length) <= SMALL_BODY:
            head = Head(answering, answering.beginning(headers), int(length))
            self._remember(seen, head)
            self._incoming = _Exchange(head)
            self.cycle = cast(RequestResponseCycle, self._incoming)
        else:
            super().begin_request()

    def on_body(self, body: bytes) -> None:
        """Take in a part of the body."""
        if self._incoming:
            self._incoming.body += body
        else:
            super().on_body(body)

    def end_request(self) -> None:
        """Begin to answer."""
        if self.cycle is _REFUSED:
            return
        if self._incoming:
            exchange = self._taken()
            self._respond(exchange, bytes(exchange.body))
        else:
            super().end_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Compute nothing more for it."""
        if self._incoming:
            self._taken()
        if self._leave:
            self._leave()
        super().connection_lost(exc)

    def refuse(self, fault: RequestError) -> None:
        """Take in nothing more."""
        if self._incoming:
            self._taken()
        super().refuse(fault)

    def _take_in(self, head: Head, body: bytes) -> None:
        """Answer a request that came in one piece and whose head is known."""
        self._stop_waiting()
        self._unset_keepalive_if_required()
        exchange = _Exchange(head)
        self.cycle = cast(RequestResponseCycle, exchange)
        self._respond(exchange, body)

    def _respond(self, exchange: _Exchange, body: bytes) -> None:
        """Refuse a request that is there, or begin to answer it."""
        if refusal := exchange.head.answering.refusal():  # for others that came with it and before it
            self._finish(exchange, 503, refusal)
        else:
            self._leave = exchange.head.begin(body, partial(self._answer, exchange))

    def _remember(self, seen: bytes, head: Head) -> None:
        """Know a head by its bytes where they came in one piece; no credentials, which have no reason to be kept."""
        if seen.endswith(b"\r\n\r\n") and len(seen) <= _LONGEST_HEAD and b"uthorization" not in seen:
            heads = cast(Application, self.config.app).heads
            while len(heads) >= _MOST_HEADS:
                del heads[next(iter(heads))]
            heads[seen] = head

    def _is_free(self) -> bool:
        """Whether a request would be the only one on the connection, and its answer could be sent."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and not self._is_stopping
        )

    def _is_plain(self) -> bool:
        """Whether the headers are those of a POST on a connection that stays, with no other before it."""
        return (
            self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.expect_100_continue
            and self._is_free()
        )

    def _taken(self) -> _Exchange:
        """What was on its way in, which it no longer is."""
        exchange, self._incoming = self._incoming, None
        assert exchange is not None  # noqa: S101 - its callers looked
        if self._hand_over_timer:
            self._hand_over_timer.cancel()
            self._hand_over_timer = None
        return exchange

    def _hand_over(self) -> None:
        """Have uvicorn wait for the rest of a request."""
        exchange = self._taken()
        self.cycle.response_complete = True
        super().begin_request()
        self.cycle.keep_alive = exchange.keep_alive
        super().on_body(bytes(exchange.body))

    def _answer(self, exchange: _Exchange, response: Response) -> None:
        self._finish(exchange, response.status_code, as_bytes(response))

    def _finish(self, exchange: _Exchange, status: int, rest: bytes) -> None:
        """Send the answer, but to a client that has gone."""
        exchange.response_complete = True
        self._leave = None
        if exchange.disconnected:
            return
        self.send(status, rest, exchange.keep_alive)
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()
