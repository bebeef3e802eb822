"""`seqwright serve` as a process."""

import asyncio
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from seqwright.artifacts import save_model
from seqwright.errors import ClientError
from seqwright.inference.translator import Translator
from seqwright.serving.hosts import allowed_hosts
from seqwright.serving.limits import Limits
from seqwright.serving.server import serve
from tests.serving.conftest import ENDLESS, command
from tests.serving.raw_http import answers_on, check_error, post, sending


@pytest.fixture
def model(translator: Translator, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", translator.trained, {})
    return tmp_path / "model"


def test_it_serves_logs_on_standard_error_and_ends_cleanly_on_sigterm(model: Path, translator: Translator) -> None:
    with command("serve", "--model", model, "--port", 0, "--precision", "fp32", "--workers", 1) as (url, _):
        response = httpx.post(f"{url}/invocations", json={"instances": [{"data": "w5 w6"}]}, timeout=30)
        assert response.json() == {"predictions": [{"target": translator.translate(["w5 w6"])[0].text}]}
        assert httpx.get(f"{url}/ping").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is read from /proc")
def test_more_connections_are_taken_than_a_process_may_usually_have(model: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with command("serve", "--model", model, "--port", 0, "--precision", "fp32", "--workers", 1) as (_, process):
            limits = Path(f"/proc/{process.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = re.search(r"Max open files +(\d+)", limits)
    assert found is not None
    assert int(found[1]) == (hard if 0 <= hard < 1 << 16 else 1 << 16)


def test_answers_of_any_size_come_from_a_search_process(model: Path) -> None:
    configuration = {"nbest": 15, "beam_size": 15, "attention_matrix": True, "max_output_length": 40}
    instances = [{"data": "w5 w6 w7 w8 w9 w10 w11 w12", "configuration": configuration} for _ in range(64)]
    with command("serve", "--model", model, "--port", 0, "--precision", "fp32", "--workers", 1) as (url, _):
        for _ in range(5):
            response = httpx.post(f"{url}/invocations", json={"instances": instances}, timeout=60)
            assert response.status_code == 200
            assert len(response.json()["predictions"]) == 64


def test_long_searches_do_not_hold_up_the_others(model: Path, translator: Translator) -> None:
    endless = {"instances": [{"data": "w5", "configuration": ENDLESS} for _ in range(20)]}
    usual = {"instances": [{"data": "w5 w6"}]}

    async def ask(url: str) -> list[str]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            long = [asyncio.create_task(client.post("/invocations", json=endless)) for _ in range(3)]
            while "seqwright_queue_instances 5" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.01)
            found = [(await client.post("/invocations", json=usual)).json() for _ in range(5)]
            assert not any(each.done() for each in long)
            for each in long:
                each.cancel()
            while "seqwright_queue_instances 0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.01)
            return [each["predictions"][0]["target"] for each in found]

    with command("serve", "--model", model, "--port", 0, "--precision", "fp32", "--workers", 1) as (url, _):
        assert asyncio.run(ask(url)) == [translator.translate(["w5 w6"])[0].text] * 5


def test_sigterm_while_it_loads_is_a_clean_end(model: Path) -> None:
    program = "from seqwright.serving import server; print(flush=True); server.serve(__import__('pathlib').Path({!r}))"
    command = [sys.executable, "-c", program.format(str(model))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


_SIGNALLED_IN_IMPORTS = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "seqwright.serving.server":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except {}:
                pass
from seqwright.cli import main
sys.meta_path.insert(0, Finder())
main()
"""


@pytest.mark.parametrize("swallowed", ["ImportError", "BaseException"])
@pytest.mark.parametrize("arguments", [["serve", "--model", "none"], ["sagemaker", "serve", "--root", "none"]])
def test_sigterm_while_it_imports_is_a_clean_end(arguments: list[str], swallowed: str) -> None:
    command = [sys.executable, "-c", _SIGNALLED_IN_IMPORTS.format(swallowed), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_ctrl_c_twice_waits_for_nothing_and_says_no_more_than_that(model: Path) -> None:
    program = [
        sys.executable,
        "-c",
        "from seqwright.cli import main; main()",
        "serve",
        "--model",
        str(model),
        "--port",
        "0",
    ]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stderr.readline())
        assert found is not None
        instance = {"data": "w5", "configuration": ENDLESS}
        with sending(found[0], post(json.dumps({"instances": [instance] * 1000}).encode()), pause=0.5) as connection:
            for _ in range(2):
                process.send_signal(signal.SIGINT)
                time.sleep(0.5)
            check_error(answers_on(connection), 503, "shutting_down")
        assert process.wait(30) == 130
        assert process.stderr.read() == "interrupted\n"


def test_a_closed_terminal_ends_it_like_sigterm(model: Path) -> None:
    body = json.dumps({"instances": [{"data": "w5", "configuration": ENDLESS}] * 2})
    with command("serve", "--model", model, "--port", 0, "--precision", "fp32", "--workers", 1) as (url, process):
        with sending(url, post(body.encode()), pause=0.5) as connection:
            for _ in range(2):
                process.send_signal(signal.SIGHUP)
                time.sleep(0.1)
            assert answers_on(connection).startswith(b"HTTP/1.1 200 ")
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ([], {"localhost": True, "127.0.0.1:8080": True, "evil.example": False}),
        (["--allowed-hosts", "my.example, other"], {"my.example": True, "localhost": False}),
        (["--allowed-hosts", "*"], {"evil.example": True}),
        (["--host", "0.0.0.0"], {"evil.example": True, "localhost": True}),  # noqa: S104
    ],
)
def test_on_a_loopback_address_only_its_own_names_are_answered(
    model: Path, options: list[str], allowed: dict[str, bool]
) -> None:
    with command("serve", "--model", model, "--port", 0, "--precision", "fp32", "--workers", 1, *options) as (url, _):
        local = f"http://127.0.0.1:{urlsplit(url).port}"
        for host, is_allowed in allowed.items():
            status = httpx.get(f"{local}/ping", headers={"Host": host}).status_code
            assert status == (200 if is_allowed else 421), host


def test_the_names_of_a_loopback_address_include_the_host_that_was_given() -> None:
    local = {"localhost", "127.0.0.1", "[::1]"}
    assert allowed_hosts("Box.local", "127.0.1.1", None) == {*local, "127.0.1.1", "box.local"}
    assert allowed_hosts("ip6-localhost", "::1", None) == {*local, "ip6-localhost"}
    assert allowed_hosts("box", "192.0.2.1", None) is None


def test_an_address_of_ipv6_has_brackets(model: Path) -> None:
    with pytest.raises(ClientError, match=r"cannot listen on \[2001:db8::1\]:8080"):
        serve(model, host="2001:db8::1")


def test_a_port_that_another_is_about_to_listen_on_is_the_users_to_change(model: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        threading.Timer(0.2, other.listen).start()
        with pytest.raises(ClientError, match=rf"cannot listen on 127\.0\.0\.1:{port}: address already in use"):
            serve(model, port=port)


@pytest.mark.parametrize("host", ["..", "a" * 100])
def test_a_host_that_cannot_be_one_is_refused(model: Path, host: str) -> None:
    with pytest.raises(ClientError, match="cannot listen on"):
        serve(model, host=host)


def test_a_bad_model_ends_it(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="no model at"):
        serve(tmp_path / "none", port=0)


def test_a_port_in_use_is_the_users_to_change(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ClientError, match=rf"cannot listen on 127\.0\.0\.1:{port}: address already in use"):
            serve(model, port=port)


def test_an_address_of_another_machine_is_refused(model: Path) -> None:
    with pytest.raises(ClientError, match=r"cannot listen on 192\.0\.2\.1:8080"):
        serve(model, host="192.0.2.1")


@pytest.mark.parametrize("limit", ["max_batch", "max_batch_tokens", "backlog", "deadline", "max_buffered_bytes"])
def test_limits_must_be_positive(limit: str) -> None:
    with pytest.raises(ClientError, match=f"{limit} must be positive, not 0"):
        Limits(**{limit: 0})
