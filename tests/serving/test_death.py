"""Search processes that die, stop or cannot be started again. They are real, and so are the signals."""

import contextlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from seqwright.artifacts import save_model
from seqwright.inference.translator import Translator
from seqwright.serving.search_process import SearchProcess
from seqwright.serving.searcher import ModelDescription
from tests.serving.conftest import ENDLESS, command, running
from tests.serving.test_under_load import eventually, queued

PATIENCE = 60.0

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")

SERVE = ("--port", 0, "--precision", "fp32")


@pytest.fixture
def model(translator: Translator, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", translator.trained, {})
    return tmp_path / "model"


def search_processes(pid: int) -> list[int]:
    """The search processes of an endpoint."""
    children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    every = [int(child) for each in children for child in each]
    return [child for child in every if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_gone(child: int, pid: int) -> bool:
    return child not in search_processes(pid)


def ask(url: str, text: str = "w5 w6", **configuration: object) -> httpx.Response:
    body = {"instances": [{"data": text, "configuration": configuration}]}
    return httpx.post(f"{url}/invocations", json=body, timeout=PATIENCE)


class Background:
    """A request whose search takes seconds, in a thread."""

    def __init__(self, url: str) -> None:
        self._responses: list[httpx.Response] = []
        self._thread = threading.Thread(target=lambda: self._responses.append(ask(url, "w5", **ENDLESS)))
        self._thread.start()
        started = time.monotonic()
        while not eventually(queued(url) == 0, started):
            pass
        time.sleep(0.5)

    def response(self) -> httpx.Response:
        self._thread.join(PATIENCE)
        return self._responses[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_requests_in_flight_are_searched_again_when_their_process_is_lost(
    model: Path, translator: Translator, number: signal.Signals
) -> None:
    with command("serve", "--model", model, *SERVE, "--workers", 1) as (url, process):
        request = Background(url)
        (child,) = search_processes(process.pid)
        os.kill(child, number)
        response = request.response()
        assert response.status_code == 200
        assert response.json() == ask(url, "w5", **ENDLESS).json()
        assert httpx.get(f"{url}/ping").status_code == 200
        assert search_processes(process.pid) != [child]


def test_requests_whose_process_is_lost_twice_get_500(model: Path) -> None:
    with command("serve", "--model", model, *SERVE, "--workers", 1) as (url, process):
        request = Background(url)
        (first,) = search_processes(process.pid)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: queued(url) == 1)
        wait_until(lambda: queued(url) == 0)
        (second,) = search_processes(process.pid)
        os.kill(second, signal.SIGKILL)
        assert request.response().status_code == 500
        assert ask(url).status_code == 200


def test_a_new_process_searches_with_the_model_that_the_endpoint_started_with(
    model: Path, translator: Translator
) -> None:
    with command("serve", "--model", model, *SERVE, "--workers", 1) as (url, process):
        expected = ask(url).json()
        shutil.rmtree(model)
        model.mkdir()
        (model / "config.json").write_text(json.dumps({"another": "model"}))
        (child,) = search_processes(process.pid)
        os.kill(child, signal.SIGKILL)
        assert ask(url).json() == expected
        assert search_processes(process.pid) != [child]


def test_the_endpoint_says_that_it_cannot_search_and_heals(translator: Translator) -> None:
    model, pickled = ModelDescription.of(translator.trained), pickle.dumps(translator.trained)
    expected = translator.translate("w5 w6").text
    with (
        contextlib.closing(SearchProcess(model, pickled, "cpu", "fp32")) as searcher,
        running(translator, searchers=[searcher]) as url,
    ):
        assert ask(url).json()["predictions"][0]["target"] == expected
        request = Background(url)
        multiprocessing.set_executable("/nothing/there")
        try:
            os.kill(search_processes(os.getpid())[-1], signal.SIGKILL)
            wait_until(lambda: httpx.get(f"{url}/ping").status_code == 503)
            assert httpx.get(f"{url}/ping").json() == {"status": "no search process"}
            for response in (request.response(), ask(url)):
                assert (response.status_code, response.headers["retry-after"]) == (503, "1")
                assert response.json()["error"]["code"] == "no_search_process"
        finally:
            multiprocessing.set_executable(sys.executable)
        wait_until(lambda: httpx.get(f"{url}/ping").status_code == 200)
        assert ask(url).json()["predictions"][0]["target"] == expected


@pytest.mark.parametrize("pause", [0.0, 0.3, 1.5])
def test_the_endpoint_ends_cleanly_while_it_starts_another_process(model: Path, pause: float) -> None:
    with command("serve", "--model", model, *SERVE, "--workers", 1) as (_, process):
        os.kill(search_processes(process.pid)[0], signal.SIGKILL)
        time.sleep(pause)


def test_requests_do_not_wait_for_a_process_that_was_lost_while_it_was_idle(model: Path) -> None:
    with command("serve", "--model", model, *SERVE, "--workers", 2) as (url, process):
        first, second = search_processes(process.pid)
        for child in (first, second):
            for _ in range(3):
                assert ask(url).status_code == 200
            os.kill(child, signal.SIGKILL)
            wait_until(partial(is_gone, child, process.pid))
            for _ in range(3):
                assert ask(url).status_code == 200
            wait_until(lambda: len(search_processes(process.pid)) == 2)
        assert httpx.get(f"{url}/ping").status_code == 200
