"""The inference container's contract, on a temporary root."""

import json
import shutil
from pathlib import Path

import httpx
from typer.testing import CliRunner

from seqwright.cli import app
from seqwright.errors import ClientError
from seqwright.importers.sockeye import import_sockeye
from seqwright.inference.translator import Translator
from tests.serving.conftest import command

GOLDEN = Path(__file__).parents[1] / "golden" / "sockeye" / "rnn_lstm_fixed_1l"


def test_an_artefact_of_the_original_is_served_as_it_is(tmp_path: Path) -> None:
    import_sockeye(GOLDEN, tmp_path / "imported")
    words = list(json.loads((GOLDEN / "vocab.src.0.json").read_text()))[4:9]
    expected = Translator.load(tmp_path / "imported").translate([words])[0].text
    shutil.copytree(GOLDEN, tmp_path / "ml" / "model")
    with command("sagemaker", "serve", "--root", tmp_path / "ml", "--host", "127.0.0.1", "--port", 0) as (url, _):
        body = {"instances": [{"data": " ".join(words)}]}
        assert httpx.post(f"{url}/invocations", json=body, timeout=30).json() == {"predictions": [{"target": expected}]}


def test_serving_an_empty_model_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    result = CliRunner().invoke(app, ["sagemaker", "serve", "--root", str(tmp_path)])
    assert isinstance(result.exception, ClientError)
