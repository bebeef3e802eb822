"""`seqwright hyperparameters`."""

from typing import Annotated

import typer
from rich.console import Console

from seqwright.hyperparameters import documentation


def _names(incomplete: str) -> list[str]:
    """What a shell completes the start of a name to."""
    from seqwright.hyperparameters import Hyperparameters

    return [name for name in Hyperparameters.model_fields if name.startswith(incomplete)]


def hyperparameters_command(
    name: Annotated[
        str | None, typer.Argument(help="Explain this one; all of them if not given.", autocompletion=_names)
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print all as a page in Markdown.")] = False,
) -> None:
    """List the hyperparameters of training: defaults, valid values, tuning ranges and meanings."""
    if markdown and not name:
        print(documentation.documentation_page(), end="")
        return
    console = Console(highlight=False)
    for line in documentation.terminal_entry(name) if name else documentation.terminal_list():
        console.print(line)
