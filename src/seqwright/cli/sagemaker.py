"""`seqwright sagemaker train` and `seqwright sagemaker serve`: the commands of the container."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from seqwright.cli.console import set_up_logging
from seqwright.cli.options import TimeoutOption, add_commands
from seqwright.errors import ClientError
from seqwright.interrupts import exit_on_sigterm, stop_on_signals
from seqwright.remote import require_local

sagemaker_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Train or serve under Amazon SageMaker's container contract."
)

RootOption = Annotated[Path, typer.Option(help="Where the platform's files are.")]


def train_command(
    root: RootOption = Path("/opt/ml"),
    timeout: TimeoutOption = 600.0,
) -> None:
    """Run a training job; on failure ROOT/output/failure says why."""
    require_local(root)
    with stop_on_signals(signal.SIGTERM) as stop_requested:  # the imports take seconds, in which it may come
        from seqwright.sagemaker.training import run_training

        raise typer.Exit(run_training(root, set_up_logging, timeout, stop_requested))


def serve_command(
    root: RootOption = Path("/opt/ml"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104 - as the contract has it
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Serve the model in ROOT/model, one of the original's engine included, until SIGTERM."""
    require_local(root)
    with exit_on_sigterm() as end_if_asked:  # the imports take seconds, in which it may come
        from seqwright.sagemaker.contract import Paths

        try:
            from seqwright.serving.server import serve
        except ModuleNotFoundError as error:
            raise ClientError(f"{error.name} is not installed: pip install 'seqwright[serve]'") from error
        end_if_asked()

        serve(Paths(root).model, host=host, port=port)


add_commands(sagemaker_app, {"train": train_command, "serve": serve_command})
