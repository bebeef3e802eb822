"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DeviceOption = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")]
PrecisionOption = Annotated[str, typer.Option(metavar="auto|fp32|bf16", help="Arithmetic of the matrix products.")]
ModelOption = Annotated[Path, typer.Option(help="Model folder or model.tar.gz.")]
TimeoutOption = Annotated[float, typer.Option(min=1, help="Seconds that processes and hosts wait for each other.")]
