"""The endpoint as a FastAPI application: the container's routes, those of the platform's runtime API, and figures."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from seqwright.inference.translator import Translation
from seqwright.serving.batcher import Batcher, Ticket
from seqwright.serving.bodies import BodyReader, UnreadResponse
from seqwright.serving.codecs import Instance, decode, encode
from seqwright.serving.direct import as_bytes
from seqwright.serving.errors import RequestError, queue_full
from seqwright.serving.limits import MAX_BODY_BYTES, Limits
from seqwright.serving.metrics import CONTENT_TYPE, Metrics
from seqwright.serving.negotiation import request_format, response_format
from seqwright.serving.openapi import describe
from seqwright.serving.searcher import Searcher

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

_LARGE_BODY = 1 << 16
_LARGE_ANSWER = 64
"""From so many bytes or instances on, a body is read or written beside the event loop, not on it."""

_CLIENT_GONE = 499
"""The status that is counted where nobody is left to answer."""

_MOST_NAMED = 100
"""Truncated instances that the header names; more than any proxy's limit on headers would lose the answer."""


class _Application(FastAPI):
    """FastAPI with our own schemas in its document, and a short way to the routes that carry the load."""

    busy_routes: Sequence[tuple[Route, "_Invocations"]] = ()

    def answering(self, url: bytes) -> "_Invocations | None":
        """As `direct.Application.answering`."""
        path = url.partition(b"?")[0].decode("latin-1")
        return next((invocations for route, invocations in self.busy_routes if route.path_regex.match(path)), None)

    def openapi(self) -> dict[str, Any]:
        self.openapi_schema = self.openapi_schema or describe(self)
        return self.openapi_schema


def create_app(searchers: Sequence[Searcher], limits: Limits | None = None) -> FastAPI:
    """The endpoint that serves one model.

    It searches as long as the application's lifespan; at its end the requests accepted are finished.

    Args:
        searchers: the model, once or more: `[ThreadSearcher(translator)]`, or some `SearchProcess`es that search at
            the same time.
        limits: how much to take on; the defaults if not given.
    """
    endpoint = _Endpoint(searchers, limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        endpoint.batcher.start()
        yield
        await endpoint.batcher.close()

    app = _Application(
        title="seqwright",
        version=version("seqwright"),
        description="Translates token sequences: one endpoint of the formats of Amazon SageMaker's Seq2Seq.",
        lifespan=lifespan,
    )
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    _add_routes(app, endpoint)
    return app


def _add_routes(app: _Application, endpoint: "_Endpoint") -> None:
    async def ping() -> Response:
        """Whether the endpoint is ready: 200, or 503."""
        ready = endpoint.batcher.ready
        return JSONResponse({"status": "ready" if ready else "stopping"}, 200 if ready else 503)

    async def execution_parameters() -> dict[str, int | str]:
        """What batch transform asks: how much to send at once."""
        return {
            "MaxConcurrentTransforms": 2,
            "BatchStrategy": "MULTI_RECORD",
            "MaxPayloadInMB": MAX_BODY_BYTES >> 20,
        }

    async def metrics() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(endpoint.metrics.text(), media_type=CONTENT_TYPE)

    status = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
    says = {"content": {"application/json": {"schema": status}}}
    app.get("/ping", response_model=None, responses={200: says, 503: {"description": "Stopping.", **says}})(ping)
    app.get("/execution-parameters")(execution_parameters)
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    app.get("/metrics", response_model=None, response_class=Response, responses={200: text})(metrics)
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

    async def answer(self, headers: Headers, body: bytes) -> Response:
        """As `direct.Answering.answer`."""

        async def read() -> bytes:
            return body

        return await self._endpoint.answer(headers, read, self._refuse)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request as an ASGI application."""
        request = Request(scope, receive, send)
        read = partial(self._endpoint.bodies.read, request)
        response = await self._endpoint.answer(request.headers, read, self._refuse, request.receive)
        await response(scope, receive, send)


class _Endpoint:
    """From a request to its answer."""

    def __init__(self, searchers: Sequence[Searcher], limits: Limits) -> None:
        self.metrics = Metrics()
        self.batcher = Batcher(searchers, limits, self.metrics)
        self.metrics.watch_queue(self.batcher.waiting)
        self.bodies = BodyReader(limits)
        self._model = searchers[0]
        self._limits = limits

    async def answer(
        self,
        headers: Headers,
        read: Callable[[], Awaitable[bytes]],
        refuse: Callable[[RequestError], Response],
        receive: Receive | None = None,
    ) -> Response:
        """Translate, or say why not; raises nothing.

        Args:
            headers: the request's.
            read: reads its body; raises `RequestError`, or `ClientDisconnect` where the client has gone.
            refuse: how errors are said.
            receive: after the body, tells when the client goes away; None where this is cancelled then.
        """
        try:
            response = await self._translate(headers, read, receive, time.monotonic())
        except RequestError as error:
            response = refuse(error)
        except ClientDisconnect:
            response = Response(status_code=_CLIENT_GONE)
        except asyncio.CancelledError:
            self.metrics.answered(_CLIENT_GONE)
            raise
        except Exception:
            _LOGGER.exception("a request failed")
            response = refuse(RequestError(500, "internal", "the model failed; the endpoint's log says how"))
        self.metrics.answered(response.status_code)
        return response

    async def _translate(
        self, headers: Headers, read: Callable[[], Awaitable[bytes]], receive: Receive | None, started: float
    ) -> Response:
        sent = request_format(headers.get("content-type"))
        accepted = response_format(",".join(headers.getlist("accept")), sent)
        body = await read()
        vocabulary, max_length = self._model.source_vocabulary, self._model.settings.max_seq_len_source
        instances = await _aside(len(body) >= _LARGE_BODY, lambda: decode(body, sent, vocabulary, max_length))
        ticket = self.batcher.submit(instances)
        translations = await self._wait(ticket, receive, started + self._limits.deadline)
        content = await _aside(len(instances) >= _LARGE_ANSWER, lambda: encode(instances, translations, accepted))
        self.metrics.translated(
            instances=len(instances),
            source_tokens=sum(len(instance.ids) for instance in instances),
            target_tokens=sum(len(translation.ids) for translation in translations),
            seconds=time.monotonic() - started,
        )
        return Response(content, headers={"Content-Type": accepted, **_truncated(instances)})

    async def _wait(self, ticket: Ticket, receive: Receive | None, deadline: float) -> list[Translation]:
        """The translations, unless the client goes away or the time is up before they are there."""
        loop = asyncio.get_running_loop()
        answer = ticket.translations

        def stop(error: BaseException) -> None:
            if not answer.done():
                answer.set_exception(error)

        async def watch(receive: Receive) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            stop(ClientDisconnect())

        message = f"not done within {self._limits.deadline:g} seconds: send fewer instances at a time"
        late = RequestError(504, "deadline_exceeded", message)
        timer = loop.call_later(deadline - time.monotonic(), stop, late)
        watcher = loop.create_task(watch(receive)) if receive else None
        try:
            return await answer
        finally:
            ticket.give_up()
            timer.cancel()
            if watcher:
                watcher.cancel()


async def _aside(is_large: bool, work: Callable[[], T]) -> T:
    return await run_in_threadpool(work) if is_large else work()


def _truncated(instances: list[Instance]) -> dict[str, str]:
    numbers = [str(number) for number, instance in enumerate(instances) if instance.truncated]
    if not numbers:
        return {}
    more = ["..."] if len(numbers) > _MOST_NAMED else []
    return {"X-Seqwright-Truncated": ",".join(numbers[:_MOST_NAMED] + more)}


def _error_response(error: RequestError, **more: str) -> Response:
    body = {"error": {"code": error.code, "message": error.message, "instance": error.instance}, **more}
    kind = UnreadResponse if error.headers.get("Connection") == "close" else Response
    return kind(json.dumps(body), error.status, error.headers, "application/json")


def _platform_error_response(error: RequestError) -> Response:
    """An error with its name and message also where clients of the platform's runtime API look for them."""
    kind = {503: "ServiceUnavailable", 500: "InternalFailure", 504: "InternalFailure"}
    response = _error_response(error, message=error.message)
    response.headers["x-amzn-ErrorType"] = kind.get(error.status, "ValidationError")
    return response


async def _http_error(_: Request, error: Exception) -> Response:
    """No such route, or not by this method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what this handler is registered for
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return _error_response(RequestError(error.status_code, code, str(error.detail), headers=error.headers))


async def _internal_error(_: Request, error: Exception) -> Response:
    return _error_response(RequestError(500, "internal", "the endpoint failed; its log says how"))
