"""A real server on a free port of the loopback, in a thread of this process."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import pytest
import torch

from seqwright.artifacts import LengthRatio, TrainedModel
from seqwright.hyperparameters import Hyperparameters
from seqwright.inference.translator import Translator
from seqwright.models.seq2seq import build_model, initialize_model
from seqwright.serving.app import EndpointApp
from seqwright.serving.limits import Limits
from seqwright.serving.searcher import Searcher
from seqwright.serving.server import EndpointServer, bind
from tests.conftest import SMALL, vocabulary
from tests.serving.thread_searcher import ThreadSearcher

Serve = Callable[..., contextlib.AbstractContextManager[str]]

ENDLESS = {"max_output_length": 1000, "beam_size": 64}
"""What makes a search of the model below take seconds: none of its long hypotheses ends."""


def random_model() -> TrainedModel:
    """A tiny model with random weights and a maximum of twelve source tokens."""
    settings = Hyperparameters.parse({**SMALL, "weight_init_scale": 12.0, "max_seq_len_source": 12})
    model = build_model(settings, 24, 19)
    initialize_model(model, settings, 8)
    return TrainedModel(model.eval(), settings, vocabulary(20), vocabulary(15), LengthRatio(mean=1, std=0.2))


@pytest.fixture(scope="session")
def translator() -> Translator:
    return Translator(random_model(), torch.device("cpu"))


@contextlib.contextmanager
def running(
    translator: Translator,
    limits: Limits | None = None,
    keep_alive: int = 5,
    allowed_hosts: Collection[str] | None = None,
    searchers: Sequence[Searcher] = (),
) -> Iterator[str]:
    """The URL of an endpoint that serves until the block ends."""
    with bind("127.0.0.1", 0) as listening:
        server = EndpointServer(
            EndpointApp(searchers or [ThreadSearcher(translator)], limits, allowed_hosts), keep_alive
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def command(*arguments: object) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The URL and the process of a command that serves; after SIGTERM it must end well and have written no results."""
    program = [sys.executable, "-c", "from seqwright.cli import main; main()", *map(str, arguments)]
    with subprocess.Popen(program, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        line = process.stderr.readline()
        while line and not (found := re.search(r"http://[a-z0-9.]+:\d+", line)):
            line = process.stderr.readline()
        assert line, "it ended without serving"
        assert found is not None
        try:
            yield found[0], process
        finally:
            process.send_signal(signal.SIGTERM)
            errors = process.stderr.read()
        assert process.wait(30) == 0
        assert process.stdout.read() == ""
        assert "Traceback" not in errors


@pytest.fixture(scope="module")
def url(translator: Translator) -> Iterator[str]:
    """An endpoint with the default limits."""
    with running(translator) as url:
        yield url
