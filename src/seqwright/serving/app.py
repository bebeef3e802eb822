"""The endpoint as a FastAPI application: the container's routes, those of the platform's runtime API, and figures."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from seqwright.inference.translator import Translation
from seqwright.serving import page
from seqwright.serving.batcher import Batcher
from seqwright.serving.bodies import BodyReader, UnreadResponse
from seqwright.serving.codecs import Instance, decode, encode
from seqwright.serving.connections import as_bytes
from seqwright.serving.direct import Begin, Head
from seqwright.serving.errors import RequestError, as_json, failed, queue_full
from seqwright.serving.limits import MAX_BODY_BYTES, Limits
from seqwright.serving.metrics import CONTENT_TYPE, Metrics
from seqwright.serving.negotiation import check_encoding, negotiated
from seqwright.serving.openapi import describe
from seqwright.serving.searcher import Searcher
from seqwright.serving.ticket import Ticket

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

_LARGE_BODY = 1 << 16
_LARGE_ANSWER = 64
"""From so many bytes or instances on, a body is read or written beside the event loop, not on it."""

_CLIENT_GONE = 499
"""The status that is counted where nobody is left to answer."""

_MOST_NAMED = 100
"""Truncated instances that the header names; more than any proxy's limit on headers would lose the answer."""


class Application(FastAPI):
    """FastAPI with our own schemas in its document, and a short way to the routes that carry the load.

    Args:
        endpoint: who answers.
    """

    busy_routes: Sequence[tuple[Route, "_Invocations"]] = ()

    def __init__(self, endpoint: "_Endpoint") -> None:
        @contextlib.asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            endpoint.batcher.start()
            yield
            await endpoint.batcher.close()

        super().__init__(
            title="seqwright",
            version=version("seqwright"),
            description="Translates token sequences: one endpoint of the formats of Amazon SageMaker's Seq2Seq.",
            lifespan=lifespan,
            redirect_slashes=False,
            docs_url=None,  # FastAPI's pages are scripts of a third party's server
            redoc_url=None,
        )
        self.heads: dict[bytes, Head] = {}
        self._endpoint = endpoint

    def stop(self) -> None:
        """Say from now on that it ends, and still answer what comes."""
        self._endpoint.is_stopping = True

    def give_up(self) -> None:
        """Answer every request that waits for translations, and all that come, with 503."""
        self._endpoint.give_up()

    def answering(self, url: bytes) -> "_Invocations | None":
        """As `direct.Application.answering`."""
        if b"%" in url:  # it is FastAPI that decodes
            return None
        path = url.partition(b"?")[0].decode("latin-1")
        return next((invocations for route, invocations in self.busy_routes if route.path_regex.match(path)), None)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        self.openapi_schema = self.openapi_schema or describe(self)
        return self.openapi_schema


def create_app(searchers: Sequence[Searcher], limits: Limits | None = None) -> Application:
    """The endpoint that serves one model.

    It searches as long as the application's lifespan; at its end the requests accepted are finished.

    Args:
        searchers: the model, once or more: `[ThreadSearcher(translator)]`, or some `SearchProcess`es that search at
            the same time.
        limits: how much to take on; the defaults if not given.
    """
    endpoint = _Endpoint(searchers, limits or Limits())
    app = Application(endpoint)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    _add_routes(app, endpoint)
    return app


def _add_routes(app: Application, endpoint: "_Endpoint") -> None:
    async def ping() -> Response:
        """Whether the endpoint is ready: 200, or 503."""
        ready = endpoint.batcher.ready and not endpoint.is_stopping
        return JSONResponse({"status": "ready" if ready else "stopping"}, 200 if ready else 503)

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

    async def docs() -> Response:
        """The OpenAPI document for people."""
        return HTMLResponse(page.render(app.openapi()), headers=page.HEADERS)

    status = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
    says = {"content": {"application/json": {"schema": status}}}
    app.get("/ping", response_model=None, responses={200: says, 503: {"description": "Stopping.", **says}})(ping)
    app.get("/execution-parameters")(execution_parameters)
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    app.get("/metrics", response_model=None, response_class=Response, responses={200: text})(metrics)
    app.get("/docs", include_in_schema=False)(docs)
    ways = {"/invocations": _error_response, "/endpoints/{name}/invocations": _platform_error_response}
    every = [(path, _Invocations(endpoint, refuse)) for path, refuse in ways.items()]
    app.busy_routes = [(Route(path, invocations, methods=["POST"]), invocations) for path, invocations in every]
    app.router.routes.extend(route for route, _ in app.busy_routes)


class _Invocations:
    """A route that translates.

    Args:
        endpoint: who answers.
        refuse: how errors are said.
    """

    def __init__(self, endpoint: "_Endpoint", refuse: Callable[[RequestError], Response]) -> None:
        self._endpoint = endpoint
        self._refuse = refuse
        self._refusal = as_bytes(refuse(queue_full()))

    def refusal(self) -> bytes | None:
        """As `direct.Answering.refusal`; it counts as answered."""
        if not self._endpoint.batcher.full:
            return None
        self._endpoint.metrics.answered(503)
        return self._refusal

    def beginning(self, headers: Headers) -> Begin:
        """As `direct.Answering.beginning`."""
        formats = cache(lambda: _formats(headers))
        return lambda body, done: self._endpoint.begin(formats, body, self._refuse, done)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request as an ASGI application."""
        request = Request(scope, receive, send)
        response = await self._endpoint.answer(request, self._refuse)
        await response(scope, receive, send)


@dataclass(frozen=True)
class _Asked:
    """A request that was understood.

    Attributes:
        instances: what to translate.
        accepted: the format of the answer.
        started: when it came, by `time.monotonic`.
    """

    instances: Sequence[Instance]
    accepted: str
    started: float


class _Endpoint:
    """From a request to its answer."""

    def __init__(self, searchers: Sequence[Searcher], limits: Limits) -> None:
        self.metrics = Metrics()
        self.batcher = Batcher(searchers, limits, self.metrics)
        self.metrics.watch_queue(self.batcher.waiting)
        self._bodies = BodyReader(limits)
        self._vocabulary = searchers[0].source_vocabulary
        self._max_length = searchers[0].settings.max_seq_len_source
        self.is_stopping = False

    def give_up(self) -> None:
        """As `Application.give_up`."""
        self.batcher.give_up()

    async def answer(self, request: Request, refuse: Callable[[RequestError], Response]) -> Response:
        """Translate, or say why not; raises nothing.

        Args:
            request: its body not read yet.
            refuse: how errors are said.
        """
        started = time.monotonic()
        try:
            sent, accepted = _formats(request.headers)
            body = await self._bodies.read(request)
            asked = await _aside(len(body) >= _LARGE_BODY, lambda: self._read(body, sent, accepted, started))
            ticket = self.batcher.submit(asked.instances, asked.started)
            translations = await _wait(ticket, request.receive)
            response = await _aside(_is_large(asked), lambda: self._write(asked, translations))
        except asyncio.CancelledError:
            self.metrics.answered(_CLIENT_GONE)
            raise
        except Exception as error:
            response = _failure(error, refuse)
        self.metrics.answered(response.status_code)
        return response

    def begin(
        self,
        formats: Callable[[], tuple[str, str]],
        body: bytes,
        refuse: Callable[[RequestError], Response],
        done: Callable[[Response], None],
    ) -> Callable[[], None]:
        """As `answer`, for a small body, without a task of its own.

        Args:
            formats: gives those of the request and of its answer, or raises `RequestError`.
            body: the request's.
            refuse: how errors are said.
            done: called with the answer, now or later; not where the client has gone.

        Returns:
            What to call when the client goes away.
        """
        started = time.monotonic()

        def end(response: Response) -> None:
            self.metrics.answered(response.status_code)
            done(response)

        try:
            asked = self._read(body, *formats(), started)
            ticket = self.batcher.submit(asked.instances, asked.started)
        except Exception as error:
            end(_failure(error, refuse))
            return lambda: None

        def outcome() -> Response:
            try:
                return self._write(asked, ticket.translations.result())
            except Exception as error:
                return _failure(error, refuse)

        def finish(translations: asyncio.Future[list[Translation]]) -> None:
            if translations.cancelled():
                self.metrics.answered(_CLIENT_GONE)
            elif _is_large(asked):
                work = asyncio.get_running_loop().run_in_executor(None, outcome)
                work.add_done_callback(lambda response: end(response.result()))
            else:
                end(outcome())

        ticket.translations.add_done_callback(finish)
        return ticket.leave

    def _read(self, body: bytes, sent: str, accepted: str, started: float) -> _Asked:
        """The request that a body makes; raises `RequestError`."""
        return _Asked(decode(body, sent, self._vocabulary, self._max_length), accepted, started)

    def _write(self, asked: _Asked, translations: Sequence[Translation]) -> Response:
        """The answer, which is counted."""
        content = encode(asked.instances, translations, asked.accepted)
        self.metrics.translated(
            instances=len(asked.instances),
            source_tokens=sum(len(instance.ids) for instance in asked.instances),
            target_tokens=sum(len(translation.ids) for translation in translations),
            seconds=time.monotonic() - asked.started,
        )
        return Response(content, headers={"Content-Type": asked.accepted, **_truncated(asked.instances)})


def _formats(headers: Headers) -> tuple[str, str]:
    """The formats of a request and of its answer; raises `RequestError`."""
    check_encoding(headers.get("content-encoding"))
    return negotiated(headers.get("content-type"), ",".join(headers.getlist("accept")))


def _is_large(asked: _Asked) -> bool:
    return len(asked.instances) >= _LARGE_ANSWER


async def _aside(is_large: bool, work: Callable[[], T]) -> T:
    return await run_in_threadpool(work) if is_large else work()


async def _wait(ticket: Ticket, receive: Receive) -> list[Translation]:
    """The translations, unless the client goes away before they are there: `ClientDisconnect`."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        ticket.fail(ClientDisconnect())

    watcher = asyncio.get_running_loop().create_task(watch())
    try:
        return await ticket.translations
    finally:
        ticket.give_up()
        watcher.cancel()


def _failure(error: Exception, refuse: Callable[[RequestError], Response]) -> Response:
    """The answer to a request that got no translations."""
    if isinstance(error, RequestError):
        return refuse(error)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=_CLIENT_GONE)
    _LOGGER.error("a request failed", exc_info=error)
    return refuse(RequestError(500, "internal", "the model failed; the endpoint's log says how"))


def _truncated(instances: Sequence[Instance]) -> dict[str, str]:
    numbers = [str(number) for number, instance in enumerate(instances) if instance.truncated]
    if not numbers:
        return {}
    more = ["..."] if len(numbers) > _MOST_NAMED else []
    return {"X-Seqwright-Truncated": ",".join(numbers[:_MOST_NAMED] + more)}


def _error_response(error: RequestError, **more: str) -> Response:
    kind = UnreadResponse if error.headers.get("Connection") == "close" else Response
    return kind(as_json(error, **more), error.status, error.headers, "application/json")


def _platform_error_response(error: RequestError) -> Response:
    """An error with its name and message also where clients of the platform's runtime API look for them."""
    kind = {503: "ServiceUnavailable", 500: "InternalFailure", 504: "InternalFailure"}
    response = _error_response(error, message=error.message)
    response.headers["x-amzn-ErrorType"] = kind.get(error.status, "ValidationError")
    return response


async def _http_error(request: Request, error: Exception) -> Response:
    """No such route, or not by this method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what this handler is registered for
    path, headers = request.url.path, dict(error.headers or {})
    code, message = {
        404: ("not_found", f"there is no {path!r}: /docs lists the routes"),
        405: ("method_not_allowed", f"{path!r} is not for {request.method}, but for {headers.get('Allow', 'others')}"),
    }.get(error.status_code, ("invalid_request", str(error.detail)))
    return _error_response(RequestError(error.status_code, code, message, headers=headers))


async def _internal_error(_: Request, error: Exception) -> Response:
    return _error_response(failed())
