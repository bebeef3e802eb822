"""Commands whose paths are URLs of an S3 API on loopback."""

import json
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from seqwright.cli import app
from seqwright.errors import ClientError
from seqwright.remote import copies as copies_module
from seqwright.remote.cache import cache_folder
from tests.s3 import CONTENT, S3, objects, put, terminating
from tests.toy import SETTINGS, prepared, write_text


def finished(*arguments: str) -> Result:
    """What a command that ends well has printed."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result


def run(*arguments: str) -> str:
    return finished(*arguments).stdout


def test_sigterm_while_training_fetches_its_data_ends_it_with_status_0(s3: S3, tmp_path: Path) -> None:
    put(s3, "data/train/train.rec", CONTENT)
    released = threading.Event()
    s3.fault = terminating("GET", "train.rec", released)
    result = finished("train", "--data=s3://bucket/data", f"--output={tmp_path / 'model'}")
    released.set()
    assert result.stdout == ""
    assert "stopped while fetching" in result.stderr
    assert not (tmp_path / "model").exists()


def test_sigterm_while_serve_fetches_its_model_ends_it_with_status_0(s3: S3) -> None:
    put(s3, "model/config.json", CONTENT)
    released = threading.Event()
    s3.fault = terminating("GET", "config.json", released)
    result = finished("serve", "--model=s3://bucket/model", "--port=0")
    released.set()
    assert "fetching s3://bucket/model" in result.stderr
    assert "serving" not in result.stderr


def test_sigterm_ends_training_though_the_store_hangs(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies_module, "GRACE", 0.5)
    command = ["train", f"--data={prepared(tmp_path, 100)}", "--output=s3://bucket/model"]
    command += [f"-H{name}={value}" for name, value in SETTINGS.items()]
    released = threading.Event()
    s3.fault = terminating("PUT", "checkpoint-000000004/state.json", released)
    before = time.monotonic()
    result = finished(*command)
    assert time.monotonic() - before < 30
    updates = json.loads(result.stdout)["updates"]
    assert "before everything was sent to s3://bucket/model.checkpoints and s3://bucket/model: it" in result.stderr
    assert not [key for key in objects(s3) if key.startswith("model/")]
    released.set()
    with copies_module._PUSHING:
        pass
    assert json.loads(run(*command, f"-Hmax_num_batches={updates}"))["updates"] == updates
    assert {"model/config.json", f"model.checkpoints/checkpoint-{updates:09}/state.json"} < set(objects(s3))


def test_all_commands_work_with_urls_alone(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path, 100)
    for name in ("train.src", "train.trg", "val.src", "val.trg"):
        put(s3, f"text/{name}", (tmp_path / name).read_bytes())
    base = "s3://bucket"
    texts = [f"--{split}-{side}={base}/text/{split}.{end}" for split in ("train", "val")
             for side, end in (("source", "src"), ("target", "trg"))]  # fmt: skip
    run("prepare", *texts, f"--output={base}/data")
    put(s3, "settings.json", json.dumps({**SETTINGS, "max_num_batches": 6}).encode())
    train = ["train", f"--data={base}/data", f"--output={base}/model", f"--hyperparameters={base}/settings.json"]
    run(*train)
    first = objects(s3)
    assert {"model/config.json", "model.checkpoints/best/config.json"} < set(first)
    assert "model.checkpoints/checkpoint-000000006/state.json" in first

    monkeypatch.setenv("SEQWRIGHT_CACHE", str(tmp_path / "another machine"))
    more = json.loads(run(*train, "-H", "max_num_batches=12"))
    assert (more["model"], more["updates"]) == (f"{base}/model", 12)
    assert objects(s3)["model/model.safetensors"] != first["model/model.safetensors"]

    run("translate", f"--model={base}/model", f"--input={base}/text/val.src", f"--output={base}/out.txt")
    lines = objects(s3)["out.txt"].decode().splitlines()
    assert len(lines) == len((tmp_path / "val.src").read_text().splitlines())
    reference = [f"--source={base}/text/val.src", f"--target={base}/text/val.trg"]
    assert "bleu" in json.loads(run("evaluate", f"--model={base}/model", *reference))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("translate --model URL/bad", "s3://bucket/bad/config.json is damaged"),
        ("serve --model URL/bad", "s3://bucket/bad/config.json is damaged"),
        ("translate --model URL/bad.tar.gz", "s3://bucket/bad.tar.gz is not a readable model.tar.gz"),
        ("evaluate --model URL/bad --source URL/x --target URL/x", "s3://bucket/bad/config.json is damaged"),
        ("import-sockeye --input URL/bad --output URL/new", "s3://bucket/bad is not a Sockeye model"),
        ("prepare --train-source URL/x --train-target URL/y --output URL/new", "s3://bucket/x only 1"),
        ("train --data URL/data --output URL/new", "s3://bucket/data/vocab has no vocab.src.json"),
        ("train --data URL/data --output URL/new --hyperparameters URL/x", "s3://bucket/x is not valid JSON"),
    ],
)
def test_errors_about_fetched_files_name_their_url(arguments: str, words: str, s3: S3) -> None:
    files = ("bad/config.json", "bad/model.safetensors", "bad/vocab.src.json", "bad/vocab.trg.json", "bad.tar.gz")
    for key in (*files, "x", *(f"data/{channel}/z" for channel in ("train", "validation", "vocab"))):
        put(s3, key, b"x\n")
    put(s3, "y", b"y\ny\n")
    result = CliRunner().invoke(app, arguments.replace("URL", "s3://bucket").split())
    assert isinstance(result.exception, ClientError)
    assert words in str(result.exception)
    assert str(cache_folder()) not in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("demo --output URL/demo", "only a local folder"),
        ("sagemaker train --root URL/job", "only a local folder"),
        ("sagemaker serve --root URL/job", "only a local folder"),
        ("prepare --train-source URL/big --train-target URL/big --output s3://nobucket/x", "no such bucket"),
        ("import-sockeye --input URL/big --output s3://nobucket/x", "no such bucket"),
        ("train --data URL/big --output s3://nobucket/x", "no such bucket"),
        ("train --data URL/big --output s3://bucket", "s3://bucket has no name to write to"),
        ("translate --model URL/big --input URL/big --output s3://nobucket/x", "no such bucket"),
        ("translate --model URL/big --input URL/big --output s3://bucket/data", "it is a folder; name a file"),
    ],
)
def test_a_command_that_cannot_write_says_so_before_any_work(
    arguments: str, words: str, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, "big", b"x")
    put(s3, "data/train/x", b"x")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments.replace("URL", "s3://bucket").split())
    assert isinstance(result.exception, ClientError)
    assert words in str(result.exception)
    assert not s3.asked["GET /bucket/big"]
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
