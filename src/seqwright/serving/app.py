"""The endpoint as an ASGI application: the container's routes, those of the platform's runtime API, and metrics."""

import contextlib
import re
from collections.abc import AsyncIterator, Collection, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from seqwright.serving import page
from seqwright.serving.bodies import with_deadline
from seqwright.serving.connections import MAX_HEAD_BYTES, BoundedConnection, head_too_large
from seqwright.serving.endpoint import Endpoint, InvocationsRoute, error_response, platform_error_response
from seqwright.serving.errors import RequestError, failed, wrong_host
from seqwright.serving.hosts import is_allowed
from seqwright.serving.limits import MAX_BODY_BYTES, Limits
from seqwright.serving.metrics import CONTENT_TYPE
from seqwright.serving.openapi import describe
from seqwright.serving.searcher import Searcher


class EndpointApp:
    """The endpoint as an ASGI application.

    Requests for translations are answered directly, for they carry the load; FastAPI answers all others.

    Args:
        endpoint: translates.
        allowed_hosts: names in the `Host` header that are answered; None for all.
    """

    def __init__(self, endpoint: Endpoint, allowed_hosts: Collection[str] | None) -> None:
        self._endpoint = endpoint
        self._allowed_hosts = allowed_hosts
        self._invocations = InvocationsRoute(endpoint, error_response)
        self._platform_invocations = InvocationsRoute(endpoint, platform_error_response)
        self._framework = _framework(endpoint)
        for path in ("/invocations", "/endpoints/{name}/invocations"):  # answers other methods with 405
            self._framework.router.routes.append(Route(path, self._invocations, methods=["POST"]))
        self._framework.get("/docs", include_in_schema=False)(self._docs)
        self._framework.get("/openapi.json", include_in_schema=False)(self.openapi)
        self._document: dict[str, Any] = {}

    def stop(self) -> None:
        """Report from now on that the endpoint is to end, and still answer what arrives soon."""
        self._endpoint.stop()

    def give_up(self) -> None:
        """Answer every request that waits for translations, and all that come, with 503."""
        self._endpoint.batcher.give_up()

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        self._document = self._document or describe(self._framework)
        return self._document

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request as an ASGI application."""
        if scope["type"] != "http":
            await self._framework(scope, receive, send)
            return
        connection: BoundedConnection | None = scope.get("state", {}).get("connection")
        if connection is None:
            await self._route(scope)(scope, receive, send)
            return
        connection.request_began()
        try:
            await self._route(scope)(scope, receive, with_deadline(send, connection.abort))
        finally:
            connection.request_ended()

    def _route(self, scope: Scope) -> ASGIApp:
        """What answers a request."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope["raw_path"]) > MAX_HEAD_BYTES:
            return error_response(head_too_large())
        host = Headers(scope=scope).get("host", "")
        if not is_allowed(host, self._allowed_hosts):
            return error_response(wrong_host(host))
        if scope["method"] == "POST":
            if scope["path"] == "/invocations":
                return self._invocations
            if re.fullmatch(r"/endpoints/[^/]+/invocations", scope["path"]):
                return self._platform_invocations
        return self._framework

    async def _docs(self) -> Response:
        """The OpenAPI document for people."""
        return HTMLResponse(page.render(self.openapi()), headers=page.HEADERS)


def create_app(
    searchers: Sequence[Searcher], limits: Limits | None = None, allowed_hosts: Collection[str] | None = None
) -> EndpointApp:
    """The endpoint that serves one model.

    It searches as long as the application's lifespan; at its end the requests accepted are finished.

    Args:
        searchers: the model, once or more: `[ThreadSearcher(translator)]`, or some `SearchProcess`es that search at
            the same time.
        limits: how much to take on; the defaults if not given.
        allowed_hosts: names in the `Host` header that are answered, in lower case; all if not given.
    """
    return EndpointApp(Endpoint(searchers, limits or Limits()), allowed_hosts)


def _framework(endpoint: Endpoint) -> FastAPI:
    """The application for all routes but those that translate."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        endpoint.batcher.start()
        yield
        await endpoint.batcher.close()

    app = FastAPI(
        title="seqwright",
        version=version("seqwright"),
        description="Translates token sequences: one endpoint of the formats of Amazon SageMaker's Seq2Seq.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's pages load scripts from another server
        redoc_url=None,
        openapi_url=None,
        exception_handlers={HTTPException: _http_error, Exception: _internal_error},
    )

    async def ping() -> Response:
        """Whether the endpoint is ready: 200, or 503."""
        return JSONResponse({"status": endpoint.status}, 200 if endpoint.status == "ready" else 503)

    async def execution_parameters() -> dict[str, int | str]:
        """What batch transform asks: how much to send at once."""
        return {
            "MaxConcurrentTransforms": 32,
            "BatchStrategy": "SINGLE_RECORD",  # as many records as fit in the megabytes may be too many instances
            "MaxPayloadInMB": MAX_BODY_BYTES >> 20,
        }

    async def metrics() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(endpoint.metrics.text(), media_type=CONTENT_TYPE)

    async def root() -> Response:
        """The page of the endpoint."""
        return RedirectResponse("docs", 307)

    status = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
    content = {"content": {"application/json": {"schema": status}}}
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    not_ready = {"description": "Stopping, or no search process runs.", **content}
    app.get("/ping", response_model=None, responses={200: content, 503: not_ready})(ping)
    app.get("/execution-parameters")(execution_parameters)
    app.get("/metrics", response_model=None, response_class=Response, responses={200: text})(metrics)
    app.get("/", include_in_schema=False)(root)
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """404 or 405: no such route, or not by this method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what this handler is registered for
    path, headers = request.url.path, dict(error.headers or {})
    code, message = {
        404: ("not_found", f"there is no {path!r}: /docs lists the routes"),
        405: ("method_not_allowed", f"{path!r} is not for {request.method}, but for {headers.get('Allow', 'others')}"),
    }.get(error.status_code, ("invalid_request", str(error.detail)))
    return error_response(RequestError(error.status_code, code, message, headers=headers))


async def _internal_error(_: Request, error: Exception) -> Response:
    return error_response(failed())
