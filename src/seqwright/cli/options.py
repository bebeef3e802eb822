"""Options that several commands share, and how commands are added to the command line."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer


def add_commands(app: typer.Typer, commands: Mapping[str, Callable[..., None]]) -> None:
    """Add functions as commands, each with its whole docstring as its summary.

    Without `short_help`, a list of commands would cut the summaries to one line.
    """
    for name, command in commands.items():
        app.command(name, short_help=inspect.getdoc(command))(command)


def path_option(*names: str, help: str, standard_stream: bool = False) -> Any:  # noqa: A002, ANN401 - as typer has it
    """An option for a path that may be remote.

    Args:
        names: the option's names; by default the parameter's.
        help: what the path is.
        standard_stream: whether `-` is taken, for standard input or output; the command must then handle it.
    """
    callback = None if standard_stream else _refuse_dash
    return typer.Option(*names, metavar="PATH|URL", help=help, callback=callback)


def _refuse_dash(path: str | None) -> str | None:
    if path == "-":
        raise typer.BadParameter("- is standard input or output, which cannot be used here; for a file -, write ./-")
    return path


DeviceOption = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")]
PrecisionOption = Annotated[str, typer.Option(metavar="auto|fp32|bf16", help="Arithmetic of the matrix products.")]
ModelOption = Annotated[str, path_option(help="Model folder or model.tar.gz.")]
TimeoutOption = Annotated[
    float, typer.Option(min=1, max=1_000_000, help="Seconds that processes and hosts wait for each other.")
]
BeamSizeOption = Annotated[
    int | None, typer.Option(min=1, max=10_000, help="Hypotheses kept; the model's beam_size if not given.")
]
MaxOutputLengthOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=1_000_000, help="Tokens after which a translation is cut off; a limit by the source's if not given."
    ),
]
