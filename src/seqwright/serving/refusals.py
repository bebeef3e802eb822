"""Refusing requests while the queue is full, before anything is made of them.

At ten times the load that an endpoint can bear, nine of ten requests are refused. What that costs is taken from the
requests that were accepted; as an application's answer it costs more than all else that the event loop does for those.
"""

import asyncio
from types import SimpleNamespace
from typing import Protocol, cast

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

_ANSWERED = cast(
    RequestResponseCycle, SimpleNamespace(response_complete=True, disconnected=False, message_event=asyncio.Event())
)
"""What uvicorn keeps of a request that was answered: it passes over the body that is still to come."""


def as_bytes(response: Response) -> bytes:
    """A response as it is sent, but for its first line and the headers of every answer."""
    return b"".join(b"%b: %b\r\n" % header for header in response.raw_headers) + b"\r\n" + bytes(response.body)


class Refusing(Protocol):
    """An application that knows when it would refuse."""

    def refusal(self, path: bytes) -> bytes | None:
        """The headers and body of the 503 that a POST to `path` would get now; None if it would get another answer."""


class RefusingProtocol(HttpToolsProtocol):
    """uvicorn's, which asks a `Refusing` application about every plain POST."""

    def on_headers_complete(self) -> None:
        """Refuse a request, or begin to answer it."""
        refusal = cast(Refusing, self.config.app).refusal(self.url) if self._is_plain() else None
        if refusal is None:
            super().on_headers_complete()
            return
        common = b"".join(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
        self.transport.write(STATUS_LINE[503] + common + refusal)
        self.cycle = _ANSWERED
        self.server_state.total_requests += 1
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _is_plain(self) -> bool:
        """Whether nothing but the path matters: a POST on a connection that stays, with no other before it."""
        return (
            self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )
