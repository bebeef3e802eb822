"""The command line, run in the process of the tests, and a model for it."""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from seqwright.cli import main
from tests.toy import SETTINGS, prepared

HYPERPARAMETERS = [option for name, value in SETTINGS.items() for option in ("-H", f"{name}={value}")]


@dataclass
class Result:
    """What a command did."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run the command line in this process: `run("train", "--data", folder, …, stdin=b"…")`."""

    def call(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "argv", ["seqwright", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Result(status, *capsys.readouterr())

    yield call
    logging.getLogger().handlers.clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the toy task, barely trained, with its text beside it."""
    from seqwright.training.job import Channels, train

    folder = tmp_path_factory.mktemp("toy")
    train(Channels.under(prepared(folder)), folder / "model", {**SETTINGS, "max_num_batches": 20}, precision="fp32")
    return folder / "model"
