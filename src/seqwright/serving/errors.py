"""Errors that the endpoint answers with: mistakes of clients, and reasons why it will not answer now."""

import json
from collections.abc import Mapping

from seqwright.errors import ClientError
from seqwright.serving.limits import MAX_ANSWER_BYTES, MAX_BODY_BYTES

_MAX_MESSAGE = 1000  # characters after which a message is cut off: it may quote what was sent
_CLOSE = {"Connection": "close"}
_RETRY = {"Retry-After": "1"}


class RequestError(ClientError):
    """A request that is answered with an error.

    Args:
        status: the HTTP status, 4xx or 5xx.
        code: the kind of error for programs, a fixed word.
        message: what was wrong and what to do, for people.
        instance: the number of the instance at fault, counted from 0, if there is one.
        headers: HTTP headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        instance: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.message = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}..."
        self.instance = instance
        self.headers = dict(headers or {})
        super().__init__(self.message)

    def as_json(self, **more: str) -> bytes:
        """The body of the answer, with `more` added."""
        detail = {"code": self.code, "message": self.message, "instance": self.instance}
        return json.dumps({"error": detail, **more}).encode()


def bad_request(code: str, message: str, instance: int | None = None) -> RequestError:
    """400: the request is not valid."""
    return RequestError(400, code, message, instance)


def body_too_large() -> RequestError:
    """413: the body is larger than `MAX_BODY_BYTES`."""
    message = f"the body is larger than {MAX_BODY_BYTES >> 20} MB: send fewer instances at a time"
    return RequestError(413, "body_too_large", message, headers=_CLOSE)


def answer_too_large() -> RequestError:
    """413: the answer is, or could be, larger than `MAX_ANSWER_BYTES`."""
    message = (
        f"the answer could be larger than {MAX_ANSWER_BYTES >> 20} MB: send fewer instances at a time, lower nbest or "
        "max_output_length, or leave out attention_matrix and tokens"
    )
    return RequestError(413, "answer_too_large", message)


def wrong_host(host: str) -> RequestError:
    """421: the Host header names another server."""
    message = f"this endpoint is not {host!r}: ask it by its own name, or serve with --allowed-hosts {host}"
    return RequestError(421, "wrong_host", message, headers=_CLOSE)


def failed(what: str) -> RequestError:
    """500: a fault of ours."""
    return RequestError(500, "internal", f"{what} failed; the endpoint's log says how")


def queue_full(what: str = "the endpoint is at its limit") -> RequestError:
    """503: the endpoint has accepted as much as it will."""
    return RequestError(503, "queue_full", f"{what}: try again after the seconds in Retry-After", headers=_RETRY)


def shutting_down() -> RequestError:
    """503: the endpoint ends."""
    return RequestError(503, "shutting_down", "the endpoint is shutting down: try another or try again", headers=_RETRY)


def no_search_process() -> RequestError:
    """503: no search process runs, and the last attempt to start one failed."""
    message = "the search processes ended and none could be started: try again later"
    return RequestError(503, "no_search_process", message, headers=_RETRY)
