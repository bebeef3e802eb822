"""Whole training runs: what they leave, how they repeat, what they refuse."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from seqwright.artifacts import load_model
from seqwright.errors import ClientError
from seqwright.inference.evaluation import evaluate
from seqwright.inference.translator import Translator
from seqwright.training.job import Channels, train
from seqwright.training.launch import Cluster
from seqwright.training.progress import Monitor, Progress, Update
from seqwright.training.warm_start import Start
from tests.toy import SETTINGS
from tests.training.runs import assert_same_weights, weights


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


def test_the_same_seed_gives_the_same_model_bit_for_bit(channels: Channels, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_num_batches": 8, "rnn_decoder_hidden_dropout": 0.3, "embed_dropout_source": 0.2}
    for name, seed in (("first", 7), ("second", 7), ("other", 8)):
        train(channels, tmp_path / name, settings, precision="fp32", seed=seed)
    assert_same_weights(tmp_path / "first", tmp_path / "second")
    name = "output_layer.weight"
    assert not torch.equal(weights(tmp_path / "first")[name], weights(tmp_path / "other")[name])


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


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_no_generator_takes_is_refused(seed: int, channels: Channels, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=f"seed={seed} is not between 0 and"):
        train(channels, tmp_path / "model", SETTINGS, seed=seed)


def test_monitors_of_the_caller_are_told_of_every_update(channels: Channels, tmp_path: Path) -> None:
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


def test_the_model_has_the_length_ratio_of_the_training_data(channels: Channels, tmp_path: Path) -> None:
    train(channels, tmp_path / "model", {**SETTINGS, "max_num_batches": 4}, precision="fp32")
    ratio = load_model(tmp_path / "model").length_ratio
    assert (ratio.mean, ratio.std) == (1.0, 0.0)


@pytest.mark.parametrize("name", ["keep", "accumulate"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_below_one_are_refused_before_anything_is_touched(
    name: str, value: int, channels: Channels, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "max_num_batches": 4}
    train(channels, tmp_path / "model", settings, precision="fp32")
    before = sorted(tmp_path.rglob("*"))
    options: dict[str, Any] = {name: value}
    with pytest.raises(ClientError, match=f"{name}={value} is not 1 or more"):
        train(channels, tmp_path / "model", {**settings, "max_num_batches": 8}, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_paths_may_be_strings(channels: Channels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {**SETTINGS, "max_num_batches": 2}
    assert Channels.under("data") == Channels("data/train", "data/validation", "data/vocab")
    train(Channels.under("data"), "model", settings, cache="cache", checkpoints="state")
    (tmp_path / "vectors").write_text(f"a {'0.5 ' * 8}\n")
    start = Start(model="model", vectors_source="vectors")
    train(Channels.under("data"), "second", {"max_num_batches": 2}, start=start, cache="cache")
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == "" and path.is_dir()) == [
        "cache", "data", "model", "second", "state",
    ]  # fmt: skip
