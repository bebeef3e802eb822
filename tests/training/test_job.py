"""Whole training runs: what they leave, how they repeat, how they resume, what they refuse."""

import json
import logging
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqwright import locks
from seqwright.artifacts import load_model
from seqwright.errors import ClientError
from seqwright.inference.evaluation import evaluate
from seqwright.inference.translator import Translator
from seqwright.training.checkpoints import FORMAT_VERSION
from seqwright.training.job import Channels, train
from seqwright.training.launch import Cluster
from seqwright.training.progress import Monitor, Progress, Update
from tests.toy import SETTINGS, prepared


@pytest.fixture
def channels(tmp_path: Path) -> Channels:
    return Channels.under(prepared(tmp_path))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_run_leaves_a_model_checkpoints_and_event_files(channels: Channels, tmp_path: Path) -> None:
    progress = train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 10}, precision="fp32")
    assert (progress.updates, progress.checkpoints) == (10, 3)
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["perplexity"] == progress.best
    assert metrics["updates"] == progress.best_updates
    left = sorted(path.name for path in (tmp_path / "model.checkpoints").iterdir())
    assert left == ["best", "checkpoint-000000008", "checkpoint-000000010", "corpus", "run.json", "tensorboard"]
    assert list((tmp_path / "model.checkpoints" / "tensorboard").glob("events*"))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_the_model_of_the_best_checkpoint_is_kept(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 24, "learning_rate": 0.3, "clip_gradient": -1, "optimizer_type": "sgd"}
    progress = train(channels, tmp_path / "model", settings, precision="fp32")
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["perplexity"] == progress.best
    assert metrics["updates"] == progress.best_updates


def test_the_same_seed_gives_the_same_model_bit_for_bit(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 8, "rnn_decoder_hidden_dropout": 0.3, "embed_dropout_source": 0.2}
    for name, seed in (("first", 7), ("second", 7), ("other", 8)):
        train(channels, tmp_path / name, settings, precision="fp32", seed=seed)
    assert_same_weights(tmp_path / "first", tmp_path / "second")
    name = "output_layer.weight"
    assert not torch.equal(weights(tmp_path / "first")[name], weights(tmp_path / "other")[name])


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_a_resumed_run_equals_one_that_never_stopped(optimizer: str, channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "rnn_decoder_hidden_dropout": 0.3, "optimizer_type": optimizer, "checkpoint_threshold": 9}
    train(channels, tmp_path / "straight", {**settings, "max_num_batches": 20}, precision="fp32")
    for bound in (8, 16, 20):
        progress = train(channels, tmp_path / "stopped", {**settings, "max_num_batches": bound}, precision="fp32")
        assert progress.updates == bound
    assert_same_weights(tmp_path / "straight", tmp_path / "stopped")
    last = "checkpoint-000000020/state.safetensors"
    first, second = (load_file(tmp_path / f"{name}.checkpoints" / last) for name in ("straight", "stopped"))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_checkpoint_holds_the_state_of_its_update_though_the_disk_is_slow(
    channels: Channels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_slowly(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None) -> None:
        time.sleep(0.3)
        save_file(tensors, path, metadata)

    train(channels, tmp_path / "short", {**SETTINGS, "max_num_batches": 4}, precision="fp32")
    monkeypatch.setattr("seqwright.artifacts.save_file", write_slowly)
    train(channels, tmp_path / "long", {**SETTINGS, "max_num_batches": 8}, precision="fp32")
    short, long = (
        load_file(tmp_path / f"{name}.checkpoints" / "checkpoint-000000004" / "state.safetensors")
        for name in ("short", "long")
    )
    assert short.keys() == long.keys()
    assert [name for name in short if not torch.equal(short[name], long[name])] == []


def damage(checkpoint: Path, kind: str) -> None:
    """Make a checkpoint what no writer leaves."""
    state, tensors = checkpoint / "state.json", checkpoint / "state.safetensors"
    match kind:
        case "cut off":
            tensors.write_bytes(tensors.read_bytes()[:1000])
        case "zeros in the middle":
            content = tensors.read_bytes()
            middle = len(content) // 2
            tensors.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
        case "another state":
            state.write_text("{}")
        case _:
            state.unlink()


DAMAGE = ["cut off", "zeros in the middle", "another state", "no state"]


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    kind: str, channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SETTINGS, "max_num_batches": 8}
    train(channels, tmp_path / "straight", {**settings, "max_num_batches": 12}, precision="fp32")
    train(channels, tmp_path / "model", settings, precision="fp32")
    checkpoints = tmp_path / "model.checkpoints"
    damage(checkpoints / "checkpoint-000000008", kind)
    with caplog.at_level(logging.WARNING):
        train(channels, tmp_path / "model", {**settings, "max_num_batches": 12}, precision="fp32")
    assert "checkpoint-000000008 is damaged" in caplog.text
    assert_same_weights(tmp_path / "straight", tmp_path / "model")
    assert sorted(each.name for each in checkpoints.glob("checkpoint-*")) == [
        "checkpoint-000000008",
        "checkpoint-000000012",
    ]


def test_without_a_whole_checkpoint_nothing_is_begun_anew(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 8}
    train(channels, tmp_path / "model", settings, precision="fp32")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    for checkpoint in (tmp_path / "model.checkpoints").glob("checkpoint-*"):
        damage(checkpoint, "cut off")
    with pytest.raises(ClientError, match=r"no checkpoint in .* is whole"):
        train(channels, tmp_path / "model", {**settings, "max_num_batches": 12}, precision="fp32")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_a_checkpoint_of_another_version_is_refused(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    state = tmp_path / "model.checkpoints" / "checkpoint-000000004" / "state.json"
    state.write_text(state.read_text().replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 9'))
    with pytest.raises(ClientError, match="another version of seqwright, whose format is 9"):
        train(channels, tmp_path / "model", settings, precision="fp32")


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


def test_what_a_resumed_run_may_change_is_in_its_models_config(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    train(channels, tmp_path / "model", {**settings, "max_num_batches": 12, "beam_size": 3}, precision="fp32")
    assert load_model(tmp_path / "model").settings.beam_size == 3


def test_what_kills_left_is_removed(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    checkpoints = tmp_path / "model.checkpoints"
    files = [tmp_path / "model" / ".model.safetensors.x.tmp", checkpoints / "best" / ".metrics.json.x.tmp"]
    for file in files:
        file.write_bytes(b"half")
    folders = [tmp_path / ".model.x.tmp", checkpoints / ".best.x.tmp", checkpoints / ".checkpoint-000000008.x.tmp"]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "model" / "config.json").unlink()  # as where a folder was filled in place
    train(channels, tmp_path / "model", {**settings, "max_num_batches": 8}, precision="fp32")
    assert not [each for each in (*files, *folders) if each.exists()]
    load_model(tmp_path / "model")


def test_a_checkpoint_that_stands_is_not_written_again(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    state = tmp_path / "model.checkpoints" / "checkpoint-000000004" / "state.safetensors"
    before = state.stat().st_ino
    train(
        channels,
        tmp_path / "model",
        {**settings, "max_num_batches": 8},
        precision="fp32",
        stop_requested=lambda: True,
    )
    assert state.stat().st_ino == before


def test_another_runs_checkpoints_are_refused_by_what_differs(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    with pytest.raises(ClientError, match=r"differs in learning_rate \(was 0.01, is 0.5\), seed \(was 1, is 2\)"):
        train(channels, tmp_path / "model", {**settings, "learning_rate": 0.5}, precision="fp32", seed=2)
    (channels.train / "more.rec").write_bytes((channels.validation / "val.rec").read_bytes())
    with pytest.raises(ClientError, match="differs in train channel"):
        train(channels, tmp_path / "model", settings, precision="fp32")


def test_quality_metric_lines_follow_the_contract(
    channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        settings = {**SETTINGS, "max_num_batches": 4, "bleu_sample_size": 3}
        train(channels, tmp_path / "model", settings, precision="fp32", cluster=Cluster(host_name="algo-1"))
    lines = [line for line in caplog.messages if line.startswith("#quality_metric")]
    pattern = r"#quality_metric: host=algo-1, epoch=0, batch=4, (train|validation) (\w+) <score>=([\d.e+-]+)"
    found = [re.fullmatch(pattern, line) for line in lines]
    assert [match and match.group(1, 2) for match in found] == [
        ("train", "perplexity"),
        ("validation", "perplexity"),
        ("validation", "accuracy"),
        ("validation", "bleu"),
    ]


def test_bleu_is_computed_when_it_is_optimized(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 4, "optimized_metric": "bleu"}
    progress = train(channels, tmp_path / "model", settings, precision="fp32")
    assert progress.best is not None
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["bleu"] == progress.best


def test_bleu_is_against_whole_references_as_in_evaluate(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_seq_len_target": 5, "max_num_batches": 300, "checkpoint_frequency_num_batches": 300}
    score = train(channels, tmp_path / "model", {**settings, "optimized_metric": "bleu"}, precision="fp32").best
    translator = Translator.load(tmp_path / "model", "cpu", "fp32")
    assert score == evaluate(translator, tmp_path / "val.src", tmp_path / "val.trg")["bleu"]


def test_bf16_trains_with_fp32_master_weights(channels: Channels, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        train(channels, tmp_path / precision, {**SETTINGS, "max_num_batches": 8}, precision=precision)
    a, b = weights(tmp_path / "fp32"), weights(tmp_path / "bf16")
    assert {tensor.dtype for tensor in b.values()} == {torch.float32}
    scores = [json.loads((tmp_path / p / "metrics.json").read_text())["perplexity"] for p in ("fp32", "bf16")]
    assert scores[1] == pytest.approx(scores[0], rel=0.05)
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_an_output_folder_with_something_else_in_it_is_refused(channels: Channels, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work")
    with pytest.raises(ClientError, match="already exists and is not empty"):
        train(channels, tmp_path / "model", SETTINGS)
    assert not (tmp_path / "model.checkpoints").exists()


def test_a_model_lost_between_runs_comes_back_from_the_checkpoints(channels: Channels, tmp_path: Path) -> None:
    train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 4})
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 4})
    assert_same_weights(tmp_path / "model", tmp_path / "elsewhere")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", ["model", "model.checkpoints/best"])
def test_a_best_model_that_a_disk_damaged_comes_from_its_other_place(
    damaged: str, channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 8}, precision="fp32")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    flip_a_bit(tmp_path / damaged / "model.safetensors")
    train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 8}, precision="fp32")
    assert f"{damaged}/model.safetensors is damaged" in caplog.text
    for folder in (tmp_path / "model", tmp_path / "model.checkpoints" / "best"):
        assert (folder / "model.safetensors").read_bytes() == before


def test_a_best_model_that_is_nowhere_whole_comes_from_its_checkpoint_or_not_at_all(
    channels: Channels, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "optimized_metric": "accuracy", "learning_rate": 1e-9}  # the first score stays the best
    best = tmp_path / "model.checkpoints" / "best"
    train(channels, tmp_path / "model", {**settings, "max_num_batches": 8}, precision="fp32")
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "model")
    flip_a_bit(best / "model.safetensors")
    train(channels, tmp_path / "model", {**settings, "max_num_batches": 12}, precision="fp32")
    for folder in (best, tmp_path / "model"):
        assert (folder / "model.safetensors").read_bytes() == before
        found = json.loads((folder / "metrics.json").read_text())
        assert found == {name: metrics[name] for name in ("updates", "epoch", "accuracy")}
    shutil.rmtree(tmp_path / "model")
    flip_a_bit(best / "model.safetensors")  # and checkpoint 4 is not kept
    with pytest.raises(ClientError, match=r"model, of update 4, is lost \(.*best/model\.safetensors is damaged"):
        train(channels, tmp_path / "model", {**settings, "max_num_batches": 12}, precision="fp32")
    assert not (tmp_path / "model").exists()


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


def test_a_run_json_of_another_program_is_told_as_such(channels: Channels, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "run.json").write_text('{"name": "an experiment"}')
    with pytest.raises(ClientError, match=r"state/run\.json is not of a run of seqwright"):
        train(channels, tmp_path / "model", SETTINGS, checkpoints=tmp_path / "state", precision="fp32")


class Stop(Monitor):
    """Asks to stop from an update on: at 8 and 12, before their validation."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.reached = False

    def on_update(self, progress: Progress, update: Update) -> None:
        self.reached = progress.updates >= self.at

    def __call__(self) -> bool:
        return self.reached


def test_an_interrupted_run_leaves_a_model_and_goes_on_as_if_it_had_not_stopped(
    channels: Channels, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "rnn_decoder_hidden_dropout": 0.3, "max_num_batches": 12}
    straight = train(channels, tmp_path / "straight", settings, precision="fp32")
    for stop_at in (2, 7, 8, 12):
        stop = Stop(stop_at)
        progress = train(channels, tmp_path / "model", settings, precision="fp32", stop_requested=stop, monitors=[stop])
        assert progress.updates == stop_at
        assert progress.checkpoint_updates == {2: 0, 7: 4, 8: 4, 12: 8}[stop_at]
        assert load_model(tmp_path / "model")
    progress = train(channels, tmp_path / "model", settings, precision="fp32")
    assert progress == straight
    assert_same_weights(tmp_path / "straight", tmp_path / "model")


def test_a_run_that_is_stopped_before_its_first_update_leaves_its_state_and_no_model(
    channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "straight", settings, precision="fp32")
    begun = tmp_path / "model.checkpoints" / "run.json"
    for _ in range(2):
        with caplog.at_level(logging.INFO):
            progress = train(channels, tmp_path / "model", settings, precision="fp32", stop_requested=begun.exists)
        assert (progress.updates, progress.has_model) == (0, False)
        assert "there is no model yet" in caplog.messages[-1]
        assert not (tmp_path / "model").exists()
    train(channels, tmp_path / "model", settings, precision="fp32")
    assert_same_weights(tmp_path / "straight", tmp_path / "model")


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_no_generator_takes_is_refused(seed: int, channels: Channels, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=f"seed={seed} is not between 0 and"):
        train(channels, tmp_path / "model", SETTINGS, seed=seed)


def test_a_stop_in_bleu_ends_the_validation(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "optimized_metric": "bleu", "max_num_batches": 8}
    straight = train(channels, tmp_path / "straight", settings, precision="fp32")
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 9  # 4 updates and their validation's batch come before

    progress = train(channels, tmp_path / "model", settings, precision="fp32", stop_requested=stop)
    assert (progress.updates, progress.checkpoint_updates) == (4, 0)
    assert train(channels, tmp_path / "model", settings, precision="fp32") == straight
    assert_same_weights(tmp_path / "straight", tmp_path / "model")


def test_monitors_of_ones_own_watch_too(channels: Channels, tmp_path: Path) -> None:
    class Counter(Monitor):
        pairs = 0

        def on_update(self, progress: Progress, update: Update) -> None:
            self.pairs += update.pairs

    counter = Counter()
    train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 3}, monitors=[counter])
    assert 0 < counter.pairs <= 3 * 16


@pytest.mark.parametrize("name", ["train", "validation", "vocab"])
def test_a_missing_channel_is_named(name: str, channels: Channels, tmp_path: Path) -> None:
    folder: Path = getattr(channels, name)
    folder.rename(tmp_path / "moved")
    with pytest.raises(ClientError, match=re.escape(str(folder))):
        train(channels, tmp_path / "model", SETTINGS)
    assert not (tmp_path / "model").exists()


def test_training_text_is_bounded_in_translation_by_its_length_ratio(channels: Channels, tmp_path: Path) -> None:
    train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 4}, precision="fp32")
    ratio = load_model(tmp_path / "model").length_ratio
    assert (ratio.mean, ratio.std) == (1.0, 0.0)


def test_bleu_of_a_model_that_diverged_is_no_number(channels: Channels, tmp_path: Path) -> None:
    settings = {
        **SETTINGS,
        "encoder_type": "cnn",
        "decoder_type": "cnn",
        "optimizer_type": "sgd",
        "learning_rate": 1e18,
    }
    wanted = {"optimized_metric": "bleu", "max_num_batches": 4, "checkpoint_frequency_num_batches": 2}
    progress = train(channels, tmp_path / "model", {**settings, **wanted}, precision="fp32")
    assert progress.best is None
    assert progress.updates == 4


def test_copies_that_a_user_made_of_a_checkpoint_are_left_alone(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "checkpoint_frequency_num_batches": 2}
    state = tmp_path / "model.checkpoints"
    train(channels, tmp_path / "model", {**settings, "max_num_batches": 4}, precision="fp32")
    for name in ("checkpoint-good", "checkpoint-000000004.bak"):
        shutil.copytree(state / "checkpoint-000000004", state / name)
    for updates in (8, 10):
        progress = train(channels, tmp_path / "model", {**settings, "max_num_batches": updates}, precision="fp32")
        assert progress.updates == updates
    names = sorted(path.name for path in state.glob("checkpoint-*"))
    assert names == ["checkpoint-000000004.bak", "checkpoint-000000008", "checkpoint-000000010", "checkpoint-good"]


def test_what_another_program_left_is_refused_and_kept(channels: Channels, tmp_path: Path) -> None:
    best = tmp_path / "model.checkpoints" / "best"
    best.mkdir(parents=True)
    for name in ("model.safetensors", "metrics.json", "note"):
        (best / name).write_text("precious")
    with pytest.raises(ClientError, match=r"no run\.json: it is not of a run of seqwright"):
        train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 2}, precision="fp32")
    assert sorted(path.name for path in best.iterdir()) == ["metrics.json", "model.safetensors", "note"]
