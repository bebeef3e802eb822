"""The fields of the hyperparameters: what is documented of them, and what they say of themselves."""

import csv
import json
import math
from pathlib import Path

import pytest

from seqwright.hyperparameters import Hyperparameters
from tests.hyperparameters.helpers import CHOICES, SCHEMA, accepts

DOCUMENTED = Path(__file__).parents[3] / "shared" / "spec" / "hyperparameters.tsv"


@pytest.fixture(scope="module")
def documented() -> dict[str, dict[str, str]]:
    """The original's documented hyperparameters, by name."""
    if not DOCUMENTED.exists():
        pytest.skip("the list of documented hyperparameters is not beside this checkout")
    with DOCUMENTED.open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file, delimiter="\t")}


def test_names_are_as_documented(documented: dict[str, dict[str, str]]) -> None:
    assert {name for name, schema in SCHEMA.items() if schema["group"] != "extensions"} == set(documented)
    assert len(documented) == 49


def test_defaults_are_as_documented(documented: dict[str, dict[str, str]]) -> None:
    defaults = Hyperparameters()
    for name, row in documented.items():
        text = row["default"].replace("rnn_num_hidden", "none")
        assert getattr(Hyperparameters.parse({name: text}), name) == getattr(defaults, name), name


def test_types_are_as_documented(documented: dict[str, dict[str, str]]) -> None:
    names = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
    for name, row in documented.items():
        schema = SCHEMA[name]
        alternatives = schema.get("anyOf", [schema])
        assert alternatives[0]["type"] == names[row["type"]], name


def test_ranges_are_as_documented(documented: dict[str, dict[str, str]]) -> None:
    inside_and_outside: dict[str, tuple[list[object], list[object]]] = {
        ">= 1": ([1, 7, 10_000], [0, -1]),
        ">= 2": ([2, 3], [1, 0]),
        ">= 0": ([0, 0.5, 30], [-0.001]),
        ">= -1": ([-1, 0, 9], [-2]),
        "> 0": ([1e-9, 3], [0, -1e-9]),
        "0..1": ([0, 0.5, 1], [-1e-9, 1.000001]),
        "0 < f < 1": ([1e-9, 0.999], [0, 1]),
        ">= 1, odd": ([1, 3, 9], [0, -1, 2, 8]),
        ">= 2, even": ([2, 4, 1000], [0, 1, -2, 3, 7]),
        "-1 or >= 1": ([-1, 1, 9], [0, -2]),
        ">= 0, <= max_num_epochs": ([0, 5], [-1]),
        "any": ([-1, 0, 0.25, 1e9], []),
        "true,false": ([True, False, "true", "FALSE"], ["yes", 1, 0, "", None]),
    }
    for name, row in documented.items():
        if row["type"] == "str":
            inside, outside = list[object](row["valid"].split(",")), list[object](["other", "", None, 1])
            assert CHOICES.get(name, [SCHEMA[name].get("const")]) == inside
        else:
            inside, outside = inside_and_outside[row["valid"]]
        if row["type"] == "int":
            inside = [value for value in inside if not isinstance(value, float)]
            outside = [int(value - 0.5) if isinstance(value, float) else value for value in outside]
        maximum = Hyperparameters.traits(name).get("maximum", math.inf)
        inside = [value for value in inside if not isinstance(value, int) or value <= maximum]
        assert [value for value in inside if not accepts(name, value)] == [], name
        assert [value for value in outside if accepts(name, value)] == [], name


def test_tuning_ranges_are_as_documented(documented: dict[str, dict[str, str]]) -> None:
    for name, row in documented.items():
        tunable = SCHEMA[name].get("tunable")
        match row["tunable"].split(" "):
            case [""]:
                assert tunable is None, name
            case ["categorical", ("all" | "both"), *_]:
                assert tunable == {"type": "categorical", "values": CHOICES[name]}
            case ["categorical", values]:
                assert tunable == {"type": "categorical", "values": json.loads(f"[{values}]")}
            case [kind, bounds]:
                low, high = (float(bound) for bound in bounds.split(".."))
                assert tunable == {"type": kind, "min": low, "max": high}
            case _:
                assert name == "weight_init_scale"
                assert tunable == {
                    "depends_on": "weight_init_type",
                    "cases": {
                        "xavier": {"type": "continuous", "min": 2, "max": 3},
                        "uniform": {"type": "continuous", "min": -1, "max": 1},
                    },
                }


def test_every_hyperparameter_has_a_group_and_a_description() -> None:
    groups = "architecture rnn cnn initialization data training optimizer schedule stopping inference extensions"
    for name, schema in SCHEMA.items():
        assert schema["group"] in groups.split(), name
        assert len(schema["description"]) > 15, name


def test_every_number_has_an_upper_bound_far_beyond_its_documented_range() -> None:
    for name, schema in SCHEMA.items():
        alternatives = schema.get("anyOf", [schema])
        numeric = alternatives[0]["type"] in ("integer", "number")
        documented_bound = {"maximum", "exclusiveMaximum"} & alternatives[0].keys()
        if not numeric or (documented_bound and "maximum" not in Hyperparameters.traits(name)):
            continue
        maximum, tunable = Hyperparameters.traits(name)["maximum"], schema.get("tunable", {})
        assert maximum >= 100 * max([schema["default"] or 1, tunable.get("max", 0), *tunable.get("values", [])]), name
        assert accepts(name, maximum) or accepts(name, maximum - 1), name


def test_what_bounds_or_watches_training_may_change_on_resume() -> None:
    expected = {"max_num_batches", "max_num_epochs", "min_num_epochs", "checkpoint_threshold", "bleu_sample_size"}
    assert Hyperparameters.names_that_may_change_on_resume() == {*expected, "beam_size"}


@pytest.mark.parametrize("encoder", ["rnn", "cnn"])
@pytest.mark.parametrize("decoder", ["rnn", "cnn"])
def test_a_model_fixes_the_hyperparameters_of_its_kinds_of_network(encoder: str, decoder: str) -> None:
    fixed = set(Hyperparameters.parse({"encoder_type": encoder, "decoder_type": decoder}).names_that_fix_shapes())
    for kind in ("rnn", "cnn"):
        names = {name for name, schema in SCHEMA.items() if schema["network"] == kind and "dropout" not in name}
        assert (names <= fixed) == (kind in (encoder, decoder))
        assert bool(names & fixed) == (kind in (encoder, decoder))
    assert {"encoder_type", "decoder_type", "num_layers_encoder", "num_embed_target"} <= fixed
    assert ("max_seq_len_source" in fixed, "max_seq_len_target" in fixed) == (encoder == "cnn", decoder == "cnn")
    assert not fixed & {"batch_size", "learning_rate", "embed_dropout_source", "max_num_epochs", "beam_size"}
