"""The codecs and the choice of formats: any bytes and headers give instances, or a `RequestError`."""

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqwright.inference.translator import Translation
from seqwright.serving.codecs import decode, encode
from seqwright.serving.errors import RequestError
from seqwright.serving.negotiation import FORMATS, JSON, JSON_LINES, RECORDIO, request_format, response_format
from tests.conftest import vocabulary
from tests.serving.records import Record, framed, record, targets

VOCABULARY = vocabulary(20)
MAX_LENGTH = 5

ids = st.lists(st.integers(1, len(VOCABULARY) - 1), min_size=1, max_size=8)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
configurations = st.fixed_dictionaries(
    {},
    optional={
        "attention_matrix": st.sampled_from([True, False, "true", "false"]) | anything,
        "beam_size": st.integers(-1, 70) | anything,
        "nbest": st.integers(-1, 70) | anything,
        "max_output_length": st.integers(-1, 2000) | anything,
        "scores": st.booleans() | anything,
        "tokens": st.booleans() | anything,
        "other": anything,
    },
)
instances = st.fixed_dictionaries(
    {}, optional={"data": st.text() | anything, "source": st.text() | anything, "configuration": configurations}
)
documents = st.fixed_dictionaries({}, optional={"instances": st.lists(instances | anything, max_size=4) | anything})


def holds(body: bytes, content_type: str) -> None:
    """Decode, and check what comes out, be it instances or an error."""
    try:
        found = decode(body, content_type, VOCABULARY, MAX_LENGTH)
    except RequestError as error:
        caught = error
        found = []
    assert found or (caught.status == 400 and caught.code and caught.message)
    for instance in found:
        assert len(instance.ids) == len(instance.words) <= MAX_LENGTH
        assert all(0 <= index < len(VOCABULARY) for index in instance.ids)
    blank = [Translation([], [], 0.0, np.zeros((0, len(each.ids)), dtype=np.float32)) for each in found]
    for accept in FORMATS:
        encode(found, blank, accept)


@given(st.binary() | st.text().map(str.encode), st.sampled_from(FORMATS))
@settings(max_examples=300, deadline=None)
def test_any_bytes(body: bytes, content_type: str) -> None:
    holds(body, content_type)


@given(anything | documents)
@settings(max_examples=300, deadline=None)
def test_any_json(document: object) -> None:
    holds(json.dumps(document).encode(), JSON)


@given(st.lists(instances | anything, max_size=4), st.sampled_from(["\n", "\r\n", "\n\n", "\u2028"]))
@settings(max_examples=200, deadline=None)
def test_any_lines(lines: list[object], separator: str) -> None:
    holds(separator.join(json.dumps(line) for line in lines).encode(), JSON_LINES)


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)), st.text(), st.binary(max_size=20), st.data())
@settings(max_examples=200, deadline=None)
def test_any_records(sequences: list[list[int]], configuration: str, noise: bytes, data: st.DataObject) -> None:
    body = b"".join(record(each, configuration) for each in sequences) + framed(noise)
    holds(body, RECORDIO)
    at = data.draw(st.integers(0, len(body) - 1))
    holds(body[:at] + noise[:1] + body[at + 1 :], RECORDIO)
    holds(body[:at], RECORDIO)


@given(st.lists(ids, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_the_three_formats_say_the_same(sequences: list[list[int]]) -> None:
    texts = [" ".join(VOCABULARY.words(each)) for each in sequences]
    found = [
        decode(json.dumps({"instances": [{"data": text} for text in texts]}).encode(), JSON, VOCABULARY, MAX_LENGTH),
        decode("\n".join(json.dumps({"source": text}) for text in texts).encode(), JSON_LINES, VOCABULARY, MAX_LENGTH),
        decode(b"".join(map(record, sequences)), RECORDIO, VOCABULARY, MAX_LENGTH),
    ]
    assert found[0] == found[1] == found[2]
    assert [each.ids for each in found[0]] == [each[:MAX_LENGTH] for each in sequences]
    assert [each.truncated for each in found[0]] == [len(each) > MAX_LENGTH for each in sequences]
    translations = [Translation(VOCABULARY.words(each), each, 0.0) for each in sequences]
    assert targets(encode(found[0], translations, RECORDIO)) == sequences
    assert [
        line["target"] for line in map(json.loads, encode(found[0], translations, JSON_LINES).splitlines())
    ] == texts
    assert [each["target"] for each in json.loads(encode(found[0], translations, JSON))["predictions"]] == texts


def test_a_record_of_any_layout_is_read() -> None:
    message = Record()
    message.features["target"].int32_tensor.values.extend([9])
    message.features["source"].int32_tensor.values.extend([5, 6])
    unpacked = b"\x0a\x10\x0a\x06source\x12\x06\x3a\x04\x08\x05\x08\x06"
    found = decode(framed(message.SerializeToString()) + framed(unpacked), RECORDIO, VOCABULARY, MAX_LENGTH)
    assert [each.ids for each in found] == [[5, 6], [5, 6]]


def test_windows_line_ends_and_blank_lines_are_skipped() -> None:
    body = b'\n{"source": "w5"}\r\n \n\r\n{"source": "w6"}\r\n\r\n'
    found = decode(body, JSON_LINES, VOCABULARY, MAX_LENGTH)
    assert [each.ids for each in found] == [[5], [6]]


def test_padding_after_a_record_is_cut_off() -> None:
    body = b"".join(map(record, ([5, 6, 0, 0], [0, 0], [5], [5, 6, 7, 8, 9, 0])))
    found = decode(body, RECORDIO, VOCABULARY, MAX_LENGTH)
    assert [each.ids for each in found] == [[5, 6], [], [5], [5, 6, 7, 8, 9]]
    assert not any(each.truncated for each in found)


@pytest.mark.parametrize(
    ("content_type", "body"), [(JSON, '{"instances": [{"data": "w5"}]}'), (JSON_LINES, '{"source": "w5"}\n')]
)
def test_a_byte_order_mark_is_passed_over(content_type: str, body: str) -> None:
    marked = body.encode("utf-8-sig")
    assert decode(marked, content_type, VOCABULARY, MAX_LENGTH) == decode(
        body.encode(), content_type, VOCABULARY, MAX_LENGTH
    )
    with pytest.raises(RequestError, match="Invalid JSON"):
        decode(b"\xef\xbb\xbf" + marked, content_type, VOCABULARY, MAX_LENGTH)


def test_unknown_members_beside_the_known_ones_are_passed_over() -> None:
    body = b'{"id": 7, "instances": [{"data": "w5", "note": [1e999], "data": "w6"}]}'
    assert decode(body, JSON, VOCABULARY, MAX_LENGTH)[0].ids == [6]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON_LINES),
        ("", JSON_LINES),
        ("*/*", JSON_LINES),
        ("application/*", JSON_LINES),
        ("text/html, */*;q=0.1", JSON_LINES),
        ("application/json, application/jsonlines", JSON_LINES),
        (JSON, JSON),
        ("Application/JSON; charset=utf-8", JSON),
        ("application/json;q=0.2, application/x-recordio-protobuf;q=0.3", RECORDIO),
        ("*/*;q=0.5, application/x-recordio-protobuf", RECORDIO),
        ("application/jsonlines;q=0, */*", JSON),
        ("application/jsonlines;q=much", JSON_LINES),
    ],
)
def test_the_accept_header_chooses(accept: str | None, expected: str) -> None:
    assert response_format(accept, JSON_LINES) == expected


@pytest.mark.parametrize(
    "content_type", [JSON, "APPLICATION/JSON", "application/json; charset=UTF-8", 'application/json;charset="utf-8";x']
)
def test_the_content_type_may_have_parameters(content_type: str) -> None:
    assert request_format(content_type) == JSON


@given(st.text(), st.sampled_from(FORMATS))
@settings(max_examples=300)
def test_any_header(header: str, sent: str) -> None:
    with contextlib.suppress(RequestError):
        assert request_format(header) in FORMATS
    with contextlib.suppress(RequestError):
        assert response_format(header, sent) in FORMATS
