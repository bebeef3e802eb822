"""Bodies of requests on their way in, and those that are not let in."""

import asyncio

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from seqwright.serving.errors import RequestError, bad_request, unavailable
from seqwright.serving.limits import MAX_BODY_BYTES, Limits

_LINGER_BYTES = 4 * MAX_BODY_BYTES
_LINGER_SECONDS = 5.0


class BodyReader:
    """Reads bodies under a bound on each, and on all that are held at once.

    Args:
        limits: `deadline` and `max_buffered_bytes`.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    async def read(self, request: Request) -> bytes:
        """The body, no more of it read than the bound.

        Raises:
            RequestError: 413 where it is too large, 408 where it takes too long, 503 where too much is held already.
            ClientDisconnect: the client has gone.
        """
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise bad_request("invalid_request", "Content-Length is not a number")
        if int(length.lstrip("0")[:20] or "0") > MAX_BODY_BYTES:
            raise too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.deadline):
                async for chunk in request.stream():
                    body += chunk
                    self._held += len(chunk)
                    if len(body) > MAX_BODY_BYTES:
                        raise too_large()
                    if self._held > self._limits.max_buffered_bytes:
                        raise unavailable("queue_full", "too many large requests at once: try again later")
        except TimeoutError as error:
            message = f"the body did not arrive within {self._limits.deadline:g} seconds"
            raise RequestError(408, "request_timeout", message, headers={"Connection": "close"}) from error
        finally:
            self._held -= len(body)
        return bytes(body)


def too_large() -> RequestError:
    """The error of a body over the bound."""
    message = f"the body is larger than {MAX_BODY_BYTES >> 20} MB: send fewer instances at a time"
    return RequestError(413, "body_too_large", message, headers={"Connection": "close"})


class UnreadResponse(Response):
    """An answer to a request whose body is still on its way.

    It is sent at once. Then a moment's worth of the body is thrown away before the connection closes: many clients
    read no answer before they have sent everything, and a connection that closes on them loses it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, then wait for the client to notice."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left = _LINGER_BYTES
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
