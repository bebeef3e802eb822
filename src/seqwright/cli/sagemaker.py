"""`seqwright sagemaker train` and `seqwright sagemaker serve`: the commands of the container."""

from pathlib import Path
from typing import Annotated

import typer

sagemaker_app = typer.Typer(no_args_is_help=True, help="Train or serve under Amazon SageMaker's container contract.")

RootOption = Annotated[Path, typer.Option(help="Where the platform's files are.")]


@sagemaker_app.command("train")
def train_command(root: RootOption = Path("/opt/ml")) -> None:
    """Run a training job; on failure ROOT/output/failure says why."""
    from seqwright.sagemaker.training import run_training

    raise typer.Exit(run_training(root))
