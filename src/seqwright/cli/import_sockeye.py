"""`seqwright import-sockeye`."""

import logging
from pathlib import Path
from typing import Annotated

import typer


def import_sockeye_command(
    source: Annotated[
        Path, typer.Option("--input", help="Sockeye 1 model folder, or a .tar.gz of one such as the original's.")
    ],
    output: Annotated[Path, typer.Option(help="The new model folder.")],
) -> None:
    """Turn a model of Sockeye 1, the original's engine, into a model folder."""
    from seqwright.importers.sockeye import import_sockeye

    trained = import_sockeye(source, output)
    parameters = sum(tensor.numel() for tensor in trained.model.parameters())
    logging.getLogger(__name__).info("imported %s parameters into %s", f"{parameters:,}", output)
