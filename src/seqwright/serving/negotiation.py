"""The formats of a request and of its answer, by the headers `Content-Type` and `Accept`."""

import re
from functools import lru_cache

from seqwright.serving.errors import RequestError

JSON = "application/json"
JSON_LINES = "application/jsonlines"
RECORDIO = "application/x-recordio-protobuf"
FORMATS = (JSON, JSON_LINES, RECORDIO)

_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")
_COMPRESSIONS = frozenset({"br", "compress", "deflate", "dcb", "dcz", "gzip", "x-compress", "x-gzip", "zstd"})
_OFFERS = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def check_encoding(content_encoding: str | None) -> None:
    """Check that a Content-Encoding header names no compression; raises `RequestError`, 415, if it does."""
    if content_encoding and (found := _COMPRESSIONS & {part.strip().lower() for part in content_encoding.split(",")}):
        raise RequestError(
            415, "unsupported_content_encoding", f"cannot read {', '.join(sorted(found))}: send the body as it is"
        )


@lru_cache(maxsize=64)
def request_format(content_type: str | None) -> str:
    """The format that a Content-Type header names; raises `RequestError`, 415, for any but `FORMATS` in UTF-8."""
    name, parameters = _parse(content_type or "")
    if name not in FORMATS:
        given = f"{content_type!r}" if content_type else "a request without Content-Type"
        raise RequestError(415, "unsupported_content_type", f"cannot read {given}: send {_OFFERS}")
    charset = parameters.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise RequestError(415, "unsupported_content_type", f"cannot read the charset {charset!r}: send UTF-8")
    return name


@lru_cache(maxsize=64)
def response_format(accept: str | None, request: str) -> str:
    """The format that an Accept header prefers, that of the request first; raises `RequestError`, 406, for none."""
    ranges = [_parse(part) for part in accept.split(",") if part.strip()] if accept else []
    if not ranges:
        return request
    offers = [request, *(offer for offer in FORMATS if offer != request)]
    qualities = {offer: _quality(offer, ranges) for offer in offers}
    best = max(offers, key=qualities.__getitem__)
    if qualities[best] == 0:
        raise RequestError(406, "not_acceptable", f"cannot answer as {accept!r}: accept {_OFFERS}")
    return best


def _parse(header: str) -> tuple[str, dict[str, str]]:
    """A media type or range in lower case, and its parameters."""
    name, *parameters = header.split(";")
    pairs = (parameter.partition("=") for parameter in parameters)
    return name.strip().lower(), {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}


def _quality(offer: str, ranges: list[tuple[str, dict[str, str]]]) -> float:
    """The quality that the most specific of the ranges gives `offer`, 0 if none includes it."""
    found = dict.fromkeys((offer, offer.split("/")[0] + "/*", "*/*"), -1.0)
    for name, parameters in ranges:
        if name in found:
            quality = parameters.get("q", "1")
            found[name] = max(found[name], float(quality) if _QUALITY.fullmatch(quality) else 1.0)
    return next((quality for quality in found.values() if quality >= 0), 0.0)
