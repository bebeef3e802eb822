"""Attention matrices to look at: as a picture file and in the terminal."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from seqwright.errors import ClientError
from seqwright.files import writing

SHADES = " ░▒▓█"


def save_attention_picture(
    path: Path, source: Sequence[str], target: Sequence[str], attention: NDArray[np.float32]
) -> None:
    """Write a PNG heat map of attention weights, target tokens down and source tokens across.

    Args:
        path: the file to write.
        source: source tokens, S.
        target: target tokens, T.
        attention: weights, `[T, S]`.

    Raises:
        ClientError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ClientError("pictures need matplotlib: pip install 'seqwright[demo]'") from error
    figure = Figure(figsize=(1.5 + 0.42 * len(source), 1.2 + 0.36 * len(target)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(attention, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(source)), source)
    axes.set_yticks(range(len(target)), target)
    axes.xaxis.tick_top()
    axes.set_xlabel("source")
    axes.xaxis.set_label_position("top")
    axes.set_ylabel("target")
    figure.colorbar(image, label="attention weight")
    with writing(path) as stream:
        figure.savefig(stream, format="png", dpi=150)


def attention_table(source: Sequence[str], target: Sequence[str], attention: NDArray[np.float32]) -> Table:
    """The weights as shaded blocks for a terminal: the darker, the more of a target token's attention.

    Args:
        source: source tokens, S.
        target: target tokens, T.
        attention: weights, `[T, S]`.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("")
    for token in source:
        table.add_column(Text(token), justify="center")
    for token, weights in zip(target, attention, strict=True):
        steps = np.minimum((weights * len(SHADES)).astype(int), len(SHADES) - 1)
        table.add_row(Text(token), *(SHADES[step] * 2 for step in steps))
    return table
