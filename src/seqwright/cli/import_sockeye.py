"""`seqwright import-sockeye`."""

import logging
from typing import Annotated

from seqwright.cli.console import STDERR
from seqwright.cli.options import path_option
from seqwright.remote import LocalCopies, redacted


def import_sockeye_command(
    source: Annotated[
        str, path_option("--input", help="Sockeye 1 model folder, or a .tar.gz of one such as the original's.")
    ],
    output: Annotated[str, path_option(help="The new model folder.")],
) -> None:
    """Turn a model of Sockeye 1, the original's engine, into a model folder."""
    from seqwright.importers.sockeye import import_sockeye

    with LocalCopies(STDERR) as copies:
        target = copies.write_folder(output)
        trained = import_sockeye(copies.read(source), target)
    parameters = sum(tensor.numel() for tensor in trained.model.parameters())
    logging.getLogger(__name__).info("imported %s parameters into %s", f"{parameters:,}", redacted(output))
