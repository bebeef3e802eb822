"""The folders of a run: refused where another run or program uses them, and locked."""

import shutil
from pathlib import Path

import pytest

from seqwright import locks
from seqwright.artifacts import load_model
from seqwright.errors import ClientError
from seqwright.training.job import Channels, train
from seqwright.training.progress import Monitor, Progress, Update
from tests.toy import SETTINGS


def test_a_run_that_left_no_checkpoint_yet_is_not_continued_by_another(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    shutil.rmtree(tmp_path / "model.checkpoints" / "checkpoint-000000004")
    with pytest.raises(ClientError, match=r"differs in rnn_num_hidden \(was 16, is 32\)"):
        train(channels, tmp_path / "model", {**settings, "rnn_num_hidden": 32}, precision="fp32")
    train(channels, tmp_path / "model", settings, precision="fp32")


def test_another_runs_model_is_not_overwritten(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "first", settings, precision="fp32")
    train(channels, tmp_path / "other", {**settings, "learning_rate": 0.02}, precision="fp32")
    before = (tmp_path / "other" / "model.safetensors").read_bytes()
    with pytest.raises(ClientError, match="other holds another model, which differs in learning_rate"):
        train(
            channels,
            tmp_path / "other",
            {**settings, "max_num_batches": 8},
            checkpoints=tmp_path / "first.checkpoints",
            precision="fp32",
        )
    assert (tmp_path / "other" / "model.safetensors").read_bytes() == before


def test_half_written_files_of_a_killed_run_are_removed(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    checkpoints = tmp_path / "model.checkpoints"
    files = [tmp_path / "model" / ".model.safetensors.x.tmp", checkpoints / "best" / ".metrics.json.x.tmp"]
    for file in files:
        file.write_bytes(b"half")
    folders = [tmp_path / ".model.x.tmp", checkpoints / ".best.x.tmp", checkpoints / ".checkpoint-000000008.x.tmp"]
    folders.append(checkpoints / ".checkpoint-000000001.old.tmp")
    for folder in folders:
        folder.mkdir()
    (tmp_path / "model" / "config.json").unlink()  # as where a folder was filled in place
    train(channels, tmp_path / "model", {**settings, "max_num_batches": 8}, precision="fp32")
    assert not [each for each in (*files, *folders) if each.exists()]
    load_model(tmp_path / "model")


def test_another_runs_checkpoints_are_refused_by_what_differs(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    with pytest.raises(ClientError, match=r"differs in learning_rate \(was 0.01, is 0.5\), seed \(was 1, is 2\)"):
        train(channels, tmp_path / "model", {**settings, "learning_rate": 0.5}, precision="fp32", seed=2)
    (channels.train / "more.rec").write_bytes((channels.validation / "val.rec").read_bytes())
    with pytest.raises(ClientError, match="differs in train channel"):
        train(channels, tmp_path / "model", settings, precision="fp32")


def test_an_output_folder_with_something_else_in_it_is_refused(channels: Channels, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work")
    with pytest.raises(ClientError, match="already exists and is not empty"):
        train(channels, tmp_path / "model", SETTINGS)
    assert not (tmp_path / "model.checkpoints").exists()


@pytest.mark.parametrize("shared", ["checkpoints", "model"])
def test_a_second_run_on_the_same_folders_is_refused_while_the_first_lives(
    shared: str, channels: Channels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", 0.2)
    settings = {**SETTINGS, "max_num_batches": 4}
    others = {"checkpoints": tmp_path / "other", "model": tmp_path / "another"} | {shared: tmp_path / shared}

    class Second(Monitor):
        asked = 0

        def on_update(self, progress: Progress, update: Update) -> None:
            self.asked += 1
            with pytest.raises(ClientError, match=f"another run is writing to {tmp_path / shared}"):
                train(channels, others["model"], settings, checkpoints=others["checkpoints"], precision="fp32")

    second = Second()
    own = tmp_path / "checkpoints"
    train(channels, tmp_path / "model", settings, checkpoints=own, precision="fp32", monitors=[second])
    assert second.asked == 4
    train(channels, tmp_path / "model", {**settings, "max_num_batches": 8}, checkpoints=own, precision="fp32")
    assert not [path for path in (*tmp_path.iterdir(), *own.iterdir()) if path.suffix == ".lock"]


@pytest.mark.parametrize(
    ("output", "checkpoints", "message"),
    [
        ("model", "model", "checkpoints cannot be in the model folder"),
        ("model", "model/state", "checkpoints cannot be in the model folder"),
        ("state/best", "state", "best is where .*state has files of its own"),
        ("state/checkpoint-2/model", "state", "model is where .*state has files of its own"),
        ("model", "data", "data is a folder of the training data: name another --checkpoints"),
        ("model", "data/train", "train is a folder of the training data"),
        ("model", "link/train/state", "state is a folder of the training data"),
        ("data/vocab/model", "state", "model is a folder of the training data: name another --output"),
    ],
)
def test_folders_in_each_others_way_are_refused_before_anything_is_written(
    output: str, checkpoints: str, message: str, channels: Channels, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("data")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ClientError, match=message):
        train(channels, tmp_path / output, {**SETTINGS, "max_num_batches": 1}, checkpoints=tmp_path / checkpoints)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("output", "checkpoints"), [("run/model", "run"), ("data/model", "data/state")])
def test_folders_of_a_run_may_lie_in_one(output: str, checkpoints: str, channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 2}
    for _ in range(2):
        train(channels, tmp_path / output, settings, checkpoints=tmp_path / checkpoints, precision="fp32")
    load_model(tmp_path / output)


def test_a_run_json_of_another_program_is_refused(channels: Channels, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "run.json").write_text('{"name": "an experiment"}')
    with pytest.raises(ClientError, match=r"state/run\.json is not of a run of seqwright"):
        train(channels, tmp_path / "model", SETTINGS, checkpoints=tmp_path / "state", precision="fp32")


def test_a_folder_of_another_program_is_refused_and_kept(channels: Channels, tmp_path: Path) -> None:
    best = tmp_path / "model.checkpoints" / "best"
    best.mkdir(parents=True)
    for name in ("model.safetensors", "metrics.json", "note"):
        (best / name).write_text("precious")
    with pytest.raises(ClientError, match=r"no run\.json: it is not of a run of seqwright"):
        train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 2}, precision="fp32")
    assert sorted(path.name for path in best.iterdir()) == ["metrics.json", "model.safetensors", "note"]
