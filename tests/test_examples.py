"""The examples run as their docstrings say."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from seqwright.artifacts import save_model
from seqwright.inference.translator import Translator
from tests.serving.conftest import random_model, running

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_dates_reads_dates_and_a_second_run_prints_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--output", tmp_path / "dates", "--pairs", 200, "--updates", 2)
    run("dates.py", *options, monkeypatch=monkeypatch)
    first = capsys.readouterr().out
    assert re.search(r"% of 500 dates that were not in training are right", first)
    run("dates.py", *options, monkeypatch=monkeypatch)
    assert capsys.readouterr().out == first


@pytest.mark.slow
def test_dates_are_read_right_after_training_with_the_default_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("dates.py", "--output", tmp_path / "dates", monkeypatch=monkeypatch)
    found = re.search(r"(\d+\.\d)% of 500 dates that were not in training are right", capsys.readouterr().out)
    assert found
    assert float(found[1]) > 90


def test_client_prints_the_translations_of_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = random_model()
    save_model(tmp_path / "model", trained, {})
    translator = Translator(trained, torch.device("cpu"))
    with running(translator) as url:
        run("client.py", "--model", tmp_path / "model", "--url", url, "w5 w9", "w7", monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    best = [translation.text for translation in translator.translate(["w5 w9", "w7"])]
    assert lines[0].startswith(f"w5 w9: {best[0]} (")
    assert len(lines) == 3 * 2 + 2
    assert lines[-2:] == [f"w5 w9: {best[0]}", f"w7: {best[1]}"]
