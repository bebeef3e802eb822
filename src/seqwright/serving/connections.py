"""Connections with bounds: on the head of a request, on what nobody reads, and on the wait for a stalled client.

uvicorn bounds none of them, and says what it cannot parse as plain text.
"""

import asyncio
from enum import Enum, auto

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, parse_url
from starlette.responses import Response
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from seqwright.serving.errors import RequestError, as_json, failed, shutting_down
from seqwright.serving.limits import MAX_BODY_BYTES

HEAD_BYTES = 1 << 16
"""Bytes that a request's line and headers may have."""

_HEAD_SECONDS = 15.0
"""Seconds in which they must arrive."""

_MESSAGE_BYTES = 4 * MAX_BODY_BYTES
"""Bytes that a request may have in all, those of trailers and of a body that is passed over included."""

_GRACE_SECONDS = 1.0
"""Seconds that are left, when the endpoint shuts down, to a request that is still on its way."""

_LINGER_SECONDS = 1.0
"""Seconds for which what comes after a refusal is thrown away: a client that still sends would lose it otherwise."""


class _Phase(Enum):
    """Where on a connection the parser is."""

    BETWEEN = auto()
    HEAD = auto()
    BODY = auto()


_BETWEEN, _HEAD, _BODY = _Phase  # by these names it takes a fifth of the time, and there are a dozen a request


def as_bytes(response: Response) -> bytes:
    """A response as it is sent, but for its first line and the headers of every answer."""
    return b"".join(b"%b: %b\r\n" % header for header in response.raw_headers) + b"\r\n" + bytes(response.body)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the bounds of this module, and with errors in the endpoint's own form."""

    _phase: _Phase = _BETWEEN
    _bytes: int = 0
    """Of the request on its way in, those of the chunk of data with which it began left out."""
    _chunk: int = 0
    """Bytes of the chunk of data at hand."""
    _is_new: bool = False
    """Whether a request began or ended with the chunk of data at hand."""
    _head_timer: asyncio.TimerHandle | None = None
    _is_stopping: bool = False
    _fault: RequestError | None = None
    """Why nothing more is read."""
    _running: RequestResponseCycle | None = None
    """The request that the application answers; uvicorn knows the last that came, and it alone of a lost connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, but not for ever."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_waiting()
        for cycle in filter(None, (self._running, *(cycle for cycle, _ in self.pipeline))):
            cycle.disconnected = not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what is within the bounds."""
        if self._fault:
            return
        self._is_new, self._chunk = False, len(data)
        if not self._is_passed_over():  # more of a body that nobody reads is no reason to stay
            self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except HttpParserError as error:
            self._say_what_was_found(error)
        except HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        if self._is_new and self._phase is _BETWEEN and self.timeout_keep_alive_task:
            return  # as most do: a whole request that has its answer
        if self._fault or self.transport.is_closing():
            return
        if not self._is_new:
            self._bytes += len(data)
        if self._phase is not _BODY:
            if self._bytes > HEAD_BYTES:
                self.refuse(_head_too_large())
            elif not (self._is_answering() or self._head_timer or self.timeout_keep_alive_task):
                self._wait_for_head()
        elif self._bytes > _MESSAGE_BYTES:
            self.refuse(RequestError(413, "body_too_large", f"the request is larger than {_MESSAGE_BYTES >> 20} MB"))

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._phase, self._bytes, self._is_new = _HEAD, 0, True
        if self.timeout_keep_alive_task:  # the answer to one before it in the same bytes has set it
            self._unset_keepalive_if_required()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Check the size of the head, and begin the request."""
        if (self._chunk > HEAD_BYTES or not self._is_new) and self._head_bytes() > HEAD_BYTES:
            raise _head_too_large()
        if not self.url.startswith(b"/") and parse_url(self.url).path is None:
            raise RequestError(400, "malformed_http", "the request's URL has no path")
        if self._head_timer:
            self._stop_waiting()
        self.begin_request()
        self._phase = _BODY
        if self._is_stopping:
            self.cycle.keep_alive = False

    def begin_request(self) -> None:
        """Take in a request whose headers are there."""
        super().on_headers_complete()

    def end_request(self) -> None:
        """Take in the end of a request's body."""
        super().on_message_complete()

    def on_message_complete(self) -> None:
        """End to count."""
        self._phase, self._bytes, self._is_new = _BETWEEN, 0, True
        self.end_request()

    def on_response_complete(self) -> None:
        """Go on to the next request, or to why there is none."""
        fault = None if self.pipeline else self._fault
        super().on_response_complete()
        if fault:
            self._say(fault)

    def shutdown(self) -> None:
        """End as soon as what was accepted has its answer; a request on its way in has a moment left."""
        self._is_stopping = True
        if self._fault:
            return  # it closes by itself
        if self._phase is not _BODY and self._is_answering():
            self.cycle.keep_alive = False
        elif self._phase is _BETWEEN or self._is_passed_over():
            self.transport.close()
        else:
            if self._phase is _BODY:
                self.cycle.keep_alive = False
            self.loop.call_later(_GRACE_SECONDS, self._cut)

    def _say_what_was_found(self, error: HttpParserError) -> None:
        """Refuse what the parser, or a callback of the parser, cannot take."""
        found: BaseException = error
        if isinstance(error, HttpParserCallbackError) and error.__context__:
            found = error.__context__
        if isinstance(found, RequestError):
            self.refuse(found)
        elif isinstance(found, HttpParserError | UnicodeError):
            self.refuse(RequestError(400, "malformed_http", f"not a request in HTTP/1.1: {found}"))
        else:
            self.logger.error("a request failed", exc_info=found)
            self.refuse(failed())

    def refuse(self, fault: RequestError) -> None:
        """Read nothing more; say why when the requests before it have their answers, and close."""
        self._fault = fault
        self._stop_waiting()
        if not self._is_answering():
            self._say(fault)
        elif self._phase is _BODY:
            self.pipeline.popleft()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _is_between(self) -> bool:
        """Whether what comes next begins a request."""
        return self._phase is _BETWEEN and not self._fault and not self.transport.is_closing()

    def _is_in_body(self) -> bool:
        """Whether what comes next is of a body."""
        return self._phase is _BODY

    def _is_passed_over(self) -> bool:
        """Whether a request's body is still on its way though it has its answer."""
        return self._phase is _BODY and self.cycle.response_complete

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _is_answering(self) -> bool:
        """Whether a request that came before what is on its way in has no answer yet."""
        if self._phase is _BODY:
            return bool(self.pipeline)
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if self._phase is _HEAD:
            message = f"the request's line and headers did not arrive within {_HEAD_SECONDS:g} seconds"
            self.refuse(RequestError(408, "request_timeout", message))
        else:
            self.transport.close()

    def _cut(self) -> None:
        """End a request that is not complete, once those before it have their answers."""
        if self._phase is _BETWEEN or self._fault or self.transport.is_closing():
            return
        if self._is_answering():
            self.loop.call_later(_GRACE_SECONDS, self._cut)
        else:
            self.refuse(shutting_down())

    def _say(self, fault: RequestError) -> None:
        """Answer what came last and is not complete; wait a moment for the client to read it."""
        if self.transport.is_closing():
            return
        if self._phase is _BODY:
            if self.cycle.response_started or self.cycle.response_complete:
                self.transport.close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        response = Response(as_json(fault), headers=fault.headers, media_type="application/json")
        self.send(fault.status, as_bytes(response), keep_alive=False)
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def send(self, status: int, rest: bytes, keep_alive: bool) -> None:
        """Send an answer in one piece.

        Args:
            status: its status.
            rest: it, as `as_bytes` gives it.
            keep_alive: whether the connection stays.
        """
        common = b"".join(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
        close = b"" if keep_alive else b"connection: close\r\n"
        self.transport.write(STATUS_LINE[status] + common + close + rest)


def _head_too_large() -> RequestError:
    return RequestError(431, "head_too_large", f"the request's line and headers are larger than {HEAD_BYTES >> 10} KB")
