"""`seqwright demo`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from seqwright.cli.console import STDERR
from seqwright.remote import require_local


def demo_command(
    output: Annotated[Path, typer.Option(help="Folder for the demo's text, data, model and picture.")] = Path("demo"),
) -> None:
    """Train a model that pronounces English words, and show what it can do: about ten minutes on two cores."""
    require_local(output)
    from seqwright.demo import run_demo

    run_demo(output, Console(), STDERR)
