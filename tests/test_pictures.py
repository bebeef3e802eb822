"""Attention pictures: labels that can be read, and matrices that fit."""

import io
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from seqwright.errors import ClientError
from seqwright.pictures import attention_figure, attention_table, save_attention_picture

pytest.importorskip("matplotlib")

SOURCE = [
    "the",
    "transcontinental",
    "ambassadors",
    "paid",
    "$5",
    "and",
    "$6",
    "for",
    "under_score",
    "^2",
    "{x}",
    "\\alpha",
]
TARGET = ["die", "interkontinentalen", "Botschafter", "zahlten", "$5", "und", "$6", "für", "unter_strich", "^2"]


def weights(rows: int, columns: int) -> NDArray[np.float32]:
    return np.full((rows, columns), 1 / columns, dtype=np.float32)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (SOURCE, TARGET),
        (list("seqwright"), ["S", "IY", "K", "R", "AY", "T"]),
        (["w" * 300] * 4, ["v" * 300] * 3),
        (["a"], ["b"]),
    ],
)
def test_labels_do_not_overlap_and_are_within_the_picture(source: Sequence[str], target: Sequence[str]) -> None:
    figure = attention_figure(source, target, weights(len(target), len(source)))
    figure.savefig(io.BytesIO(), format="png")
    axes = figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        assert all(figure.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))
    assert axes.get_window_extent().width > 0.2 * figure.bbox.width


def test_dollar_signs_are_shown_as_they_are() -> None:
    axes = attention_figure(SOURCE, TARGET, weights(len(TARGET), len(SOURCE))).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == SOURCE
    assert not any(label.get_parse_math() for label in (*axes.get_xticklabels(), *axes.get_yticklabels()))


@pytest.mark.parametrize("token", ["$x_", "$\\frac$", "日本", "\U0001f600"])
def test_any_token_is_drawn_without_a_warning(token: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_attention_picture(str(tmp_path / "picture.png"), [token], [token], weights(1, 1))
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("shape", [(10, 11), (12, 10), (10,), (1, 10, 12)])
def test_a_matrix_that_does_not_fit_its_tokens_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    attention = np.zeros(shape, dtype=np.float32)
    with pytest.raises(ClientError, match="does not fit 10 target tokens and 12 source tokens"):
        save_attention_picture(tmp_path / "picture.png", SOURCE, TARGET, attention)
    with pytest.raises(ClientError, match="does not fit 10 target tokens and 12 source tokens"):
        attention_table(SOURCE, TARGET, attention)
    assert not list(tmp_path.iterdir())


def test_an_empty_translation_is_refused() -> None:
    for draw in (attention_figure, attention_table):
        with pytest.raises(ClientError, match="the source or its translation has no tokens"):
            draw(SOURCE, [], weights(0, len(SOURCE)))


def test_a_table_is_darker_where_attention_is_higher() -> None:
    console = Console(file=io.StringIO(), width=40)
    console.print(attention_table(["a", "b", "c"], ["x", "y"], np.array([[1, 0, 0.5], [0, 0.3, 0.7]], np.float32)))
    assert isinstance(console.file, io.StringIO)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert rows == [["a", "b", "c"], ["x", "██", "▒▒"], ["y", "░░", "▓▓"]]
