"""The hyperparameters: what is documented, what users type, and what they are told when it is wrong."""

import csv
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters, documentation_page, parse_assignments

ROOT = Path(__file__).parent.parent
DOCUMENTED = ROOT.parent / "shared" / "spec" / "hyperparameters.tsv"
SCHEMA: dict[str, dict[str, Any]] = Hyperparameters.model_json_schema()["properties"]
CHOICES = {name: schema["enum"] for name, schema in SCHEMA.items() if "enum" in schema}


def refusal(**values: object) -> str:
    """The message that these values are refused with."""
    with pytest.raises(ClientError) as caught:
        Hyperparameters.parse(values)
    return str(caught.value)


COMPANY: dict[str, dict[str, object]] = {
    "momentum": {"optimizer_type": "sgd"},
    "lr_cooldown_num_batches": {"max_num_batches": 10**6},
}
"""What a hyperparameter needs beside it."""


def accepts(name: str, value: object) -> bool:
    """Whether a value is in range on its own account, given what it needs beside it."""
    try:
        Hyperparameters.parse({**COMPANY.get(name, {}), name: value})
    except ClientError:
        return False
    return True


@pytest.fixture(scope="module")
def documented() -> dict[str, dict[str, str]]:
    """The original's documented hyperparameters, by name."""
    if not DOCUMENTED.exists():
        pytest.skip("the list of documented hyperparameters is not beside this checkout")
    with DOCUMENTED.open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file, delimiter="\t")}


def test_there_are_the_documented_names(documented: dict[str, dict[str, str]]) -> None:
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


def test_a_container_passes_every_value_as_a_string() -> None:
    parsed = Hyperparameters.parse(
        {
            "batch_size": "128",
            "beam_size": " 4 ",
            "max_num_epochs": "10",
            "bucket_width": "8.0",
            "learning_rate": "1e-3",
            "clip_gradient": "-1",
            "bucketing_enabled": "False",
            "rnn_residual_connections": "TRUE",
            "optimizer_type": "sgd",
            "momentum": "0.9",
            "rnn_attention_num_hidden": "None",
        }
    )
    expected = Hyperparameters(
        batch_size=128,
        beam_size=4,
        max_num_epochs=10,
        bucket_width=8,
        learning_rate=0.001,
        clip_gradient=-1.0,
        bucketing_enabled=False,
        rnn_residual_connections=True,
        optimizer_type="sgd",
        momentum=0.9,
    )
    assert parsed == expected
    assert type(parsed.bucket_width) is int
    assert type(parsed.clip_gradient) is float


@pytest.mark.parametrize("nothing", [None, "", "None", "none", "  "])
@pytest.mark.parametrize("name", ["momentum", "max_num_epochs", "rnn_attention_num_hidden"])
def test_nothing_is_a_value_where_documented(name: str, nothing: object) -> None:
    assert getattr(Hyperparameters.parse({name: nothing}), name) is None


@pytest.mark.parametrize("value", ["2.5", 2.5, "sixty", "", None, "none", True, "nan", "1e400", [64], "9" * 5000])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    assert "batch_size: " in refusal(batch_size=value)
    assert refusal(batch_size=value).endswith("is not valid; valid values (int): >= 1")


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", float("nan"), float("inf"), "1e400", 10**400, False])
@pytest.mark.parametrize("name", ["learning_rate", "clip_gradient", "weight_decay"])
def test_what_is_no_finite_number_is_refused(name: str, value: object) -> None:
    assert refusal(**{name: value}).startswith(f"hyperparameter {name}: ")


def test_a_value_out_of_range_is_told_with_the_range() -> None:
    assert refusal(embed_dropout_source="1.5") == (
        "hyperparameter embed_dropout_source: '1.5' is not valid; valid values (float): >= 0 and <= 1"
    )
    assert "valid values (int): >= 1, or none" in refusal(max_num_epochs=0)
    assert "valid values (int): >= -1 and not zero" in refusal(max_num_batches="0")
    assert "valid values (int): >= 2 and even" in refusal(rnn_num_hidden=511)
    assert "valid values (int): >= 1 and odd" in refusal(cnn_kernel_width_encoder=4)


def test_a_wrong_choice_is_told_with_the_choices() -> None:
    assert "'Adam' is not valid; valid values (str): adam, sgd, rmsprop" in refusal(optimizer_type="Adam")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("batch_sze", "batch_size"),
        ("num-layers-encoder", "num_layers_encoder"),
        ("LearningRate", "learning_rate"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, near: str) -> None:
    assert refusal(**{name: "1"}) == f"hyperparameter {name}: unknown; did you mean {near}?"


def test_a_name_near_to_none_is_told_where_the_names_are() -> None:
    assert refusal(zzz=1) == "hyperparameter zzz: unknown; docs/hyperparameters.md lists the names"


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_momentum_is_for_sgd_only(optimizer: str) -> None:
    message = refusal(momentum=0.0, optimizer_type=optimizer)
    assert message == (f"hyperparameter momentum: {optimizer} takes none; remove momentum or set optimizer_type=sgd")


def test_the_least_number_of_epochs_is_within_the_most() -> None:
    assert Hyperparameters.parse({"min_num_epochs": 5, "max_num_epochs": 5}).min_num_epochs == 5
    assert Hyperparameters.parse({"min_num_epochs": 5}).max_num_epochs is None
    message = refusal(min_num_epochs=6, max_num_epochs=5)
    assert "min_num_epochs: 6 is more than max_num_epochs; lower it to at most 5" in message


def test_a_cooldown_needs_an_end() -> None:
    assert Hyperparameters.parse({"lr_cooldown_num_batches": 5, "max_num_batches": 5}).lr_cooldown_num_batches == 5
    for end in (-1, 4):
        message = refusal(lr_cooldown_num_batches=5, max_num_batches=end)
        assert "lr_cooldown_num_batches: 5 is more than max_num_batches; set max_num_batches" in message


def test_one_error_lists_every_problem() -> None:
    lines = refusal(batch_size=0, beem_size=3, momentum=0.9, min_num_epochs=9, max_num_epochs=2).splitlines()
    names = ["batch_size", "beem_size", "momentum", "min_num_epochs"]
    assert [line.split(":")[0] for line in lines] == [f"hyperparameter {name}" for name in names]


def test_refused_values_are_not_blamed_twice() -> None:
    """Were the bad optimizer read as the default, momentum would look wrong as well."""
    assert refusal(optimizer_type="SGD", momentum=0.9).count("\n") == 0
    assert refusal(min_num_epochs=3, max_num_epochs=0).count("\n") == 0


def test_it_is_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Hyperparameters().batch_size = 3  # type: ignore[misc]


def test_attention_is_as_wide_as_the_recurrent_layers_unless_told() -> None:
    assert Hyperparameters(rnn_num_hidden=64).attention_num_hidden == 64
    assert Hyperparameters(rnn_num_hidden=64, rnn_attention_num_hidden=3).attention_num_hidden == 3


def valid_values(name: str) -> st.SearchStrategy[Any]:
    """Values that the JSON schema of a hyperparameter allows."""
    schema = SCHEMA[name]
    if "const" in schema or "enum" in schema:
        return st.sampled_from(CHOICES.get(name, [schema.get("const")]))
    if "anyOf" in schema:
        return st.none() | numbers(schema["anyOf"][0])
    if schema["type"] == "boolean":
        return st.booleans()
    return numbers(schema).filter(lambda value: accepts(name, value))


def numbers(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if schema["type"] == "integer":
        return st.integers(schema["minimum"], 10**6)
    return st.floats(
        schema.get("minimum", schema.get("exclusiveMinimum")),
        schema.get("maximum", schema.get("exclusiveMaximum")),
        allow_nan=False,
        allow_infinity=False,
        exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema,
    )


def agree(values: dict[str, Any]) -> dict[str, Any]:
    """The same values, less what contradicts others."""
    if values["optimizer_type"] != "sgd":
        values["momentum"] = None
    if values["max_num_epochs"] is not None:
        values["min_num_epochs"] = min(values["min_num_epochs"], values["max_num_epochs"])
    values["lr_cooldown_num_batches"] = min(values["lr_cooldown_num_batches"], max(values["max_num_batches"], 0))
    return values


@given(st.fixed_dictionaries({name: valid_values(name) for name in SCHEMA}).map(agree))
def test_values_survive_json_and_strings(values: dict[str, Any]) -> None:
    parsed = Hyperparameters.parse(values)
    assert parsed.model_dump() == values
    assert Hyperparameters.parse(json.loads(json.dumps(parsed.to_json_dict(), allow_nan=False))) == parsed
    assert Hyperparameters.parse({name: str(value) for name, value in values.items()}) == parsed


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@given(st.dictionaries(st.sampled_from(sorted(SCHEMA)) | st.text(), anything))
def test_bad_values_never_raise_anything_but_a_client_error(values: dict[str, object]) -> None:
    with suppress(ClientError):
        Hyperparameters.parse(values)


def test_assignments() -> None:
    assert parse_assignments([]) == {}
    assert parse_assignments(["batch_size=8", " momentum =", "x=a=b"]) == {
        "batch_size": "8",
        "momentum": "",
        "x": "a=b",
    }


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (["batch_size"], "hyperparameter 'batch_size': write it as name=value"),
        (["=8"], "hyperparameter '=8': write it as name=value"),
        (["beam_size=1", "beam_size=1"], "hyperparameter beam_size: given twice"),
    ],
)
def test_assignments_that_cannot_be_read(assignments: list[str], problem: str) -> None:
    with pytest.raises(ClientError, match=problem):
        parse_assignments(assignments)


def test_the_documentation_is_current() -> None:
    assert (ROOT / "docs" / "hyperparameters.md").read_text(encoding="utf-8") == documentation_page()


def test_the_documentation_has_a_row_for_each() -> None:
    rows = [line for line in Hyperparameters.documentation_table().splitlines() if line.startswith("| `")]
    assert {row.split("`")[1] for row in rows} == set(SCHEMA)
    assert all(row.count("|") == 7 for row in rows)
    assert "-1 to 1 for uniform; 2 to 3 for xavier" in Hyperparameters.documentation_table()


def test_the_module_prints_the_page() -> None:
    command = [sys.executable, "-m", "seqwright.hyperparameters"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == documentation_page()
