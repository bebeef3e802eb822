"""`seqwright serve` as a process."""

import socket
from pathlib import Path

import httpx
import pytest

from seqwright.artifacts import save_model
from seqwright.errors import ClientError
from seqwright.inference.translator import Translator
from seqwright.serving.limits import Limits
from seqwright.serving.server import serve
from tests.serving.conftest import command


@pytest.fixture
def model(translator: Translator, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", translator.trained, {})
    return tmp_path / "model"


def test_it_serves_logs_on_standard_error_and_ends_cleanly_on_sigterm(model: Path, translator: Translator) -> None:
    with command("serve", "--model", model, "--port", 0, "--precision", "fp32", "--workers", 1) as (url, _):
        response = httpx.post(f"{url}/invocations", json={"instances": [{"data": "w5 w6"}]}, timeout=30)
        assert response.json() == {"predictions": [{"target": translator.translate(["w5 w6"])[0].text}]}
        assert httpx.get(f"{url}/ping").status_code == 200


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
