"""From a request for translations to its answer."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from seqwright.errors import SeqwrightError
from seqwright.inference.translator import Translation
from seqwright.serving.answer_size import check_answer_size
from seqwright.serving.batcher import Batcher
from seqwright.serving.bodies import BodyReader, UnreadResponse, send_answer
from seqwright.serving.codecs import Instance, decode, encode
from seqwright.serving.errors import RequestError, failed, queue_full
from seqwright.serving.limits import Limits
from seqwright.serving.metrics import Metrics
from seqwright.serving.negotiation import check_encoding, request_format, response_format
from seqwright.serving.request_queue import PendingRequest
from seqwright.serving.searcher import Searcher

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

_LARGE_BODY = 1 << 16  # bytes from which on a body is decoded in a thread beside the event loop
_LARGE_ANSWER = 64  # instances from which on an answer is encoded in such a thread
_CLIENT_GONE = 499  # the status that is counted if the client has gone
_MAX_NAMED = 100  # instances that a header names: an answer with larger headers would not pass a proxy


class Endpoint:
    """Translates requests with one model; `searchers` and `limits` are those of `EndpointApp`."""

    def __init__(self, searchers: Sequence[Searcher], limits: Limits) -> None:
        self.metrics = Metrics()
        self.batcher = Batcher(searchers, limits, self.metrics)
        self.metrics.watch_queue(self.batcher.waiting)
        self._is_stopping = False
        self._limits = limits
        self._bodies = BodyReader(limits)
        self._model = searchers[0].model

    @property
    def status(self) -> str:
        """`ready`, or why it is not."""
        if self._is_stopping:
            return "stopping"
        return "ready" if self.batcher.healthy else "no search process"

    def stop(self) -> None:
        """Report from now on that the endpoint is to end, and still answer what arrives soon."""
        self._is_stopping = True
        self._bodies.stop()

    async def invocations(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Translate a request, as an ASGI application."""
        response = await self._answer(Headers(scope=scope), receive, error_response)
        await send_answer(response, scope, receive, send)

    async def platform_invocations(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Translate a request of a client of the platform's runtime API, as an ASGI application."""
        response = await self._answer(Headers(scope=scope), receive, platform_error_response)
        await send_answer(response, scope, receive, send)

    async def _answer(
        self, headers: Headers, receive: Receive, to_response: Callable[[RequestError], Response]
    ) -> Response:
        """The answer to a request; `to_response` makes those of errors."""
        started = time.monotonic()
        try:
            if self.batcher.full and _is_small(headers):
                raise queue_full()  # without reading the body: refusals must cost little
            check_encoding(headers.get("content-encoding"))
            sent = request_format(headers.get("content-type"))
            accepted = response_format(",".join(headers.getlist("accept")), sent)
            body = await self._bodies.read(headers, receive)
            instances = await _in_thread_if(len(body) >= _LARGE_BODY, lambda: self._decode(body, sent))
            async with asyncio.timeout(self._limits.deadline - (time.monotonic() - started)):
                translations = await _wait(self.batcher.submit(instances), receive)
            is_large = len(instances) >= _LARGE_ANSWER
            content = await _in_thread_if(is_large, lambda: encode(instances, translations, accepted))
            self._count(instances, translations, time.monotonic() - started)
            response = Response(content, headers={"Content-Type": accepted, **_notes(instances)})
        except asyncio.CancelledError:
            self.metrics.answered(_CLIENT_GONE)
            raise
        except ClientDisconnect:
            response = Response(status_code=_CLIENT_GONE)
        except RequestError as error:
            response = to_response(error)
        except TimeoutError:
            message = f"not done within {self._limits.deadline:g} seconds: send fewer instances at a time"
            response = to_response(RequestError(504, "deadline_exceeded", message))
        except Exception as error:
            is_explained = isinstance(error, SeqwrightError)
            _LOGGER.error("a request failed: %s", error, exc_info=None if is_explained else error)
            response = to_response(failed("the model"))
        self.metrics.answered(response.status_code)
        return response

    def _decode(self, body: bytes, content_type: str) -> list[Instance]:
        model = self._model
        instances = decode(body, content_type, model.source_vocabulary, model.settings.max_seq_len_source)
        check_answer_size(instances, model)
        return instances

    def _count(self, instances: Sequence[Instance], translations: Sequence[Translation], seconds: float) -> None:
        self.metrics.translated(
            instances=len(instances),
            source_tokens=sum(len(instance.ids) for instance in instances),
            unknown_tokens=sum(instance.unknown for instance in instances),
            target_tokens=sum(len(translation.ids) for translation in translations),
            seconds=seconds,
        )


def error_response(error: RequestError, **more: str) -> Response:
    """The answer of an error, with `more` in its body."""
    kind = UnreadResponse if error.headers.get("Connection") == "close" else Response
    return kind(error.as_json(**more), error.status, error.headers, "application/json")


def platform_error_response(error: RequestError) -> Response:
    """The answer of an error, with its kind and message where clients of the platform's runtime API look for them."""
    kinds = {503: "ServiceUnavailable", 500: "InternalFailure", 504: "InternalFailure"}
    response = error_response(error, message=error.message)
    response.headers["x-amzn-ErrorType"] = kinds.get(error.status, "ValidationError")
    return response


def _is_small(headers: Headers) -> bool:
    """Whether a body is so small that it may arrive unread: clients send it before they read the answer."""
    length = headers.get("content-length", "")
    return length.isdecimal() and int(length[:9]) < _LARGE_BODY // 2 and len(length) < 9


async def _in_thread_if(is_large: bool, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if is_large else work()


async def _wait(request: PendingRequest, receive: Receive) -> list[Translation]:
    """The translations of a request, unless the client goes away before: `ClientDisconnect`."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        request.fail(ClientDisconnect())

    watcher = asyncio.get_running_loop().create_task(watch())
    try:
        return await request.translations
    finally:
        request.cancel()
        watcher.cancel()


def _notes(instances: Sequence[Instance]) -> dict[str, str]:
    """Headers that say which instances were cut, and which have unknown tokens."""
    cut = [str(number) for number, instance in enumerate(instances) if instance.truncated]
    unknown = [f"{number}={instance.unknown}" for number, instance in enumerate(instances) if instance.unknown]
    notes = {"X-Seqwright-Truncated": cut, "X-Seqwright-Unknown": unknown}
    more = {name: ["..."] if len(entries) > _MAX_NAMED else [] for name, entries in notes.items()}
    return {name: ",".join(entries[:_MAX_NAMED] + more[name]) for name, entries in notes.items() if entries}
