"""Connections with a bound on the head of a request, and on what may arrive without an answer.

uvicorn's parser of HTTP has none. The bounds are kept by a protocol around uvicorn's own, and by nothing but what
asyncio and ASGI define: `asyncio.Protocol`, and the state that a server gives every request.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, cast

from seqwright.serving.errors import RequestError
from seqwright.serving.limits import MAX_BODY_BYTES

MAX_HEAD_BYTES = 1 << 16  # of the line and the headers of a request
_MAX_REQUEST_BYTES = 4 * MAX_BODY_BYTES  # that may arrive during an answer: the body, and requests that do not wait

_UPGRADE = re.compile(rb"^upgrade:[^\r\n]*\r\n", re.IGNORECASE | re.MULTILINE)
"""The header in which a client offers another protocol. Java's standard client offers HTTP/2 with every request, which
uvicorn takes for the end of HTTP: it loses the body (https://github.com/Kludex/uvicorn/issues/2722). RFC 9110 (7.8)
allows to ignore it."""


class BoundedConnection(asyncio.Protocol):
    """A connection that is closed if too much arrives on it.

    The application finds it in the state of a request, as `connection`, and tells it when it begins and ends to answer.

    Args:
        protocol: makes uvicorn's protocol of its named arguments, `app_state` and the others.
    """

    def __init__(
        self, protocol: Callable[..., asyncio.Protocol], *, app_state: dict[str, Any], **arguments: object
    ) -> None:
        self._protocol = protocol(app_state={**app_state, "connection": self}, **arguments)
        for name in ("eof_received", "connection_lost", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(self._protocol, name))
        self._is_answering = False
        self._received = 0  # bytes since the last answer began or ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass data on, without offers of other protocols, and count them."""
        if not self._is_answering and b"pgrade" in data:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"", head + end[:2]) + end[2:] + rest
        self._protocol.data_received(data)
        self._received += len(data)
        if self._received > MAX_HEAD_BYTES:
            # The application begins to answer a request that is complete in `data` before this is called.
            asyncio.get_running_loop().call_soon(self._check_size)

    def note_answering(self, is_answering: bool) -> None:
        """Note that the application begins or ends to answer a request."""
        self._is_answering, self._received = is_answering, 0

    def abort(self) -> None:
        """Close the connection without sending what waits to be sent."""
        self._transport.abort()

    def _check_size(self) -> None:
        if self._transport.is_closing():
            return
        if self._is_answering and self._received > _MAX_REQUEST_BYTES:
            self.abort()
        elif not self._is_answering and self._received > MAX_HEAD_BYTES:
            body = head_too_large().as_json()
            head = f"HTTP/1.1 431 \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self._transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
            self._transport.close()


def head_too_large() -> RequestError:
    """431: the line and the headers of a request are too large."""
    message = f"the request's line and headers are larger than {MAX_HEAD_BYTES >> 10} KB"
    return RequestError(431, "head_too_large", message, headers={"Connection": "close"})
