"""Bodies of requests and answers, each with a bound on its size and on its time."""

import asyncio
import contextlib
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from seqwright.serving.errors import RequestError, bad_request, body_too_large, queue_full, shutting_down
from seqwright.serving.limits import MAX_BODY_BYTES, Limits

_DISCARDED_BYTES = 4 * MAX_BODY_BYTES  # of an unread body that are read and thrown away after the answer
_DISCARD_SECONDS = 5.0  # how long that may take
_GRACE_SECONDS = 1.0  # how long a body may still take to arrive when the endpoint shuts down
_SEND_SECONDS = 120.0  # how long a client may take to receive an answer
_CHUNK = 1 << 18  # bytes of an answer that are sent at a time


class BodyReader:
    """Reads bodies of requests, with a bound on each and on all that are held at once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0
        self._timeouts: set[asyncio.Timeout] = set()
        self._is_stopping = False

    async def read(self, headers: Headers, receive: Receive) -> bytes:
        """Read a body.

        Raises:
            RequestError: 413 if it is too large, 408 if it takes too long, 503 if too much is held already or the
                endpoint is shutting down.
            ClientDisconnect: the client has gone.
        """
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise bad_request("invalid_request", "Content-Length is not a number")
        if int(length.lstrip("0")[:20] or "0") > MAX_BODY_BYTES:
            raise body_too_large()
        body = bytearray()
        seconds = _GRACE_SECONDS if self._is_stopping else self._limits.deadline
        try:
            async with asyncio.timeout(seconds) as timeout:
                self._timeouts.add(timeout)
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    more, chunk = message.get("more_body", False), message.get("body", b"")
                    body += chunk
                    self._held += len(chunk)
                    if len(body) > MAX_BODY_BYTES:
                        raise body_too_large()
                    if self._held > self._limits.max_buffered_bytes:
                        raise queue_full("too many large requests at once")
        except TimeoutError as error:
            late = f"the body did not arrive within {self._limits.deadline:g} seconds"
            refusal = shutting_down() if self._is_stopping else RequestError(408, "request_timeout", late)
            refusal.headers["Connection"] = "close"
            raise refusal from error
        finally:
            self._timeouts.discard(timeout)
            self._held -= len(body)
        return bytes(body)

    def stop(self) -> None:
        """Wait no longer than a moment for bodies that have not arrived."""
        self._is_stopping = True
        soon = asyncio.get_running_loop().time() + _GRACE_SECONDS
        for timeout in self._timeouts:
            timeout.reschedule(soon)


async def send_answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an answer, a large one in parts, so that each waits until the client has received those before it."""
    body = bytes(response.body)
    if isinstance(response, UnreadResponse) or len(body) <= _CHUNK:
        await response(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    for start in range(0, len(body), _CHUNK):
        await send({"type": "http.response.body", "body": body[start : start + _CHUNK], "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def with_deadline(send: Send, on_timeout: Callable[[], None]) -> Send:
    """A `send` that gives a client `_SEND_SECONDS` to receive an answer, and then calls `on_timeout`."""
    deadline: float | None = None

    async def send_in_time(message: Message) -> None:
        nonlocal deadline
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + _SEND_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                await send(message)
        except TimeoutError:
            on_timeout()

    return send_in_time


class UnreadResponse(Response):
    """An answer to a request whose body is not read.

    It is sent at once. Then some of the body is thrown away before the connection closes: many clients read no answer
    before they have sent everything, and lose it if the connection closes meanwhile.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and wait a moment for the client to notice."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left, more = _DISCARDED_BYTES, True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while more and left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
