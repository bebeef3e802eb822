"""Options that several commands share."""

from typing import Annotated, Any

import typer


def path_option(*names: str, help: str) -> Any:  # noqa: A002, ANN401 - as typer has it
    """An option for a path that may be remote."""
    return typer.Option(*names, metavar="PATH|URL", help=help)


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
