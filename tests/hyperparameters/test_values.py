"""Values of hyperparameters: what users write, what it is read as, and what they are told when it is wrong."""

import copy
import json
import pickle
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters
from tests.hyperparameters.helpers import CHOICES, REQUIRED_WITH, SCHEMA, accepts, refusal


def test_strings_become_the_types_of_their_fields() -> None:
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


@pytest.mark.parametrize("none", [None, "", "None", "none", "null", "  ", '"null"', '"None"', '""'])
@pytest.mark.parametrize("name", ["momentum", "max_num_epochs", "rnn_attention_num_hidden"])
def test_none_is_accepted_where_documented(name: str, none: object) -> None:
    assert getattr(Hyperparameters.parse({name: none}), name) is None


def test_values_quoted_as_json_are_read_as_without_quotes() -> None:
    values = {"optimizer_type": "sgd", "momentum": "0.5", "rnn_num_hidden": "16", "bucketing_enabled": "False"}
    quoted = {name: json.dumps(value) for name, value in values.items()}
    assert Hyperparameters.parse(quoted) == Hyperparameters.parse(values)
    assert "'\"Adam\"' is not valid; valid values (str): adam" in refusal(optimizer_type='"Adam"')
    assert "'\"adam' is not valid" in refusal(optimizer_type='"adam')


@pytest.mark.parametrize("value", ["2.5", 2.5, "sixty", "", None, "none", True, "nan", "1e400", [64]])
def test_values_that_are_not_whole_numbers_are_refused(value: object) -> None:
    assert "batch_size: " in refusal(batch_size=value)
    assert refusal(batch_size=value).endswith("is not valid; valid values (int): >= 1")


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", float("nan"), float("inf"), "1e400", 10**400, False])
@pytest.mark.parametrize("name", ["learning_rate", "clip_gradient", "weight_decay"])
def test_values_that_are_not_finite_numbers_are_refused(name: str, value: object) -> None:
    assert refusal(**{name: value}).startswith(f"hyperparameter {name}: ")


def test_a_value_out_of_range_is_refused_with_the_range() -> None:
    assert refusal(embed_dropout_source="1.5") == (
        "hyperparameter embed_dropout_source: '1.5' is not valid; valid values (float): >= 0 and <= 1"
    )
    assert "valid values (int): >= 1, or none" in refusal(max_num_epochs=0)
    assert "valid values (int): >= -1 and not zero" in refusal(max_num_batches="0")
    assert "valid values (int): >= 2 and even" in refusal(rnn_num_hidden=511)
    assert "valid values (int): >= 1 and odd" in refusal(cnn_kernel_width_encoder=4)


def test_a_wrong_choice_is_refused_with_the_choices() -> None:
    assert "'Adam' is not valid; valid values (str): adam, sgd, rmsprop" in refusal(optimizer_type="Adam")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("batch_sze", "batch_size"),
        ("num-layers-encoder", "num_layers_encoder"),
        ("LearningRate", "learning_rate"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    assert refusal(**{name: "1"}) == f"hyperparameter {name}: unknown; did you mean {near}?"


def test_a_name_unlike_all_others_is_refused_with_the_command_that_lists_them() -> None:
    assert refusal(zzz=1) == "hyperparameter zzz: unknown; `seqwright hyperparameters` lists the names"


VAST = [10**31, 10**5000, str(10**31), "9" * 5000, "+" + "9" * 5000, "1e31"]


@pytest.mark.parametrize("value", VAST, ids=range(len(VAST)))
@pytest.mark.parametrize("name", [name for name in SCHEMA if "maximum" in Hyperparameters.traits(name)])
def test_a_vast_number_is_refused_with_the_largest_accepted_value(name: str, value: object) -> None:
    maximum = Hyperparameters.traits(name)["maximum"]
    message = refusal(**{**REQUIRED_WITH.get(name, {}), name: value})
    assert message.startswith(f"hyperparameter {name}: ")
    assert message.endswith(f" is too large: the largest value that is accepted is {maximum:,}")
    assert len(message) < 200


@pytest.mark.parametrize("value", [-(10**23), "-" + "9" * 5000, -(10**5000)], ids=range(3))
def test_a_vast_negative_number_is_refused_with_the_range(value: object) -> None:
    assert refusal(batch_size=value).endswith("is not valid; valid values (int): >= 1")


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_momentum_without_sgd_is_refused(optimizer: str) -> None:
    message = refusal(momentum=0.0, optimizer_type=optimizer)
    assert message == (f"hyperparameter momentum: {optimizer} takes none; remove momentum or set optimizer_type=sgd")


def test_min_num_epochs_above_max_num_epochs_is_refused() -> None:
    assert Hyperparameters.parse({"min_num_epochs": 5, "max_num_epochs": 5}).min_num_epochs == 5
    assert Hyperparameters.parse({"min_num_epochs": 5}).max_num_epochs is None
    message = refusal(min_num_epochs=6, max_num_epochs=5)
    assert "min_num_epochs: 6 is more than max_num_epochs; lower it to at most 5" in message


def test_a_cooldown_longer_than_training_is_refused() -> None:
    assert Hyperparameters.parse({"lr_cooldown_num_batches": 5, "max_num_batches": 5}).lr_cooldown_num_batches == 5
    for end in (-1, 4):
        message = refusal(lr_cooldown_num_batches=5, max_num_batches=end)
        assert "lr_cooldown_num_batches: 5 is more than max_num_batches; set max_num_batches" in message


def test_one_error_lists_every_problem() -> None:
    lines = refusal(batch_size=0, beem_size=3, momentum=0.9, min_num_epochs=9, max_num_epochs=2).splitlines()
    names = ["batch_size", "beem_size", "momentum", "min_num_epochs"]
    assert [line.split(":")[0] for line in lines] == [f"hyperparameter {name}" for name in names]


def test_a_refused_value_is_reported_once() -> None:
    """Were the bad optimizer read as the default, momentum would look wrong as well."""
    assert refusal(optimizer_type="SGD", momentum=0.9).count("\n") == 0
    assert refusal(min_num_epochs=3, max_num_epochs=0).count("\n") == 0


@pytest.mark.parametrize("values", [{"batch_size": 0, "beem_size": 3}, {"momentum": 0.9}, {"batch_size": 10**30}])
def test_every_way_of_making_them_gives_the_same_advice(values: dict[str, Any]) -> None:
    messages = set()
    for make in (Hyperparameters.parse, Hyperparameters.model_validate, lambda values: Hyperparameters(**values)):
        with pytest.raises(ClientError) as caught:
            make(values)
        messages.add(str(caught.value))
        shown = "".join(traceback.format_exception(caught.value))
        assert "pydantic" not in shown.rpartition("ClientError: ")[2]
        assert "ValidationError" not in shown
    assert len(messages) == 1


@pytest.mark.parametrize("make", [Hyperparameters.parse, Hyperparameters.model_validate])
def test_values_that_are_not_a_mapping_are_refused(make: Callable[[Any], Hyperparameters]) -> None:
    with pytest.raises(ClientError, match="hyperparameters must be names with values, not 'abc'"):
        make("abc")


def test_copies_and_pickles_are_equal() -> None:
    made = Hyperparameters(batch_size=8, optimizer_type="sgd", momentum=0.5)
    copies = [pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made), made.model_copy()]  # noqa: S301
    copies += [Hyperparameters.model_validate(made.model_dump()), Hyperparameters.model_validate(made)]
    assert all(each == made and type(each) is Hyperparameters for each in copies)
    assert made.model_fields_set == copies[0].model_fields_set == {"batch_size", "optimizer_type", "momentum"}
    assert made.model_copy(update={"batch_size": 9}).batch_size == 9


def test_values_cannot_be_set_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Hyperparameters().batch_size = 3  # type: ignore[misc]


def test_attention_is_as_wide_as_the_recurrent_layers_by_default() -> None:
    assert Hyperparameters(rnn_num_hidden=64).attention_num_hidden == 64
    assert Hyperparameters(rnn_num_hidden=64, rnn_attention_num_hidden=3).attention_num_hidden == 3


def valid_values(name: str) -> st.SearchStrategy[Any]:
    """Values that the JSON schema of a hyperparameter allows."""
    schema = SCHEMA[name]
    if "const" in schema or "enum" in schema:
        return st.sampled_from(CHOICES.get(name, [schema.get("const")]))
    if "anyOf" in schema:
        return st.none() | numbers({"maximum": schema.get("maximum"), **schema["anyOf"][0]})
    if schema["type"] == "boolean":
        return st.booleans()
    return numbers(schema).filter(lambda value: accepts(name, value))


def numbers(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if schema["type"] == "integer":
        return st.integers(schema["minimum"], min(schema["maximum"], 10**6))
    return st.floats(
        schema.get("minimum", schema.get("exclusiveMinimum")),
        schema.get("maximum", schema.get("exclusiveMaximum")),
        allow_nan=False,
        allow_infinity=False,
        exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema,
    )


def without_conflicts(values: dict[str, Any]) -> dict[str, Any]:
    """The same values, changed where two of them conflict."""
    if values["optimizer_type"] != "sgd":
        values["momentum"] = None
    if values["max_num_epochs"] is not None:
        values["min_num_epochs"] = min(values["min_num_epochs"], values["max_num_epochs"])
    values["lr_cooldown_num_batches"] = min(values["lr_cooldown_num_batches"], max(values["max_num_batches"], 0))
    return values


@given(st.fixed_dictionaries({name: valid_values(name) for name in SCHEMA}).map(without_conflicts))
def test_values_written_as_json_or_strings_are_read_back_equal(values: dict[str, Any]) -> None:
    parsed = Hyperparameters.parse(values)
    assert parsed.model_dump() == values
    assert Hyperparameters.parse(json.loads(json.dumps(parsed.to_json_dict(), allow_nan=False))) == parsed
    assert Hyperparameters.parse({name: str(value) for name, value in values.items()}) == parsed


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@given(st.dictionaries(st.sampled_from(sorted(SCHEMA)) | st.text(), anything))
def test_any_values_are_taken_or_raise_a_client_error(values: dict[str, object]) -> None:
    with suppress(ClientError):
        Hyperparameters.parse(values)
