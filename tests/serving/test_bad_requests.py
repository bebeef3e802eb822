"""Whatever comes in, the answer is a 4xx in JSON, and the server goes on."""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.serving.records import Record, framed, record

JSON, JSON_LINES, RECORDIO = "application/json", "application/jsonlines", "application/x-recordio-protobuf"


def one(**instance: object) -> bytes:
    """A JSON request whose second instance is the given one."""
    return json.dumps({"instances": [{"data": "w5"}, instance]}).encode()


def many(count: int, **instance: object) -> bytes:
    """A JSON request of so many of the given instance."""
    return json.dumps({"instances": [instance] * count}).encode()


def _float_record() -> bytes:
    message = Record()
    message.features["source"].float32_tensor.values.append(1.5)
    return framed(message.SerializeToString())


CASES: list[tuple[str, str, bytes, int, str, int | None]] = [
    ("no JSON", JSON, b'{"instances": [{"data": "w5"}', 400, "malformed_json", None),
    ("nothing", JSON, b"", 400, "malformed_json", None),
    ("not UTF-8", JSON, b'{"instances": [{"data": "\xff"}]}', 400, "invalid_utf8", None),
    ("half a character", JSON, b'{"instances": [{"data": "\\ud83d"}]}', 400, "malformed_json", None),
    ("deep arrays", JSON, b"[" * 1_000_000, 400, "malformed_json", None),
    ("deep objects", JSON, b'{"instances":' * 100_000, 400, "malformed_json", None),
    ("a huge number", JSON, b'{"instances": ' + b"9" * 10_000 + b"}", 400, "malformed_json", None),
    ("an array", JSON, b"[]", 400, "invalid_request", None),
    ("no instances member", JSON, b"{}", 400, "invalid_request", None),
    ("instances no array", JSON, b'{"instances": {"data": "w5"}}', 400, "invalid_request", None),
    ("no instances", JSON, b'{"instances": []}', 400, "no_instances", None),
    ("instance no object", JSON, b'{"instances": [{"data": "w5"}, "w5"]}', 400, "invalid_request", 1),
    ("no data", JSON, one(), 400, "invalid_request", 1),
    ("data a number", JSON, one(data=5), 400, "invalid_request", 1),
    ("data an array", JSON, one(data=["w5"]), 400, "invalid_request", 1),
    ("data null", JSON, one(data=None), 400, "invalid_request", 1),
    ("data NaN", JSON, b'{"instances": [{"data": NaN}]}', 400, "invalid_request", 0),
    ("configuration a number", JSON, one(data="w5", configuration=5), 400, "invalid_request", 1),
    ("a number in it", JSON, one(data="w5", configuration={"attention_matrix": 1}), 400, "invalid_request", 1),
    ("another word in it", JSON, one(data="w5", configuration={"attention_matrix": "yes"}), 400, "invalid_request", 1),
    ("an unknown setting", JSON, one(data="w5", configuration={"beam": 3}), 400, "invalid_request", 1),
    ("no beam", JSON, one(data="w5", configuration={"beam_size": 0}), 400, "invalid_request", 1),
    ("a vast beam", JSON, one(data="w5", configuration={"beam_size": 65}), 400, "invalid_request", 1),
    ("half a beam", JSON, one(data="w5", configuration={"beam_size": 2.5}), 400, "invalid_request", 1),
    ("a true beam", JSON, one(data="w5", configuration={"beam_size": True}), 400, "invalid_request", 1),
    ("vast nbest", JSON, one(data="w5", configuration={"nbest": 10**30}), 400, "invalid_request", 1),
    ("no output", JSON, one(data="w5", configuration={"max_output_length": 0}), 400, "invalid_request", 1),
    ("ten thousand", JSON, many(10_000, data="w5"), 400, "too_many_instances", None),
    ("too many matrices", JSON, many(1001, data="w5", configuration={"tokens": True}), 400, "too_many_instances", None),
    ("no lines", JSON_LINES, b"", 400, "no_instances", None),
    ("a line of another format", JSON_LINES, b'{"source": "w5"}\n{"data": "w5"}\n', 400, "invalid_request", 1),
    ("blank lines only", JSON_LINES, b"\n \n\r\n", 400, "no_instances", None),
    ("half a line", JSON_LINES, b'{"source": "w5"}\n\n{"source": "w5\n', 400, "malformed_json", 1),
    ("ten thousand lines", JSON_LINES, b'{"source": "w5"}\n' * 10_000, 400, "too_many_instances", None),
    ("no records", RECORDIO, b"", 400, "no_instances", None),
    ("no frame", RECORDIO, b"hello world!", 400, "malformed_recordio", None),
    ("half a header", RECORDIO, record([5])[:6], 400, "malformed_recordio", None),
    ("half a record", RECORDIO, record([5]) + record([5])[:-5], 400, "malformed_recordio", None),
    ("a frame of 4 GB", RECORDIO, b"\x0a\x23\xd7\xce\xff\xff\xff\xff", 400, "malformed_recordio", None),
    ("no record in it", RECORDIO, record([5]) + framed(b"\xff" * 8), 400, "malformed_recordio", 1),
    ("no source", RECORDIO, framed(b""), 400, "invalid_record", 0),
    ("floats", RECORDIO, _float_record(), 400, "invalid_record", 0),
    ("padding inside", RECORDIO, record([5]) + record([5, 0, 6]), 400, "padding_inside", 1),
    ("a huge answer", JSON, many(900, data="w5 w6 w7 w8", configuration={"attention_matrix": True,
                                 "max_output_length": 1000, "nbest": 64}), 413, "answer_too_large", None),
    ("a huge answer of n-best lists", JSON, many(5000, data="w5", configuration={"nbest": 64,
                                 "max_output_length": 1000}), 413, "answer_too_large", None),
    ("an id too high", RECORDIO, record([5]) + record([23, 24]), 400, "id_out_of_range", 1),
    ("a negative id", RECORDIO, record([-1]), 400, "id_out_of_range", 0),
    ("a bad configuration", RECORDIO, record([5], '{"beam_size": "x"}'), 400, "invalid_request", 0),
    ("ten thousand records", RECORDIO, record([5]) * 10_000, 400, "too_many_instances", None),
    ("over 6 MB", JSON, b" " * ((6 << 20) + 1), 413, "body_too_large", None),
    ("plain text", "text/plain", b"w5", 415, "unsupported_content_type", None),
    ("no type", "", b"w5", 415, "unsupported_content_type", None),
    ("another charset", "application/json; charset=latin-1", b"{}", 415, "unsupported_content_type", None),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _unharmed(url: str) -> Iterator[None]:
    yield
    assert httpx.post(f"{url}/invocations", json={"instances": [{"data": "w5"}]}).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code", "instance"),
    [pytest.param(*case[1:], id=case[0]) for case in CASES],
)
def test_bad_input_gets_a_4xx_that_says_what_is_wrong(
    content_type: str, body: bytes, status: int, code: str, instance: int | None, url: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = httpx.post(f"{url}/invocations", content=body, headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["instance"]) == (status, code, instance)
    assert response.headers["content-type"] == JSON
    assert len(error["message"]) > 10


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 415), ("aws-chunked, ZSTD", 415), ("identity", 200)])
def test_compressed_bodies_are_refused_as_such(encoding: str, status: int, url: str) -> None:
    response = httpx.post(
        f"{url}/invocations", json={"instances": [{"data": "w5"}]}, headers={"content-encoding": encoding}
    )
    assert response.status_code == status
    assert ("unsupported_content_encoding" in response.text) == (status == 415)


def test_a_message_quotes_little_of_what_was_sent(url: str) -> None:
    for body in (one(data="w5", configuration={"k" * 100_000: 1}), one(data="w5", configuration={"k" * 5_000: 1})):
        response = httpx.post(f"{url}/invocations", content=body, headers={"content-type": JSON})
        assert response.json()["error"]["instance"] == 1
        assert 1000 < len(response.json()["error"]["message"]) < 1010
    answer = httpx.post(f"{url}/invocations", json={"instances": [{"data": "w5"}]}, headers={"accept": "x" * 50_000})
    assert answer.status_code == 406
    assert len(answer.content) < 1200


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "image/*, text/csv"])
def test_no_format_that_the_client_accepts(accept: str, url: str) -> None:
    response = httpx.post(f"{url}/invocations", json={"instances": [{"data": "w5"}]}, headers={"accept": accept})
    assert (response.status_code, response.json()["error"]["code"]) == (406, "not_acceptable")


def test_no_such_route_or_method(url: str) -> None:
    error = httpx.get(f"{url}/nothing%00").json()["error"]
    assert (error["code"], error["message"]) == ("not_found", "there is no '/nothing\\x00': /docs lists the routes")
    response = httpx.get(f"{url}/invocations")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    error = response.json()["error"]
    assert (error["code"], error["message"]) == ("method_not_allowed", "'/invocations' is not for GET, but for POST")


def _raw(url: str, head: str, body: bytes = b"") -> socket.socket:
    """A connection over which a request, or a part of it, was sent."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = socket.create_connection((parts.hostname, parts.port or 80), timeout=20)
    start = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\n{head}\r\n"
    connection.sendall(start.encode() + body)
    return connection


def test_a_body_said_to_be_too_large_is_refused_before_it_is_sent(url: str) -> None:
    with _raw(url, f"Content-Length: {1 << 40}\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_body_of_unsaid_length_is_refused_as_soon_as_it_is_too_large(url: str) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with _raw(url, "Transfer-Encoding: chunked\r\n", chunk * 97) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_bytes_that_are_not_http_do_no_harm(url: str) -> None:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=20) as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert b"400" in connection.recv(100)


def test_errors_in_json_lines_count_the_lines_of_the_file(url: str) -> None:
    body = b'\n{"source": "w5"}\n\n{"data": "w5"}\n'
    error = httpx.post(f"{url}/invocations", content=body, headers={"content-type": JSON_LINES}).json()["error"]
    assert (error["code"], error["instance"]) == ("invalid_request", 1)
    assert error["message"].startswith("line 4: source: ")


@pytest.mark.parametrize(
    "body",
    [
        b'{"source": "w5"}\n{"source": "w6"}\n',
        b'{"source": "w5"}',
        b'\xef\xbb\xbf{"instances": [{"data": "w5"}]}\n{"instances": [{"data": "w5"}]}\n',
    ],
)
def test_json_lines_sent_as_json_get_the_advice_to_name_the_type(url: str, body: bytes) -> None:
    response = httpx.post(f"{url}/invocations", content=body, headers={"content-type": JSON})
    assert response.status_code == 400
    assert "as Content-Type application/jsonlines" in response.json()["error"]["message"]


def test_json_that_is_merely_damaged_gets_no_such_advice(url: str) -> None:
    for body in (b'{"instances": [{"data": "w5"}', b'{\n"instances": 5\n}', b"[[\n]"):
        response = httpx.post(f"{url}/invocations", content=body, headers={"content-type": JSON})
        assert response.status_code == 400
        assert "jsonlines" not in response.text
