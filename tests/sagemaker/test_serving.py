"""The inference container's contract, on a temporary root."""

import json
import shutil
import tarfile
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from seqwright.cli import app
from seqwright.errors import ClientError
from seqwright.importers.sockeye import import_sockeye
from seqwright.inference.translator import Translator
from seqwright.sagemaker.models import usable_model
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


def test_a_model_folder_is_used_in_place(tmp_path: Path) -> None:
    import_sockeye(GOLDEN, tmp_path / "model")
    with usable_model(tmp_path / "model") as found:
        assert found == tmp_path / "model"


def test_an_archive_is_used_in_place(tmp_path: Path) -> None:
    import_sockeye(GOLDEN, tmp_path / "imported")
    (tmp_path / "model").mkdir()
    with tarfile.open(tmp_path / "model" / "model.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "imported", ".")
    with usable_model(tmp_path / "model") as found:
        assert found == tmp_path / "model" / "model.tar.gz"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.tar.gz": b"", "b.tar.gz": b""}, "holds 2 archives"),
        ({"a.tar.gz": b"no archive"}, "not a readable model.tar.gz"),
        (
            {"other": b""},
            r"no model at .*: it holds 'other'\. There must be a model's files, config\.json, metrics\.json",
        ),
        ({}, r"it is empty\. There must be .*; or those of the original, config, params\.best and the vocab"),
        ({f"{i}": b"" for i in range(9)}, r"it holds '0', '1', '2', '3', '4', \.\.\.\. There"),
    ],
    ids=["two archives", "no archive", "something else", "nothing", "much else"],
)
def test_a_folder_without_exactly_one_model_is_refused(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ClientError, match=message), usable_model(tmp_path):
        pass


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"no model at .*none: it does not exist"), usable_model(tmp_path / "none"):
        pass
