"""What commands say when something fails: one message on standard error and an exit status."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import HYPERPARAMETERS, Run
from tests.toy import prepared


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize(
    "arguments", [["--version"], ["hyperparameters", "--markdown"], ["translate", "--model", "MODEL"]]
)
def test_standard_output_on_a_full_disk_is_reported(arguments: list[str], model: Path) -> None:
    command = [sys.executable, "-m", "seqwright", *(str(model) if each == "MODEL" else each for each in arguments)]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, input="a b\n", stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert result.stderr == "ClientError: cannot write standard output: no space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_log_that_cannot_be_written_ends_nothing(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "seqwright", "train", "--data", str(model.parent / "data"), "--precision", "fp32"]
    with open("/dev/full", "w") as full:
        trained = subprocess.run(
            [*command, "--output", str(tmp_path / "model"), "-H", "max_num_batches=2", *HYPERPARAMETERS],
            stdout=subprocess.PIPE,
            stderr=full,
        )
        refused = subprocess.run([*command, "--output", str(model)], stderr=full)
    assert trained.returncode == 0
    assert json.loads(trained.stdout)["updates"] == 2
    assert refused.returncode == 2


def test_another_file_on_a_full_disk_is_not_blamed_on_standard_output(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/events")

    monkeypatch.setattr("seqwright.inference.translator.load_any_model", fail)
    result = run("translate", "--model", tmp_path)
    advice = "free some space, or name a folder on another disk"
    assert (result.status, result.err) == (2, f"ClientError: no space left on device ('/disk/events'): {advice}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["translate", "--model", "LONG"],
        ["train", "--data", "LONG", "--output", "o"],
        ["train", "--data", "d", "--output", "LONG"],
        ["train", "--data", "d", "--output", "o", "--hyperparameters", "LONG"],
        ["prepare", "--train-source", "LONG", "--train-target", "t", "--output", "o"],
        ["import-sockeye", "--input", "LONG", "--output", "o"],
        ["sagemaker", "serve", "--root", "/LONG"],
    ],
)
def test_a_path_that_is_too_long_exits_2(arguments: list[str], run: Run) -> None:
    result = run(*(each.replace("LONG", "a" * 5000) for each in arguments))
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("ClientError: ")
    assert "file name too long" in result.err
    assert result.err.count("\n") == 1


WITHOUT_THREADS = """
import threading
import seqwright.inference.bulk
import seqwright.training.job
from seqwright.cli import main
threading.stack_size(1 << 46)
main()
"""
"""The command where the system refuses every new thread, as it has no memory for its stack."""


@pytest.mark.parametrize("command", ["train", "translate"])
def test_a_refused_thread_exits_2(command: str, model: Path, tmp_path: Path) -> None:
    arguments = {
        "train": ["--data", str(model.parent / "data"), "--output", str(tmp_path / "model"), *HYPERPARAMETERS],
        "translate": ["--model", str(model), "--input", str(model.parent / "val.src")],
    }[command]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_THREADS, command, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 2, result.stderr
    assert "ClientError: the system refuses another thread: raise the limit" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--data", "-", "--output", "o"],
        ["train", "--data", "d", "--output", "-"],
        ["evaluate", "--model", "m", "--source", "-", "--target", "t"],
        ["import-sockeye", "--input", "i", "--output", "-"],
        ["prepare", "--train-source", "s", "--train-target", "t", "--output", "-"],
    ],
)
def test_a_dash_is_refused_where_there_is_no_standard_stream(
    arguments: list[str], run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert "- is standard input or output, which cannot be used here" in " ".join(result.err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("stream", "option"), [("stdin", "--input"), ("stdout", "--output")])
def test_a_closed_stream_is_reported(stream: str, option: str, model: Path) -> None:
    close = f"import sys; sys.{stream} = None; from seqwright.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", close, "translate", "--model", str(model)], input="a\n", capture_output=True, text=True
    )
    assert result.returncode == 2
    assert f"is closed: name a file with {option}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-H", "learning_rat=1"], "learning_rate"),
        (["train", "-H", "batch_size=0"], "batch_size"),
        (["train", "-H", "batch_size"], "name=value"),
        (["train", "-H", "momentum=0.9"], "momentum"),
        (["train", "-H", "rnn_num_hidden=13"], "rnn_num_hidden"),
        (["train", "--hyperparameters", "/no/such/file"], "/no/such/file"),
        (["train", "--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_a_users_mistake_exits_2_with_one_message(arguments: list[str], message: str, run: Run, tmp_path: Path) -> None:
    result = run(*arguments, "--data", prepared(tmp_path, pairs=10), "--output", tmp_path / "model")
    assert result.status == 2
    assert message in result.err
    assert result.err.startswith("ClientError: ")
    assert "Traceback" not in result.err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["train", "--data", "d", "--output", "o", "--seed", str(1 << 64)], "--seed"),
        (["train", "--data", "d", "--output", "o", "--timeout", "inf"], "--timeout"),
        (["translate", "--model", "m", "--batch-size", str(1 << 80)], "--batch-size"),
        (["translate", "--model", "m", "--beam-size", "100000"], "--beam-size"),
        (["translate", "--model", "m", "--nbest", str(1 << 80)], "--nbest"),
        (["translate", "--model", "m", "--processes", "99999"], "processes"),
        (["evaluate", "--model", "m", "--source", "s", "--target", "t", "--beam-size", "100000"], "--beam-size"),
        (["serve", "--model", "m", "--workers", "99999"], "--workers"),
        (["serve", "--model", "m", "--max-wait-ms", "inf"], "--max-wait-ms"),
        (["serve", "--model", "m", "--backlog", "nan"], "--backlog"),
        (["serve", "--model", "m", "--deadline", "inf"], "--deadline"),
    ],
)
def test_vast_values_are_refused(arguments: list[str], option: str, run: Run) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert option in result.err
    assert "Traceback" not in result.err


LIMITED = """
import resource
from pathlib import Path
import seqwright.inference.bulk
import seqwright.training.job
from seqwright.cli import main
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
main()
"""
"""The command where there is no more than a gigabyte left."""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks for its size under /proc")
def test_a_search_that_does_not_fit_into_memory_exits_2(model: Path) -> None:
    wide = ["--beam-size", "10000", "--batch-size", "20000"]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, "translate", "--model", str(model), "--device", "cpu", *wide],
        input="a b c d\n" * 20000,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 2, result.stderr
    assert "does not fit into memory: make the batch size or the beam size smaller" in result.stderr


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks for its size under /proc")
def test_a_model_that_does_not_fit_into_memory_exits_2(model: Path, tmp_path: Path) -> None:
    data = ["--data", str(model.parent / "data"), "--output", str(tmp_path / "model"), "--device", "cpu"]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, "train", *data, "-H", "num_embed_source=1000000"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 2, result.stderr
    assert "ClientError: there is not enough memory" in result.stderr
    assert not (tmp_path / "model").exists()


def test_a_model_that_is_not_there_exits_2(run: Run, tmp_path: Path) -> None:
    result = run("translate", "--model", tmp_path / "none")
    assert result.status == 2
    assert "no model at" in result.err


def test_a_fault_of_ours_exits_1_and_debug_shows_it(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr("seqwright.inference.translator.load_any_model", lambda path, device: broken(path))
    result = run("translate", "--model", tmp_path)
    assert result.status == 1
    assert result.err.startswith("AlgorithmError: ZeroDivisionError: no such luck")
    shown = run("--debug", "translate", "--model", tmp_path)
    assert shown.status == 1
    assert "Traceback (most recent call last)" in shown.err
    assert shown.err.endswith("AlgorithmError: ZeroDivisionError: no such luck\n")


def test_a_traceback_has_no_credentials(run: Run) -> None:
    result = run("--debug", "translate", "--model", "http://user:passw0rd@127.0.0.1:1/x.tar.gz?sig=topsecretkey")
    assert result.status == 2
    assert "Traceback" in result.err
    assert "passw0rd" not in result.err
    assert "topsecretkey" not in result.err


def test_an_interrupted_command_says_so_and_exits_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seqwright.inference.translator.Translator.load", interrupt)
    result = run("translate", "--model", "any")
    assert (result.status, result.err) == (130, "interrupted\n")
