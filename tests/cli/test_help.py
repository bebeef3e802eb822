"""What the command line says of itself: help, completion, the version and the hyperparameters."""

import os
import re
import subprocess
import sys

import pytest

import seqwright
from seqwright.hyperparameters import Hyperparameters, documentation_page
from tests.cli.conftest import Run


def test_version_prints_the_version(run: Run) -> None:
    result = run("--version")
    assert (result.status, result.out) == (0, f"seqwright {seqwright.__version__}\n")


def test_help_has_whole_option_names_in_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("train", "--help")
    assert result.status == 0
    assert "--freeze-vectors-source " in result.out
    assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.parametrize("group", [[], ["sagemaker"]])
def test_help_lists_every_command_with_its_whole_summary(group: list[str], run: Run) -> None:
    listed = run(*group, "--help").out
    assert "..." not in listed.replace("COMMAND [ARGS]...", "")
    names = re.findall(r"^  ([a-z-]+)  ", listed.partition("Commands:")[2], re.MULTILINE)
    assert {"prepare", "train", "translate", "evaluate", "demo"} <= set(names) or group
    for name in names:
        summary = run(*group, name, "--help").out.split("\n\n")[1]
        assert " ".join(summary.split()) in " ".join(listed.split())


@pytest.mark.parametrize("command", [[], ["train"], ["hyperparameters"], ["sagemaker"], ["sagemaker", "serve"]])
def test_h_is_short_for_help(command: list[str], run: Run) -> None:
    short, whole = run(*command, "-h"), run(*command, "--help")
    assert (short.status, short.out) == (0, whole.out)
    assert "-h, --help" in whole.out


def completions(*words: str) -> list[str]:
    """What bash is offered for the last of the words."""
    last = len(words) - 1
    variables = {"_SEQWRIGHT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(last)}
    code = "import sys; sys.argv = ['seqwright']; from seqwright.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert result.stderr == ""
    return result.stdout.split()


def test_a_shell_completes_commands_options_and_hyperparameters(run: Run) -> None:
    assert "--install-completion" in run("--help").out
    assert completions("seqwright", "tra") == ["train", "translate"]
    assert completions("seqwright", "train", "--vec") == ["--vectors-source", "--vectors-target"]
    assert completions("seqwright", "hyperparameters", "num_l") == ["num_layers_encoder", "num_layers_decoder"]


def test_hyperparameters_lists_all_of_them(run: Run) -> None:
    result = run("hyperparameters")
    assert (result.status, result.err) == (0, "")
    assert re.findall(r"^(\w+) = ", result.out, re.MULTILINE) == list(Hyperparameters.model_fields)


def test_hyperparameters_with_a_name_explains_that_one(run: Run) -> None:
    result = run("hyperparameters", "beam_size")
    assert (result.status, result.out.splitlines()[0]) == (0, "beam_size = 5")
    assert len(result.out.splitlines()) == 3
    refused = run("hyperparameters", "beem_size")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == "ClientError: hyperparameter beem_size: unknown; did you mean beam_size?\n"


def test_hyperparameters_prints_the_page_in_markdown(run: Run) -> None:
    assert run("hyperparameters", "--markdown").out == documentation_page()
