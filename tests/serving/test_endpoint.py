"""What a client of the original does: boto3's runtime client, all three formats, against a real server."""

import json
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import httpx
import pytest

from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import Translation, Translator
from seqwright.serving.searcher import ModelDescription
from tests.serving.conftest import running
from tests.serving.records import parsed, record, targets

JSON, JSON_LINES, RECORDIO = "application/json", "application/jsonlines", "application/x-recordio-protobuf"

DISTINCT = [" ".join(f"w{4 + (i * 7 + j * j) % 22}" for j in range(1 + i % 12)) for i in range(60)]
SOURCES = [DISTINCT[i * i % 60] for i in range(500)]


@pytest.fixture(scope="module")
def expected(translator: Translator) -> list[Translation]:
    """Each source translated alone."""
    alone = {source: translator.translate([source])[0] for source in DISTINCT}
    return [alone[source] for source in SOURCES]


@pytest.fixture(scope="module")
def client(url: str) -> Any:
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=url,
        region_name="eu-west-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",  # noqa: S106
        config=botocore.config.Config(retries={"total_max_attempts": 1}),
    )


def invoke(client: Any, body: bytes, content_type: str, **more: str) -> bytes:
    response = client.invoke_endpoint(EndpointName="demo", Body=body, ContentType=content_type, **more)
    assert response["ContentType"] == more.get("Accept", content_type)
    answer: bytes = response["Body"].read()
    return answer


@pytest.mark.parametrize("count", [1, 500])
def test_json_is_translated(count: int, client: Any, expected: list[Translation]) -> None:
    body = json.dumps({"instances": [{"data": source} for source in SOURCES[:count]]}).encode()
    answer = json.loads(invoke(client, body, JSON))
    assert answer == {"predictions": [{"target": each.text} for each in expected[:count]]}


@pytest.mark.parametrize("count", [1, 500])
def test_json_lines_are_translated(count: int, client: Any, expected: list[Translation]) -> None:
    body = "".join(json.dumps({"source": source}) + "\n" for source in SOURCES[:count]).encode()
    answer = [json.loads(line) for line in invoke(client, body, JSON_LINES).splitlines()]
    assert answer == [{"target": each.text} for each in expected[:count]]


@pytest.mark.parametrize("count", [1, 500])
def test_records_are_translated(count: int, client: Any, translator: Translator, expected: list[Translation]) -> None:
    vocabulary = translator.trained.source_vocabulary
    body = b"".join(record(vocabulary.ids(source.split())) for source in SOURCES[:count])
    assert targets(invoke(client, body, RECORDIO)) == [each.ids for each in expected[:count]]


@pytest.mark.parametrize("asked", [True, "true"])
def test_the_attention_matrix_is_answered_if_asked_for(asked: bool | str, client: Any, translator: Translator) -> None:
    instances = [{"data": "w5 w9 w11", "configuration": {"attention_matrix": asked}}, {"data": "w6"}]
    answer = json.loads(invoke(client, json.dumps({"instances": instances}).encode(), JSON))
    translation = translator.translate(["w5 w9 w11"], attention=True)[0]
    assert translation.attention is not None
    matrix = answer["predictions"][0]["matrix"]
    assert len(matrix) == len(translation.tokens)
    assert matrix == [pytest.approx(row, abs=2e-6) for row in translation.attention.tolist()]
    assert answer["predictions"][1].keys() == {"target"}


@pytest.mark.parametrize("asked", [False, "false"])
def test_no_matrix_where_it_is_turned_off(asked: bool | str, client: Any) -> None:
    instances = [{"data": "w5", "configuration": {"attention_matrix": asked}}]
    answer = json.loads(invoke(client, json.dumps({"instances": instances}).encode(), JSON))
    assert answer["predictions"][0].keys() == {"target"}


def test_the_answer_may_have_another_format_than_the_request(client: Any, expected: list[Translation]) -> None:
    body = json.dumps({"instances": [{"data": source} for source in SOURCES[:20]]}).encode()
    assert targets(invoke(client, body, JSON, Accept=RECORDIO)) == [each.ids for each in expected[:20]]
    lines = invoke(client, body, JSON, Accept=JSON_LINES).splitlines()
    assert [json.loads(line)["target"] for line in lines] == [each.text for each in expected[:20]]


def test_extensions_work_in_every_format(url: str, translator: Translator) -> None:
    wanted = {"beam_size": 7, "nbest": 3, "max_output_length": 4, "scores": True, "tokens": True}
    best = translator.translate(["w5 w9"], beam_size=7, nbest=3, max_output_length=4, attention=True)[0]
    assert best.attention is not None
    expected = {
        "score": pytest.approx(best.score, abs=1e-4),
        "nbest": [
            {"target": each.text, "score": pytest.approx(each.score, abs=1e-4)} for each in (best, *best.alternatives)
        ],
        "tokens": [
            {
                "token": token,
                "source": ["w5", "w9"][row.argmax()],
                "position": row.argmax(),
                "weight": pytest.approx(row.max(), abs=2e-6),
            }
            for token, row in zip(best.tokens, best.attention, strict=True)
        ],
    }
    bodies = {
        JSON: json.dumps({"instances": [{"data": "w5 w9", "configuration": wanted}]}).encode(),
        JSON_LINES: json.dumps({"source": "w5 w9", "configuration": wanted}).encode(),
        RECORDIO: record([5, 9], json.dumps(wanted)),
    }
    for content_type, body in bodies.items():
        content = httpx.post(f"{url}/invocations", content=body, headers={"content-type": content_type}).content
        if content_type == RECORDIO:
            assert targets(content) == [best.ids]
            assert json.loads(parsed(content)[0].metadata) == expected
        else:
            answer = json.loads(content)
            prediction = answer["predictions"][0] if content_type == JSON else answer
            assert prediction == {"target": best.text, **expected}
    assert len(best.tokens) <= 4


def test_more_alternatives_than_the_beam_widen_it(url: str, translator: Translator) -> None:
    body = {"instances": [{"data": "w5", "configuration": {"beam_size": 1, "nbest": 9}}]}
    nbest = httpx.post(f"{url}/invocations", json=body).json()["predictions"][0]["nbest"]
    found = translator.translate(["w5"], beam_size=9, nbest=9)[0]
    assert [each["target"] for each in nbest] == [each.text for each in (found, *found.alternatives)]


def test_a_sequence_over_the_maximum_is_cut_and_the_header_says_so(url: str) -> None:
    long, cut = " ".join(["w5", "w6"] * 10), " ".join(["w5", "w6"] * 6)
    body = {"instances": [{"data": text} for text in (long, "w5", cut, long)]}
    response = httpx.post(f"{url}/invocations", json=body)
    assert response.headers["X-Seqwright-Truncated"] == "0,3"
    predictions = response.json()["predictions"]
    assert predictions[0] == predictions[2] == predictions[3]
    assert "X-Seqwright-Truncated" not in httpx.post(f"{url}/invocations", json={"instances": [{"data": cut}]}).headers
    many = httpx.post(f"{url}/invocations", json={"instances": [{"data": long}] * 500})
    assert many.headers["X-Seqwright-Truncated"].endswith("98,99,...")


def test_unknown_words_are_unk_in_every_script(url: str, translator: Translator) -> None:
    texts = ["unheard-of", "слово", "\u3000語\u3000", "😀", "<unk>"]
    response = httpx.post(f"{url}/invocations", json={"instances": [{"data": text} for text in texts]})
    assert [each["target"] for each in response.json()["predictions"]] == [translator.translate(["<unk>"])[0].text] * 5


@pytest.mark.parametrize("text", ["", " \t\n\u3000"])
def test_an_empty_text_has_an_empty_translation(url: str, text: str, translator: Translator) -> None:
    wanted = {"attention_matrix": True, "tokens": True, "scores": True, "nbest": 2}
    empty = {"data": text, "configuration": wanted}
    predictions = httpx.post(f"{url}/invocations", json={"instances": [{"data": "w5"}, empty]}).json()["predictions"]
    assert predictions[0]["target"] == translator.translate("w5").text
    best = {"target": "", "score": 0.0}
    assert predictions[1] == {**best, "matrix": [], "tokens": [], "nbest": [best]}
    lines = json.dumps({"source": text}).encode()
    assert httpx.post(f"{url}/invocations", content=lines, headers={"Content-Type": JSON_LINES}).content == (
        b'{"target": ""}\n'
    )
    for ids in ([], [0, 0]):
        response = httpx.post(f"{url}/invocations", content=record(ids), headers={"Content-Type": RECORDIO})
        assert targets(response.content) == [[]]


def test_unknown_words_are_counted_in_a_header_and_in_the_metrics(translator: Translator) -> None:
    with running(translator) as url:
        texts = ["w5 w6", "hello w5 world", "", "hello"]
        body = {"instances": [{"data": text} for text in texts]}
        assert httpx.post(f"{url}/invocations", json=body).headers["X-Seqwright-Unknown"] == "1=2,3=1"
        known = httpx.post(f"{url}/invocations", json={"instances": [{"data": "w5"}]})
        assert "X-Seqwright-Unknown" not in known.headers
        many = httpx.post(f"{url}/invocations", json={"instances": [{"data": "hello"}] * 500})
        assert many.headers["X-Seqwright-Unknown"].endswith("98=1,99=1,...")
        assert "seqwright_unknown_tokens_total 503.0" in httpx.get(f"{url}/metrics").text


def test_the_root_leads_to_the_page(url: str) -> None:
    response = httpx.get(url)
    assert (response.status_code, response.headers["location"]) == (307, "docs")
    assert httpx.get(url, follow_redirects=True).headers["content-type"].startswith("text/html")


def test_no_translation_is_longer_than_the_size_of_answers_assumes(translator: Translator) -> None:
    model = ModelDescription.of(translator.trained)
    for source, translation in zip(DISTINCT, translator.translate(DISTINCT, beam_size=1), strict=True):
        assert len(translation.ids) <= model.max_output_length(len(source.split()), SearchOptions())
    assert model.max_output_length(3, SearchOptions(max_output_length=7)) == 7


def test_boto3_says_what_was_wrong(client: Any) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        client.invoke_endpoint(EndpointName="demo", Body=b'{"instances": 5}', ContentType=JSON)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert caught.value.response["Error"] == {
        "Code": "ValidationError",
        "Message": "instances: input should be a valid array",
    }
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        client.invoke_endpoint(EndpointName="demo", Body=b" " * (7 << 20), ContentType=JSON)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413


def test_platform_headers_are_ignored(url: str) -> None:
    headers = {"X-Amzn-SageMaker-Custom-Attributes": "a=b", "X-Amzn-SageMaker-Target-Model": "other"}
    assert httpx.post(f"{url}/invocations", json={"instances": [{"data": "w5"}]}, headers=headers).status_code == 200


def test_the_other_routes_answer(url: str) -> None:
    ping = httpx.get(f"{url}/ping")
    assert (ping.status_code, ping.json()) == (200, {"status": "ready"})
    parameters = httpx.get(f"{url}/execution-parameters").json()
    assert parameters == {"MaxConcurrentTransforms": 32, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 6}
    httpx.post(f"{url}/invocations", json={"instances": [{"data": "w5 w6"}]})
    httpx.post(f"{url}/invocations", content=b"?")
    figures = httpx.get(f"{url}/metrics").text
    assert 'seqwright_requests_total{status="200"}' in figures
    assert 'seqwright_requests_total{status="415"}' in figures
    assert "seqwright_queue_instances 0.0" in figures
    assert 'seqwright_tokens_total{side="source"}' in figures
    assert httpx.get(f"{url}/docs").status_code == 200
    assert "/endpoints/{name}/invocations" in httpx.get(f"{url}/openapi.json").json()["paths"]
