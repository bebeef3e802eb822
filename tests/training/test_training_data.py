"""The data of a run: what is cut is said."""

import logging
from pathlib import Path

import numpy as np
import pytest

from seqwright.training.job import Channels, train
from tests.toy import SETTINGS


def lines(path: Path) -> list[int]:
    return [len(line.split()) for line in path.read_text().splitlines()]


def test_pairs_longer_than_the_maximum_are_counted_once_per_channel(
    channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SETTINGS, "max_num_batches": 8, "max_seq_len_source": 2, "max_seq_len_target": 4}
    with caplog.at_level(logging.WARNING):
        train(channels, tmp_path / "model", settings, precision="fp32")
    expected = []
    for channel, name in (("train", "train"), ("validation", "val")):
        lengths = np.array(lines(tmp_path / f"{name}.src"))  # both sides of the toy task are of one length
        source, target = int((lengths > 2).sum()), int((lengths > 4).sum())
        expected.append(
            f"{channel} channel: {source} of {len(lengths)} pairs ({100 * source / len(lengths):.1f} %) are longer "
            f"than the maximum and are cut: {source} by max_seq_len_source=2 and {target} by max_seq_len_target=4"
        )
    assert caplog.messages == expected


def test_pairs_within_the_maximum_are_not_mentioned(
    channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**SETTINGS, "max_num_batches": 4, "max_seq_len_source": 6, "max_seq_len_target": 6}
    with caplog.at_level(logging.WARNING):
        train(channels, tmp_path / "model", settings, precision="fp32")
    assert caplog.messages == []
