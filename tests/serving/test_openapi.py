"""The OpenAPI document, and the requests that schemathesis makes from it."""

import os
import subprocess
import sys
from pathlib import Path

from seqwright.inference.translator import Translator
from seqwright.serving.app import create_app
from seqwright.serving.searcher import ThreadSearcher


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


def test_the_document_names_the_formats_and_every_error(translator: Translator) -> None:
    document = create_app([ThreadSearcher(translator)]).openapi()
    for path in ("/invocations", "/endpoints/{name}/invocations"):
        operation = document["paths"][path]["post"]
        formats = {"application/json", "application/jsonlines", "application/x-recordio-protobuf"}
        assert operation["requestBody"]["content"].keys() == operation["responses"]["200"]["content"].keys() == formats
        errors = {"400", "406", "408", "413", "415", "500", "503", "504", "default"}
        assert operation["responses"].keys() == {"200", *errors}
    configuration = document["components"]["schemas"]["Configuration"]
    assert configuration["additionalProperties"] is False
    assert configuration["properties"].keys() >= {"attention_matrix", "beam_size", "nbest", "scores", "tokens"}
