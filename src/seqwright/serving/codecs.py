"""Decodes requests and encodes answers, in the three formats of the original with extensions."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from pydantic import BaseModel, ValidationError

from seqwright.data.frames import HEADER, MAGIC, split_payloads
from seqwright.data.padding import cut_padding
from seqwright.data.record import Record, new_record, parse_record
from seqwright.data.vocabulary import UNK, Vocabulary
from seqwright.errors import ClientError
from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import Translation
from seqwright.serving.errors import RequestError, answer_too_large, bad_request
from seqwright.serving.limits import MAX_ANSWER_BYTES
from seqwright.serving.negotiation import JSON, JSON_LINES, RECORDIO
from seqwright.serving.schemas import MAX_INSTANCES, MAX_WITH_ATTENTION, Configuration, JsonLine, JsonRequest

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Instance:
    """One sequence to translate and what is wanted for it."""

    ids: list[int]  # of the source, at most the model's maximum; the translation of no ids is empty
    words: list[str]  # the source as the client wrote it; for a record, the tokens of its ids
    configuration: Configuration
    truncated: bool  # whether the source was cut to the model's maximum

    @cached_property
    def unknown(self) -> int:
        """Tokens that the model does not know."""
        return self.ids.count(UNK)

    @cached_property
    def options(self) -> SearchOptions:
        """How to search for its translation."""
        wanted = self.configuration
        return SearchOptions(
            beam_size=wanted.beam_size,
            nbest=wanted.nbest or 1,
            attention=is_on(wanted.attention_matrix) or is_on(wanted.tokens),
            max_output_length=wanted.max_output_length,
        )


def is_on(switch: bool | str) -> bool:
    """Whether a setting is true; it may also be the word."""
    return switch in (True, "true")


def decode(body: bytes, content_type: str, vocabulary: Vocabulary, max_length: int) -> list[Instance]:
    """Decode a request, of at least one and at most `MAX_INSTANCES` instances.

    Args:
        body: the request's bytes.
        content_type: one of `FORMATS`.
        vocabulary: the model's source tokens.
        max_length: tokens kept of a sequence, the model's `max_seq_len_source`.

    Raises:
        RequestError: 400 if the body is damaged, not valid, or holds too many instances. It names the first instance at
            fault.
    """
    instances = _DECODERS[content_type](body, _Source(vocabulary, max_length))
    if sum(instance.options.attention for instance in instances) > MAX_WITH_ATTENTION:
        raise _too_many(MAX_WITH_ATTENTION, " that ask for attention")
    return instances


@dataclass(frozen=True)
class _Source:
    """Makes an instance of what a client sent as one sequence; the attributes are those of `decode`."""

    vocabulary: Vocabulary
    max_length: int

    def of_text(self, text: str, configuration: Configuration | None) -> Instance:
        words = text.split()
        kept = words[: self.max_length]
        return Instance(self.vocabulary.ids(kept), kept, configuration or _PLAIN, len(words) > len(kept))

    def of_ids(self, ids: list[int], configuration: Configuration, number: int) -> Instance:
        try:
            ids = cut_padding(ids)
        except ClientError as error:
            raise bad_request("padding_inside", str(error), number) from error
        if not ids:
            return Instance([], [], configuration, truncated=False)
        size = len(self.vocabulary)
        if min(ids) < 0 or max(ids) >= size:
            wrong = next(index for index in ids if not 0 <= index < size)
            message = f"{wrong} is not an id of the source vocabulary, 0 to {size - 1}"
            raise bad_request("id_out_of_range", message, number)
        kept = ids[: self.max_length]
        return Instance(kept, self.vocabulary.words(kept), configuration, len(ids) > len(kept))


_PLAIN = Configuration()


def _decode_json(body: bytes, source: _Source) -> list[Instance]:
    text = _text(body)
    try:
        request = _validate(JsonRequest, text, None)
    except RequestError as error:
        if _is_json_lines(text):
            advice = f'send lines of {{"source": "..."}} as Content-Type {JSON_LINES}, or one {{"instances": [...]}}'
            raise bad_request(error.code, f"the body has one object a line: {advice}") from error
        raise
    _check_count(len(request.instances))
    return [source.of_text(instance.data, instance.configuration) for instance in request.instances]


def _decode_lines(body: bytes, source: _Source) -> list[Instance]:
    lines = [(number, line) for number, line in enumerate(_text(body).split("\n"), 1) if line.strip()]
    _check_count(len(lines))
    instances = []
    for index, (number, text) in enumerate(lines):
        try:
            line = _validate(JsonLine, text, index)
        except RequestError as error:
            raise bad_request(error.code, f"line {number}: {error.message}", index) from error
        instances.append(source.of_text(line.source, line.configuration))
    return instances


def _is_json_lines(text: str) -> bool:
    """Whether a text that is no request in JSON looks like JSON Lines."""
    first, _, others = text.strip().partition("\n")
    try:
        line = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(line, dict) and (bool(others) or "source" in line)


def _decode_records(body: bytes, source: _Source) -> list[Instance]:
    try:
        payloads = split_payloads(body, "the request")
    except ClientError as error:
        raise bad_request("malformed_recordio", str(error)) from error
    _check_count(len(payloads))
    instances = []
    for number, payload in enumerate(payloads):
        try:
            record = parse_record(payload)
        except DecodeError as error:
            raise bad_request("malformed_recordio", f"not a Record message: {error}", number) from error
        configuration = _validate(Configuration, record.configuration, number) if record.configuration else _PLAIN
        instances.append(source.of_ids(_ids_of(record, number), configuration, number))
    return instances


def _ids_of(record: Record, number: int) -> list[int]:
    if "source" not in record.features:
        has = ", ".join(sorted(map(repr, record.features))) or "none"
        raise bad_request("invalid_record", f"no feature 'source'; the record's features: {has}", number)
    value = record.features["source"]
    kind = value.WhichOneof("value")
    if kind not in ("int32_tensor", None):
        raise bad_request("invalid_record", f"'source' is a {kind}: token ids are an int32_tensor", number)
    return list(value.int32_tensor.values)


def _text(body: bytes) -> str:
    """The text of a body, without a byte order mark at its start."""
    try:
        return body.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise bad_request("invalid_utf8", f"the body is not UTF-8: {error.reason} at byte {error.start}") from error


def _check_count(count: int) -> None:
    if not count:
        raise bad_request("no_instances", "the request has no instances")
    if count > MAX_INSTANCES:
        raise _too_many(MAX_INSTANCES)


def _too_many(limit: int, kind: str = "") -> RequestError:
    return bad_request("too_many_instances", f"more than {limit} instances{kind}: send fewer at a time")


def _validate(model: type[ModelT], text: str, number: int | None) -> ModelT:
    """Parse JSON into a pydantic model; `number` is that of the instance, None for a document with all instances."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _explain(error, number) from error


def _explain(error: ValidationError, number: int | None) -> RequestError:
    """The first error that pydantic found, in our own words."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return bad_request("malformed_json", first["msg"], number)
    place = [part for part in first["loc"] if part not in _BRANCHES]
    if len(place) > 1 and place[0] == "instances" and isinstance(place[1], int):
        number, place = place[1], place[2:]
    where = ".".join(map(str, place)) or ("the instance" if number is not None else "the body")
    message = f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    if first["type"] == "extra_forbidden":
        message = f"{where} is not a setting; those are {', '.join(Configuration.model_fields)}"
    elif place and place[-1] in _SWITCHES:
        message = f"{where} must be true or false"
    return bad_request("invalid_request", message, number)


_BRANCHES = ("bool", "literal['true','false']")  # pydantic adds them to the location of an error
_SWITCHES = ("attention_matrix", "scores", "tokens")

_DECODERS: dict[str, Callable[[bytes, _Source], list[Instance]]] = {
    JSON: _decode_json,
    JSON_LINES: _decode_lines,
    RECORDIO: _decode_records,
}


def encode(instances: Sequence[Instance], translations: Sequence[Translation], accept: str) -> bytes:
    """Encode the answer to a request.

    Args:
        instances: the instances of the request.
        translations: one for each, in order, with attention if the instance wants it.
        accept: one of `FORMATS`.

    Raises:
        RequestError: 413 if the answer is larger than `MAX_ANSWER_BYTES`.
    """
    pairs = list(zip(instances, translations, strict=True))
    if accept == RECORDIO:
        return b"".join(_bounded(_record(instance, translation) for instance, translation in pairs))
    predictions = _bounded(
        _json({"target": translation.text, **_extras(instance, translation)}) for instance, translation in pairs
    )
    if accept == JSON:
        return b'{"predictions": [' + b", ".join(predictions) + b"]}"
    return b"".join(prediction + b"\n" for prediction in predictions)


def _bounded(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts of an answer as long as they are not too large together."""
    size = 0
    for part in parts:
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise answer_too_large()
        yield part


def _record(instance: Instance, translation: Translation) -> bytes:
    """A framed record: the target's ids, and whatever else was asked for as JSON in its metadata."""
    record = new_record()
    record.features["target"].int32_tensor.values.extend(translation.ids)
    if extras := _extras(instance, translation):
        record.metadata = _json(extras).decode()
    payload = record.SerializeToString(deterministic=True)
    return HEADER.pack(MAGIC, len(payload)) + payload + bytes(-len(payload) % 4)


def _extras(instance: Instance, translation: Translation) -> dict[str, Any]:
    """What the configuration asks for besides the target."""
    wanted, extras = instance.configuration, dict[str, Any]()
    if translation.attention is not None:
        weights = translation.rounded_attention()
        if is_on(wanted.attention_matrix):
            extras["matrix"] = weights.tolist()
        if is_on(wanted.tokens):
            rows = zip(translation.tokens, weights, strict=True)
            extras["tokens"] = [_alignment(token, row.tolist(), instance.words) for token, row in rows]
    if is_on(wanted.scores):
        extras["score"] = translation.score
    if wanted.nbest is not None:
        every = (translation, *translation.alternatives)
        extras["nbest"] = [{"target": each.text, "score": each.score} for each in every]
    return extras


def _alignment(token: str, weights: list[float], words: Sequence[str]) -> dict[str, Any]:
    """A target token and the source token with the greatest weight."""
    position = max(range(len(weights)), key=weights.__getitem__)
    return {"token": token, "source": words[position], "position": position, "weight": weights[position]}


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _json(content: object) -> bytes:
    return _ENCODER.encode(content).encode()
