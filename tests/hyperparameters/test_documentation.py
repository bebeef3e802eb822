"""The list of hyperparameters as a page and in the terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters, documentation_page
from seqwright.hyperparameters.documentation import terminal_entry, terminal_list

PAGE = Path(__file__).parents[2] / "docs" / "hyperparameters.md"


def test_the_page_in_the_repository_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == documentation_page()


def test_the_page_has_a_row_for_each_hyperparameter() -> None:
    rows = [line for line in documentation_page().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(Hyperparameters.model_fields)
    assert all(row.count("|") == 7 for row in rows)
    assert "-1 to 1 for uniform; 2 to 3 for xavier" in documentation_page()


def printed(*lines: object) -> str:
    console = Console(file=io.StringIO(), width=80)
    for line in lines:
        console.print(line)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_list_has_every_hyperparameter_within_80_columns() -> None:
    text = printed(*terminal_list())
    entries = [line.split(" = ")[0] for line in text.splitlines() if " = " in line]
    assert entries == list(Hyperparameters.model_fields)
    assert max(map(len, text.splitlines())) <= 80


def test_the_terminal_entry_has_default_meaning_range_and_tuning_range() -> None:
    assert printed(*terminal_entry("learning_rate")) == (
        "learning_rate = 0.0003\n"
        "    Learning rate that the schedule starts from.\n"
        "    float: > 0; tuning range: 5e-05 to 0.2\n"
    )


def test_an_entry_of_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ClientError, match=r"hyperparameter learning-rat: unknown; did you mean learning_rate\?"):
        list(terminal_entry("learning-rat"))
