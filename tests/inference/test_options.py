"""Search options: checked once, the same everywhere."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seqwright.artifacts import TrainedModel, save_model
from seqwright.cli import app
from seqwright.cli.translate import translate_command
from seqwright.errors import ClientError
from seqwright.inference.options import SearchOptions, search_options
from seqwright.inference.translator import Translator
from seqwright.serving.codecs import decode
from seqwright.serving.schemas import Configuration
from tests.conftest import vocabulary

Maker = Callable[..., TrainedModel]

NAMES = {field.name for field in dataclasses.fields(SearchOptions)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beam_size", 0),
        ("beam_size", 10_001),
        ("beam_size", 2.5),
        ("beam_size", True),
        ("nbest", 0),
        ("nbest", None),
        ("max_output_length", -1),
        ("max_output_length", 0),
        ("max_output_length", "5"),
    ],
)
def test_a_value_that_is_not_valid_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ClientError, match=f"{name} must be a whole number from 1 to"):
        search_options(None, {name: value})


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ClientError, match="unknown search option beam_sise: did you mean beam_size"):
        search_options(None, {"beam_sise": 5})
    with pytest.raises(ClientError, match="unknown search option colour: options are beam_size, nbest"):
        search_options(None, {"colour": 5})


def test_named_options_replace_those_of_the_object() -> None:
    assert search_options(SearchOptions(beam_size=7, nbest=2), {"nbest": 3}) == SearchOptions(beam_size=7, nbest=3)


@pytest.mark.parametrize(("beam_size", "nbest", "width"), [(None, 1, 5), (None, 9, 9), (3, 1, 3), (3, 4, 4)])
def test_the_beam_is_the_models_unless_given_and_never_narrower_than_nbest(
    beam_size: int | None, nbest: int, width: int
) -> None:
    assert SearchOptions(beam_size=beam_size, nbest=nbest).resolved(5).beam_size == width


def test_the_command_line_offers_every_option() -> None:
    offered = set(inspect.signature(translate_command).parameters)
    assert NAMES - {"attention"} <= offered  # attention comes with --format json


def test_the_endpoint_offers_every_option() -> None:
    assert NAMES - {"attention"} <= set(Configuration.model_fields)
    assert {"attention_matrix", "tokens"} <= set(Configuration.model_fields)


def test_every_option_of_a_request_reaches_the_search() -> None:
    given = {"beam_size": 3, "nbest": 2, "attention_matrix": True, "max_output_length": 7}
    body = json.dumps({"instances": [{"data": "w4 w5", "configuration": given}]}).encode()
    (instance,) = decode(body, "application/json", vocabulary(20), max_length=10)
    assert instance.options == SearchOptions(beam_size=3, nbest=2, attention=True, max_output_length=7)
    assert set(given) - {"attention_matrix"} | {"attention"} == NAMES  # a new option needs a value here


def test_every_option_of_the_command_line_reaches_the_search(small_model: Maker, tmp_path: Path) -> None:
    save_model(tmp_path / "model", small_model(seed=8, weight_init_scale=12.0), {})
    (tmp_path / "in").write_text("w5 w9 w11\n")
    options = {"--beam-size": "4", "--nbest": "3", "--max-output-length": "2"}
    files = {"--model": tmp_path / "model", "--input": tmp_path / "in", "--output": tmp_path / "out"}
    command = ["translate", *(str(part) for pair in (*files.items(), *options.items()) for part in pair)]
    assert CliRunner().invoke(app, [*command, "--precision", "fp32"]).exit_code == 0
    expected = Translator.load(tmp_path / "model", precision="fp32").translate(
        "w5 w9 w11", SearchOptions(beam_size=4, nbest=3, max_output_length=2)
    )
    lines = [each.text for each in (expected, *expected.alternatives)]
    assert (tmp_path / "out").read_text().splitlines() == lines + [""] * (3 - len(lines))
