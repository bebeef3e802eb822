"""Several processes that train one model: what they compute is what one computes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seqwright.data.batches import Batch
from seqwright.errors import AlgorithmError, ClientError
from seqwright.models.loss import BatchLoss, batch_loss
from seqwright.models.seq2seq import Seq2Seq
from seqwright.training import rendezvous, trainer
from seqwright.training.group import LostContactError, ProcessRank
from seqwright.training.job import Channels, train
from seqwright.training.launch import Cluster, run_processes
from seqwright.training.progress import Monitor, Progress, Update
from seqwright.training.rendezvous import join_group
from seqwright.training.warm_start import Start
from tests.toy import SETTINGS, prepared

UNBUCKETED = {"bucketing_enabled": False, "max_seq_len_source": 8, "max_seq_len_target": 8}
"""Batches all of one shape, no longer than the toy task needs."""


class Losses(Monitor):
    """Writes the loss of every update to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_update(self, progress: Progress, update: Update) -> None:
        with self._path.open("a") as stream:
            stream.write(f"{float(update.loss)!r}\n")

    def read(self) -> list[float]:
        return [float(line) for line in self._path.read_text().split()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("toy"), pairs=203)


def run(
    data: Path, output: Path, processes: int, settings: dict[str, object], start: Start | None = None
) -> tuple[Progress, list[float]]:
    losses = Losses(output.with_suffix(".losses"))
    progress = train(
        Channels.under(data),
        output,
        {**SETTINGS, **settings},
        start=start,
        precision="fp32",
        processes=processes,
        monitors=[losses],
    )
    return progress, losses.read()


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        ({}, False),
        ({"encoder_type": "cnn", "decoder_type": "cnn", "cnn_num_hidden": 16, "optimized_metric": "bleu"}, True),
        ({"rnn_attention_type": "fixed", "label_smoothing": 0.1, **UNBUCKETED}, False),
    ],
)
def test_two_processes_have_the_losses_and_parameters_of_one(
    settings: dict[str, object], frozen: bool, data: Path, tmp_path: Path
) -> None:
    settings = {"max_num_batches": 50, "checkpoint_frequency_num_batches": 25, **settings}
    (tmp_path / "vectors").write_text(f"a {'0.5 ' * 8}\n")
    start = Start(vectors_source=tmp_path / "vectors", freeze_source=True) if frozen else None
    alone, expected = run(data, tmp_path / "alone", 1, settings, start)
    both, losses = run(data, tmp_path / "both", 2, settings, start)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert both.best == pytest.approx(alone.best, rel=1e-4)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "both"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-3, rtol=1e-3)


def test_a_batch_of_fewer_pairs_than_processes_has_the_loss_of_one_process(data: Path, tmp_path: Path) -> None:
    # 203 pairs, 182 of them to train on: 60 batches of 3 and one of 2.
    settings: dict[str, object] = {"batch_size": 3, "max_num_epochs": 1, **UNBUCKETED}
    settings |= {"checkpoint_frequency_num_batches": 1000, "rnn_decoder_hidden_dropout": 0.0}
    _, expected = run(data, tmp_path / "alone", 1, settings)
    _, losses = run(data, tmp_path / "three", 3, settings)
    assert losses == pytest.approx(expected, rel=1e-4)


def stop_after(path: Path, updates: int) -> bool:
    return path.exists() and len(path.read_text().split()) >= updates


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_an_interrupted_run_goes_on_with_the_same_batches(before: int, after: int, data: Path, tmp_path: Path) -> None:
    settings: dict[str, object] = {"max_num_batches": 30, "rnn_decoder_hidden_dropout": 0.2 if before == after else 0.0}
    _, expected = run(data, tmp_path / "straight", before, settings)
    output = tmp_path / "model"
    losses = Losses(output.with_suffix(".losses"))
    call = partial(train, Channels.under(data), output, {**SETTINGS, **settings}, precision="fp32", monitors=[losses])
    stopped = call(processes=before, stop_requested=partial(stop_after, tmp_path / "model.losses", 7))
    assert 7 <= stopped.updates < 30
    call(processes=after)
    assert losses.read() == (expected if before == after else pytest.approx(expected, rel=1e-5))
    if before == after:
        assert (output / "model.safetensors").read_bytes() == (tmp_path / "straight/model.safetensors").read_bytes()


def little_room() -> None:
    """Let parts of more than three pairs not fit into memory."""

    def limited(model: Seq2Seq, batch: Batch, smoothing: float, divisor: float) -> BatchLoss:
        if batch.num_pairs > 3:
            raise torch.OutOfMemoryError("no memory left")
        return batch_loss(model, batch, smoothing, divisor)

    vars(trainer)["batch_loss"] = limited


def test_a_share_that_does_not_fit_is_split_by_all_from_the_last_checkpoint_on(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, object] = {**SETTINGS, "max_num_batches": 8, "rnn_decoder_hidden_dropout": 0.0}
    call = partial(train, Channels.under(data), hyperparameters=settings, precision="fp32", processes=2)
    call(output=tmp_path / "straight", accumulate=4)
    call(output=tmp_path / "split", set_up=little_room)
    straight, split = (tmp_path / name / "model.safetensors" for name in ("straight", "split"))
    assert straight.read_bytes() == split.read_bytes()
    assert "do not fit into the memory of process" in caplog.text
    assert "start again with --accumulate 4: doing so from the last checkpoint on" in caplog.text


def test_a_batch_smaller_than_the_number_of_processes_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="batch_size=2 cannot be divided over 3 processes"):
        run(data, tmp_path / "model", 3, {"batch_size": 2})
    assert list(tmp_path.iterdir()) == []


def fail(which: int, how: Callable[[], object], process: ProcessRank, stop_requested: Callable[[], bool]) -> Progress:
    """Exchange something again and again; one process fails on the way."""
    with join_group(process, torch.device("cpu")) as group:
        for number in range(1000):
            group.sum(number)
            if group.rank == which and number == 3:
                how()
    return Progress()


def look_at_policies(process: ProcessRank, stop_requested: Callable[[], bool]) -> Progress:
    """Complain where gloo's threads may interrupt those that compute, or these are not what they were."""
    before = os.sched_getscheduler(0)
    with join_group(process, torch.device("cpu")) as group:
        group.sum(0)
        names = {int(task.name): (task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
        gloo = {os.sched_getscheduler(number) for number, name in names.items() if "gloo" in name}
        if gloo != {os.SCHED_BATCH} or os.sched_getscheduler(0) != before:
            raise ClientError(f"gloo's threads have {gloo}, this one {os.sched_getscheduler(0)}")
    return Progress()


@pytest.mark.skipif(sys.platform != "linux", reason="there are no such policies")
def test_threads_of_gloo_do_not_interrupt_those_that_compute() -> None:
    run_processes(look_at_policies, 2, lambda: False)


def complain() -> None:
    raise ClientError("the second process has something to say")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_fails_ends_all_and_its_error_is_reported(which: int) -> None:
    with pytest.raises(ClientError, match="has something to say"):
        run_processes(partial(fail, which, complain), 2, lambda: False)


def time_out_on_cuda() -> None:
    raise RuntimeError("CUDA error: the launch timed out and was terminated")


def test_a_time_out_of_cuda_is_not_reported_as_a_lost_process() -> None:
    with pytest.raises(AlgorithmError, match="RuntimeError: CUDA error: the launch timed out") as caught:
        run_processes(partial(fail, 1, time_out_on_cuda), 2, lambda: False)
    assert not isinstance(caught.value, LostContactError)


def end_without_a_word(which: int, process: ProcessRank, stop_requested: Callable[[], bool]) -> Progress:
    """Leave the group while the others still exchange; these must notice."""
    with join_group(process, torch.device("cpu")) as group:
        for number in range(1 if group.rank == which else 1000):
            group.sum(number)
    return Progress()


@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_leaves_early_is_reported_as_lost(which: int) -> None:
    with pytest.raises(LostContactError, match="lost contact with another process of this host"):
        run_processes(partial(end_without_a_word, which), 2, lambda: False)


@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_process_ends_all_and_is_named(which: int) -> None:
    with pytest.raises(AlgorithmError, match=f"seqwright-train-{which} was ended by SIGKILL"):
        run_processes(partial(fail, which, kill), 2, lambda: False)


def test_a_first_host_whose_name_is_not_known_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    known = socket.getaddrinfo

    def look(*arguments: object, **options: object) -> object:
        asked.append(arguments)
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known("127.0.0.1", *arguments[1:], **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look)
    assert rendezvous._own_address("first", 7, time.monotonic() + 60) == "127.0.0.1"
    assert len(asked) == 3
    asked.clear()
    with pytest.raises(socket.gaierror):
        rendezvous._own_address("first", 7, time.monotonic())


def test_hosts_that_are_not_met_are_named_after_a_bounded_wait() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        cluster = Cluster(2, 1, "second", ("127.0.0.1", port), timeout=3)
        started = time.monotonic()
        with pytest.raises(ClientError, match=rf"did not meet the others at 127\.0\.0\.1:{port} within 3 seconds"):
            run_processes(partial(fail, 9, kill), 1, lambda: False, cluster)
        assert time.monotonic() - started < 60


def test_a_stop_while_others_are_waited_for_ends_at_once_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        cluster = Cluster(2, 1, "second", ("127.0.0.1", closed.getsockname()[1]), timeout=500)
        started = time.monotonic()
        channels, output = Channels.under(data), tmp_path / "model"
        progress = train(
            channels, output, SETTINGS, cluster=cluster, stop_requested=lambda: time.monotonic() > started + 1
        )
    assert progress.updates == 0
    assert time.monotonic() - started < 100
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stop_while_channels_are_decoded_leaves_no_model(processes: int, data: Path, tmp_path: Path) -> None:
    output, cache = tmp_path / "model", tmp_path / "cache"
    progress = train(
        Channels.under(data), output, SETTINGS, cache=cache, processes=processes, stop_requested=lambda: True
    )
    assert progress.updates == 0
    assert not output.exists()
    assert not list(cache.glob("*"))


def command(data: Path, output: Path, updates: int) -> list[str]:
    """`train` and its arguments."""
    settings = {**SETTINGS, "max_num_batches": updates}
    chosen = [part for name, value in settings.items() for part in ("-H", f"{name}={value}")]
    return ["train", "--data", str(data), "--output", str(output), "--precision", "fp32", *chosen]


def test_processes_of_torchrun_train_together(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "seqwright"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *command(data, model, 6)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["updates"] == 6
    assert "in 2 processes" in done.stderr
    assert (model / "model.safetensors").exists()


def test_sigterm_saves_and_exits_0(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    program = [sys.executable, "-m", "seqwright", *command(data, model, 1_000_000), "--processes", "2"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("model.checkpoints/checkpoint-*")):
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert time.monotonic() - started < 10
    updates = json.loads(out)["updates"]
    assert (tmp_path / "model.checkpoints" / f"checkpoint-{updates:09d}").exists()
    assert (model / "model.safetensors").exists()
