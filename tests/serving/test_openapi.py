"""The OpenAPI document, and the requests that schemathesis makes from it."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import httpx

from seqwright.serving.openapi import DOCUMENT


def test_schemathesis_finds_nothing(url: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json",
            "--max-examples", "20", "--seed", "1", "--no-color",
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.serving.schemathesis_hooks", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-1000:]
    assert "Tested: 5" in result.stdout


def test_the_document_names_the_formats_and_every_error() -> None:
    document = DOCUMENT
    for path in ("/invocations", "/endpoints/{name}/invocations"):
        operation = document["paths"][path]["post"]
        formats = {"application/json", "application/jsonlines", "application/x-recordio-protobuf"}
        assert operation["requestBody"]["content"].keys() == operation["responses"]["200"]["content"].keys() == formats
        errors = {"400", "406", "408", "413", "415", "421", "431", "500", "503", "504", "default"}
        assert operation["responses"].keys() == {"200", *errors}
    configuration = document["components"]["schemas"]["Configuration"]
    assert configuration["additionalProperties"] is False
    assert configuration["properties"].keys() >= {"attention_matrix", "beam_size", "nbest", "scores", "tokens"}


class _Reader(HTMLParser):
    """What a page says, and what it would have a browser fetch or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        for name, value in attributes:
            assert name in ("lang", "charset", "href", "id")
            if name == "href":
                self.links.append(str(value))
            if name == "id":
                self.anchors.add(f"#{value}")

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_the_page_says_all_of_the_document_and_fetches_nothing(url: str) -> None:
    response = httpx.get(f"{url}/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = _Reader(response.text)
    document = httpx.get(f"{url}/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in page.text
            for status, answer in operation["responses"].items():
                assert f" {status} {answer['description']}" in page.text
    for name, schema in document["components"]["schemas"].items():
        assert f" {name} {schema['description']}" in page.text
        for key, value in schema["properties"].items():
            assert f" {key} " in page.text
            assert value.get("description", "") in page.text
    assert set(page.links) <= page.anchors | {"openapi.json"}
    assert httpx.get(f"{url}/redoc").status_code == 404


def test_a_path_with_a_slash_too_many_is_no_route(url: str) -> None:
    for path in ("/ping/", "/invocations/"):
        response = httpx.get(f"{url}{path}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
