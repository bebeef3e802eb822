"""Attention matrices to look at: as a picture file and in the terminal."""

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from seqwright.errors import ClientError
from seqwright.files import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHADES = " ░▒▓█"

_COLUMN, _ROW, _CHARACTER = 0.42, 0.36, 0.09
"""Inches of a source token's column, a target token's row, and a character of a label."""
_LONGEST_LABEL = 40
"""Characters of a token that are shown; the rest becomes an ellipsis."""
_MOST_PIXELS = 40_000_000
"""A picture that would have more is drawn with fewer pixels an inch: drawing needs some ten bytes for each."""


def save_attention_picture(
    path: str | os.PathLike[str], source: Sequence[str], target: Sequence[str], attention: NDArray[np.float32]
) -> None:
    """Write a PNG heat map of attention weights, target tokens down and source tokens across.

    Args:
        path: the file to write.
        source: source tokens, S.
        target: target tokens, T.
        attention: weights, `[T, S]`.

    Raises:
        ClientError: the matrix does not fit the tokens, matplotlib is not installed, or the file cannot be written.
    """
    figure = attention_figure(source, target, attention)
    width, height = figure.get_size_inches()
    with writing(Path(path)) as stream, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")  # a box is drawn in its place
        figure.savefig(stream, format="png", dpi=min(150, math.sqrt(_MOST_PIXELS / (width * height))))


def attention_figure(source: Sequence[str], target: Sequence[str], attention: NDArray[np.float32]) -> "Figure":
    """The heat map that `save_attention_picture` writes, as a figure of matplotlib, which notebooks show.

    Args:
        source: source tokens, S.
        target: target tokens, T.
        attention: weights, `[T, S]`.

    Raises:
        ClientError: the matrix does not fit the tokens, or matplotlib is not installed.
    """
    _require_fit(source, target, attention)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ClientError("pictures need matplotlib: pip install 'seqwright[demo]'") from error
    across, down = [_shortened(token) for token in source], [_shortened(token) for token in target]
    longest_across, longest_down = max(map(len, across)), max(map(len, down))
    turned = longest_across * _CHARACTER > _COLUMN
    width = 1.5 + _COLUMN * len(source) + _CHARACTER * longest_down
    height = 1.2 + _ROW * len(target) + (_CHARACTER * longest_across if turned else 0)

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(attention, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    # Without parse_math=False, what is between two $ in a token would be set as mathematics.
    axes.set_xticks(range(len(source)), across, rotation=90 if turned else 0, parse_math=False)
    axes.set_yticks(range(len(target)), down, parse_math=False)
    axes.xaxis.tick_top()
    axes.set_xlabel("source")
    axes.xaxis.set_label_position("top")
    axes.set_ylabel("target")
    figure.colorbar(image, label="attention weight")
    return figure


def attention_table(source: Sequence[str], target: Sequence[str], attention: NDArray[np.float32]) -> Table:
    """The weights as shaded blocks for a terminal: the darker, the more of a target token's attention.

    Args:
        source: source tokens, S.
        target: target tokens, T.
        attention: weights, `[T, S]`.

    Raises:
        ClientError: the matrix does not fit the tokens.
    """
    _require_fit(source, target, attention)
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("")
    for token in source:
        table.add_column(Text(token), justify="center")
    for token, weights in zip(target, attention, strict=True):
        steps = np.minimum((weights * len(SHADES)).astype(int), len(SHADES) - 1)  # [S]
        table.add_row(Text(token), *(SHADES[step] * 2 for step in steps))
    return table


def _require_fit(source: Sequence[str], target: Sequence[str], attention: NDArray[np.float32]) -> None:
    if not source or not target:
        raise ClientError("there is no attention to show: the source or its translation has no tokens")
    if attention.shape != (len(target), len(source)):
        raise ClientError(
            f"an attention matrix of shape {list(attention.shape)} does not fit {len(target)} target tokens and "
            f"{len(source)} source tokens: give the tokens and the matrix of one translation"
        )


def _shortened(token: str) -> str:
    return token if len(token) <= _LONGEST_LABEL else f"{token[: _LONGEST_LABEL - 1]}…"
