"""The training container's contract, on a temporary root."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from seqwright.artifacts import load_model
from seqwright.inference.translator import Translator
from seqwright.sagemaker.training import run_training
from tests.toy import SETTINGS, prepare_text, prepared, write_text

CHANNELS = ("train", "validation", "vocab")


def make_root(folder: Path, **hyperparameters: object) -> Path:
    """A root as the platform lays it out, for a job on the toy task; every hyperparameter a string."""
    root = folder / "ml"
    for name in ("input/config", "model", "output"):
        (root / name).mkdir(parents=True)
    shutil.move(prepared(folder), root / "input" / "data")
    settings = {**SETTINGS, "max_num_batches": 8, **hyperparameters}
    write_config(root, "hyperparameters", {name: str(value) for name, value in settings.items()})
    write_config(root, "inputdataconfig", {name: {"TrainingInputMode": "File"} for name in CHANNELS})
    resources = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    write_config(root, "resourceconfig", resources)
    return root


def write_config(root: Path, name: str, content: object) -> None:
    (root / "input" / "config" / f"{name}.json").write_text(json.dumps(content))


def change(root: Path, **hyperparameters: object) -> None:
    path = root / "input" / "config" / "hyperparameters.json"
    values = {**json.loads(path.read_text()), **{name: str(value) for name, value in hyperparameters.items()}}
    write_config(root, "hyperparameters", values)


def updates(root: Path) -> int:
    return int(json.loads((root / "model" / "metrics.json").read_text())["updates"])


def test_a_job_leaves_a_model_and_exits_0(tmp_path: Path) -> None:
    root = make_root(tmp_path, sagemaker_region="eu-west-1", _tuning_objective_metric="validation:perplexity")
    assert run_training(root) == 0
    assert not (root / "output" / "failure").exists()
    Translator.load(root / "model").translate(["a b c"])
    assert sorted(path.name for path in root.iterdir()) == ["input", "model", "output"]


def test_an_unknown_hyperparameter_is_written_to_failure_and_exits_2(tmp_path: Path) -> None:
    root = make_root(tmp_path, learning_rat=1)
    assert run_training(root) == 2
    failure = (root / "output" / "failure").read_text()
    assert failure.startswith("ClientError: ")
    assert "learning_rate" in failure
    assert list((root / "model").iterdir()) == []


def test_an_unexpected_error_is_written_to_failure_and_exits_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("x" * 2000)

    monkeypatch.setattr("seqwright.training.trainer.Trainer.fit", broken)
    root = make_root(tmp_path)
    assert run_training(root) == 1
    failure = (root / "output" / "failure").read_text()
    assert failure.startswith("AlgorithmError: ZeroDivisionError: xxx")
    assert len(failure) == 1024


@pytest.mark.parametrize("name", ["hyperparameters", "inputdataconfig", "resourceconfig"])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_broken_config_file_is_named(name: str, content: str | None, tmp_path: Path) -> None:
    root = make_root(tmp_path)
    path = root / "input" / "config" / f"{name}.json"
    path.unlink() if content is None else path.write_text(content)
    assert run_training(root) == 2
    assert f"{name}.json" in (root / "output" / "failure").read_text()


@pytest.mark.parametrize("name", CHANNELS)
def test_a_channel_that_the_job_does_not_have_is_named(name: str, tmp_path: Path) -> None:
    root = make_root(tmp_path)
    write_config(root, "inputdataconfig", {other: {} for other in CHANNELS if other != name})
    assert run_training(root) == 2
    assert f"no channel {name}" in (root / "output" / "failure").read_text()


HOSTS = ["127.0.0.1", "127.0.0.2"]


def make_roots(folder: Path) -> list[Path]:
    """A root for each of two hosts."""
    roots = []
    for host in HOSTS:
        (folder / host).mkdir()
        roots.append(make_root(folder / host))
        write_config(roots[-1], "resourceconfig", {"current_host": host, "hosts": HOSTS})
    return roots


def run_hosts(roots: list[Path]) -> tuple[list[int], list[str]]:
    """The exit statuses and the logs of a job on several hosts."""
    command = [sys.executable, "-m", "seqwright", "sagemaker", "train", "--root"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    jobs = [subprocess.Popen([*command, root], stderr=subprocess.PIPE, text=True, env=environment) for root in roots]
    logs = [job.communicate()[1] for job in jobs]
    return [job.returncode for job in jobs], logs


def test_hosts_train_together_and_the_first_writes(tmp_path: Path) -> None:
    roots = make_roots(tmp_path)
    statuses, logs = run_hosts(roots)
    assert statuses == [0, 0], logs
    assert "in 2 processes" in logs[0]
    assert "#quality_metric: host=127.0.0.1" in logs[0]
    assert updates(roots[0]) == 8
    assert not list((roots[1] / "model").iterdir())


def replace_pairs(count: int, channels: Path) -> str:
    """Other training pairs on the second host."""
    write_text(channels, count, seed=2)
    shutil.copy(prepare_text(channels) / "train" / "train.rec", channels / "train" / "train.rec")
    pairs = rf"host 127\.0\.0\.1 has 200 pairs .*, host 127\.0\.0\.2 has {count} pairs"
    return f"the train channel differs between hosts: {pairs}"


def swap_two_tokens(channels: Path) -> str:
    path = channels / "vocab" / "vocab.trg.json"
    tokens = json.loads(path.read_text())
    tokens["a"], tokens["b"] = tokens["b"], tokens["a"]
    path.write_text(json.dumps(tokens))
    return "the target vocabulary differs between hosts: host 127"


def remove_training_data(channels: Path) -> str:
    shutil.rmtree(channels / "train")
    return r"(host 127\.0\.0\.2: )?the channel .*127\.0\.0\.2.*/train does not exist"


@pytest.mark.parametrize(
    "change_data",
    [partial(replace_pairs, 100), partial(replace_pairs, 200), swap_two_tokens, remove_training_data],
    ids=["fewer pairs", "other words", "another vocabulary", "no data"],
)
def test_hosts_with_different_data_are_refused_on_every_host(
    change_data: Callable[[Path], str], tmp_path: Path
) -> None:
    roots = make_roots(tmp_path)
    message = change_data(roots[1] / "input" / "data")
    statuses, logs = run_hosts(roots)
    assert statuses == [2, 2], logs
    for root in roots:
        assert re.match(f"ClientError: {message}", (root / "output" / "failure").read_text())
        assert not list((root / "model").iterdir())


@pytest.mark.parametrize("name", [*CHANNELS, "model"])
def test_pipe_mode_is_refused_with_the_modes_to_use_instead(name: str, tmp_path: Path) -> None:
    root = make_root(tmp_path)
    modes = {**dict.fromkeys(CHANNELS, "File"), name: "Pipe"}
    write_config(root, "inputdataconfig", {channel: {"TrainingInputMode": mode} for channel, mode in modes.items()})
    shutil.rmtree(root / "input" / "data")  # the mode is said before anything is read
    assert run_training(root) == 2
    failure = (root / "output" / "failure").read_text()
    assert failure.startswith(f"ClientError: the channel {name} is in Pipe mode")
    assert "File or FastFile" in failure


def test_a_job_that_diverges_fails_and_leaves_no_model(tmp_path: Path) -> None:
    root = make_root(tmp_path, optimizer_type="sgd", learning_rate="1e30")
    assert run_training(root) == 1
    assert (root / "output" / "failure").read_text().startswith("AlgorithmError: training diverged")
    assert not list((root / "model").iterdir())


@pytest.mark.parametrize(
    ("objective", "sample_size", "computed"),
    [
        ("validation:bleu", None, True),
        ('"validation:bleu"', "0", True),
        ("validation:bleu", "3", True),
        ("validation:accuracy", None, False),
    ],
)
def test_bleu_is_computed_where_a_tuning_job_optimizes_it(
    objective: str, sample_size: str | None, computed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"bleu_sample_size": sample_size} if sample_size else {}
    root = make_root(tmp_path, _tuning_objective_metric=objective, **given)
    with caplog.at_level("INFO"):
        assert run_training(root) == 0
    assert ("validation bleu <score>=" in caplog.text) == computed


def test_the_log_names_the_host(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run_training(make_root(tmp_path))
    assert any(line.startswith("#quality_metric: host=algo-1, epoch=0, batch=4, ") for line in caplog.messages)


def test_the_regular_expressions_of_the_documentation_find_every_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    values: dict[str, Any] = {}
    exec(re.search(r"```python\n(LINE = .*?)```", page, re.DOTALL)[1], values)  # type: ignore[index] # noqa: S102
    with caplog.at_level("INFO"):
        run_training(make_root(tmp_path, bleu_sample_size=3))
    found = {name: re.findall(regex, caplog.text) for name, regex in values["METRICS"].items()}
    assert {name: len(scores) for name, scores in found.items()} == dict.fromkeys(values["METRICS"], 2)
    assert all(float(score) >= 0 for scores in found.values() for score in scores)


def test_a_job_that_starts_again_goes_on_from_its_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_root(tmp_path)
    (root / "checkpoints").mkdir()
    assert run_training(root) == 0
    shutil.rmtree(root / "model")
    (root / "model").mkdir()
    change(root, max_num_batches=12)
    with caplog.at_level("INFO"):
        assert run_training(root) == 0
    assert "going on after update 8, epoch 0" in caplog.messages
    assert updates(root) <= 12
    assert load_model(root / "model")


@pytest.mark.parametrize("form", ["folder", "archive", "original"])
def test_the_model_channel_is_where_training_starts(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_root(tmp_path)
    channel = root / "input" / "data" / "model"
    if form == "original":
        golden = Path(__file__).parents[1] / "golden" / "sockeye" / "rnn_lstm_fixed_1l"
        shutil.copytree(golden, channel)
        for side in ("src", "trg"):
            shutil.copy(golden / f"vocab.{side}.0.json", root / "input" / "data" / "vocab" / f"vocab.{side}.json")
        write_config(root, "hyperparameters", {"max_num_batches": "2", "batch_size": "16"})
    else:
        assert run_training(root) == 0
        shutil.move(root / "model", channel)
        (root / "model").mkdir()
        change(root, max_num_batches=2)
    if form == "archive":
        with tarfile.open(root / "model.tar.gz", "w:gz") as archive:
            archive.add(channel, ".")
        shutil.rmtree(channel)
        channel.mkdir()
        shutil.move(root / "model.tar.gz", channel)
    write_config(root, "inputdataconfig", {name: {} for name in (*CHANNELS, "model")})
    with caplog.at_level("INFO"):
        assert run_training(root) == 0, (root / "output" / "failure").read_text()
    assert updates(root) == 2
    assert "start model: 8 of 8 source words keep their parameters" in caplog.text or form == "original"
    assert "start model:" in caplog.text


@pytest.mark.parametrize("frequency", [50, 100000], ids=["validated", "not validated yet"])
def test_sigterm_in_mid_training_leaves_a_usable_model_and_exits_0(frequency: int, tmp_path: Path) -> None:
    root = make_root(tmp_path, max_num_batches=-1, max_num_epochs=100000, checkpoint_frequency_num_batches=frequency)
    (root / "checkpoints").mkdir()
    command = [
        sys.executable,
        "-c",
        "from seqwright.cli import main; main()",
        "sagemaker",
        "train",
        "--root",
        str(root),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as job:
        deadline = time.monotonic() + 120
        sign = "best/config.json" if frequency == 50 else "tensorboard/events*"
        while not list((root / "checkpoints").glob(sign)) and time.monotonic() < deadline:
            assert job.poll() is None, job.stderr and job.stderr.read()
            time.sleep(0.05)
        time.sleep(0.5)
        job.send_signal(signal.SIGTERM)
        _, log = job.communicate(timeout=60)
    assert job.returncode == 0, log
    assert "SIGTERM: stopping after this update" in log
    assert updates(root) > 0
    assert f"the model of update {updates(root)} is in" in log
    assert not (root / "output" / "failure").exists()
    Translator.load(root / "model").translate(["a b c"])


def test_a_job_that_is_stopped_as_soon_as_it_starts_again_leaves_its_best_model(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "checkpoints").mkdir()
    assert run_training(root) == 0
    before = (root / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(root / "model")
    (root / "model").mkdir()
    assert run_training(root, stop_requested=lambda: True) == 0
    assert (root / "model" / "model.safetensors").read_bytes() == before


def test_a_stop_before_anything_was_trained_leaves_no_model_and_is_no_failure(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    assert run_training(root, stop_requested=lambda: True) == 0
    assert not list((root / "model").iterdir())
    assert not (root / "output" / "failure").exists()
