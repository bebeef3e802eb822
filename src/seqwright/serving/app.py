"""The endpoint as an ASGI application: the container's routes, those of the platform's runtime API, and metrics."""

import re
from collections.abc import Callable, Collection, Sequence

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from seqwright.serving import openapi, page
from seqwright.serving.bodies import with_deadline
from seqwright.serving.connections import MAX_HEAD_BYTES, BoundedConnection, head_too_large
from seqwright.serving.endpoint import Endpoint, error_response
from seqwright.serving.errors import RequestError, wrong_host
from seqwright.serving.hosts import is_allowed
from seqwright.serving.limits import MAX_BODY_BYTES, Limits
from seqwright.serving.searcher import Searcher


class EndpointApp:
    """The endpoint that serves one model, as an ASGI application.

    It searches as long as the application's lifespan; at its end the requests accepted are finished.

    Args:
        searchers: some `SearchProcess`es with the same model.
        limits: how much to take on; the defaults if not given.
        allowed_hosts: names in the `Host` header that are answered, in lower case; all if not given.
    """

    def __init__(
        self, searchers: Sequence[Searcher], limits: Limits | None = None, allowed_hosts: Collection[str] | None = None
    ) -> None:
        self.endpoint = Endpoint(searchers, limits or Limits())
        self._allowed_hosts = allowed_hosts
        self._pages: dict[str, Callable[[], Response]] = {
            "/": lambda: RedirectResponse("docs", 307),
            "/docs": lambda: HTMLResponse(page.render(openapi.DOCUMENT), headers=page.HEADERS),
            "/openapi.json": lambda: JSONResponse(openapi.DOCUMENT),
            "/ping": self._ping,
            "/metrics": lambda: Response(self.endpoint.metrics.text(), media_type=CONTENT_TYPE_LATEST),
            "/execution-parameters": lambda: JSONResponse(_EXECUTION_PARAMETERS),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or start and end with the server."""
        if scope["type"] == "lifespan":
            await receive()
            self.endpoint.batcher.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.endpoint.batcher.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        connection: BoundedConnection | None = scope.get("state", {}).get("connection")
        if connection is None:
            await self._route(scope)(scope, receive, send)
            return
        connection.note_answering(True)
        try:
            await self._route(scope)(scope, receive, with_deadline(send, connection.abort))
        finally:
            connection.note_answering(False)

    def _route(self, scope: Scope) -> ASGIApp:
        """What answers a request."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope["raw_path"]) > MAX_HEAD_BYTES:
            return error_response(head_too_large())
        host = Headers(scope=scope).get("host", "")
        if not is_allowed(host, self._allowed_hosts):
            return error_response(wrong_host(host))
        method, path = scope["method"], scope["path"]
        methods, answer = ["POST"], self.endpoint.invocations
        if path in self._pages:
            methods, answer = ["GET", "HEAD"], self._pages[path]()
        elif re.fullmatch(r"/endpoints/[^/]+/invocations", path):
            answer = self.endpoint.platform_invocations
        elif path != "/invocations":
            return error_response(RequestError(404, "not_found", f"there is no {path!r}: /docs lists the routes"))
        if method in methods:
            return answer
        message, allowed = f"{path!r} is not for {method}, but for {methods[0]}", {"Allow": ", ".join(methods)}
        return error_response(RequestError(405, "method_not_allowed", message, headers=allowed))

    def _ping(self) -> Response:
        status = self.endpoint.status
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)


_EXECUTION_PARAMETERS = {
    "MaxConcurrentTransforms": 32,
    "BatchStrategy": "SINGLE_RECORD",  # as many records as fit in the megabytes may be too many instances
    "MaxPayloadInMB": MAX_BODY_BYTES >> 20,
}
"""What batch transform asks: how much to send at once."""
