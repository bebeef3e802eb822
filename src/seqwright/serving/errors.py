"""What a client of the endpoint did wrong, or why the endpoint will not answer now."""

import json
from collections.abc import Mapping

from seqwright.errors import ClientError

_LONGEST_MESSAGE = 1000
"""Characters of a message from which on it is cut off: it may quote what was sent."""


class RequestError(ClientError):
    """A request that gets an error instead of translations.

    Args:
        status: the HTTP status, 4xx or 5xx.
        code: what kind of error it is, for programs: a fixed word.
        message: what was wrong and what to do, for people.
        instance: the number of the instance at fault, counted from 0, where there is one.
        headers: HTTP headers that go with the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        instance: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[:_LONGEST_MESSAGE]}..."
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.instance = instance
        self.headers = dict(headers or {})


def bad_request(code: str, message: str, instance: int | None = None) -> RequestError:
    """A request that can never be answered as it is: status 400."""
    return RequestError(400, code, message, instance=instance)


def queue_full() -> RequestError:
    """The refusal of an endpoint that has as many requests as it will let wait."""
    return unavailable("queue_full", "the endpoint is at its limit: try again after the seconds in Retry-After")


def unavailable(code: str, message: str) -> RequestError:
    """A request that may be answered later: status 503, with the seconds to wait."""
    return RequestError(503, code, message, headers={"Retry-After": "1"})


def shutting_down() -> RequestError:
    """The refusal of an endpoint that ends."""
    return unavailable("shutting_down", "the endpoint is shutting down: try another or try again")


def failed() -> RequestError:
    """The error of a request that met a fault of ours: status 500."""
    return RequestError(500, "internal", "the endpoint failed; its log says how")


def as_json(error: RequestError, **more: str) -> bytes:
    """The body that every error has, and what `more` adds to it."""
    detail = {"code": error.code, "message": error.message, "instance": error.instance}
    return json.dumps({"error": detail, **more}).encode()


def late(deadline: float) -> RequestError:
    """The error of a request that was not answered in so many seconds: status 504."""
    message = f"not done within {deadline:g} seconds: send fewer instances at a time"
    return RequestError(504, "deadline_exceeded", message)
