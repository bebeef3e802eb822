"""Hyperparameters as a command line and a container's tuner give them."""

import pytest

from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters, parse_assignments, with_tuning_objective

BLEU = {"_tuning_objective_metric": "validation:bleu"}


def test_assignments_are_read_as_names_and_strings() -> None:
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
def test_assignments_without_a_name_or_given_twice_are_refused(assignments: list[str], problem: str) -> None:
    with pytest.raises(ClientError, match=problem):
        parse_assignments(assignments)


@pytest.mark.parametrize("zero", [None, "0", 0, "0.0", '"0"', " 0 "])
@pytest.mark.parametrize("objective", ["validation:bleu", '"validation:bleu"'])
def test_bleu_is_computed_where_the_tuner_optimises_it(zero: object, objective: str) -> None:
    given = {"batch_size": "8", **({} if zero is None else {"bleu_sample_size": zero})}
    values = with_tuning_objective({**given, "_tuning_objective_metric": objective})
    assert values.pop("_tuning_objective_metric") == objective
    assert Hyperparameters.parse(values) == Hyperparameters(batch_size=8, bleu_sample_size=-1)


@pytest.mark.parametrize("size", ["-1", "50", 50, '"50"', "fifty"])
def test_a_bleu_sample_size_that_was_given_stays(size: object) -> None:
    assert with_tuning_objective({**BLEU, "bleu_sample_size": size}) == {**BLEU, "bleu_sample_size": size}


@pytest.mark.parametrize("objective", ["validation:perplexity", "validation:accuracy", None])
def test_other_objectives_of_a_tuner_change_nothing(objective: str | None) -> None:
    values: dict[str, object] = {"batch_size": "8"} if objective is None else {"_tuning_objective_metric": objective}
    assert with_tuning_objective(values) == values
