"""The command `seqwright serve`."""

from typing import Annotated

import typer

from seqwright.cli.console import STDERR
from seqwright.cli.options import DeviceOption, ModelOption, PrecisionOption
from seqwright.errors import ClientError
from seqwright.interrupts import exit_on_sigterm
from seqwright.remote import LocalCopies


def serve_command(
    model: ModelOption,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Batches searched at a time; 1 on a GPU, up to 4 on a CPU if not given."),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Instances searched together.")] = 64,
    max_batch_tokens: Annotated[int, typer.Option(min=1, help="Source tokens searched together.")] = 8192,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, max=1_000_000, help="How long a batch waits at most for more requests.")
    ] = 5.0,
    backlog: Annotated[
        float,
        typer.Option(
            min=0, max=1_000_000, help="Full batches for each process that may be unanswered; more is refused."
        ),
    ] = 2.0,
    deadline: Annotated[
        float, typer.Option(min=0, max=1_000_000, help="Seconds after which an unanswered request gets an error.")
    ] = 55.0,
    allowed_hosts: Annotated[
        str | None,
        typer.Option(
            help="Names in the Host header that are answered, separated by commas; * for all. If not given: on a "
            "loopback address only its own names, on others all."
        ),
    ] = None,
) -> None:
    """Serve a model over HTTP, in the formats of the original's endpoint."""
    with exit_on_sigterm() as end_if_asked:  # the imports take seconds, in which it may come
        try:
            from seqwright.serving.limits import Limits
            from seqwright.serving.server import serve
        except ModuleNotFoundError as error:
            raise ClientError(f"{error.name} is not installed: pip install 'seqwright[serve]'") from error
        end_if_asked()

        with LocalCopies(STDERR) as copies:
            serve(
                copies.read(model),
                host=host,
                port=port,
                device=device,
                precision=precision,
                workers=workers,
                limits=Limits(
                    max_batch=max_batch,
                    max_batch_tokens=max_batch_tokens,
                    max_wait=max_wait_ms / 1000,
                    backlog=backlog,
                    deadline=deadline,
                ),
                allowed_hosts=allowed_hosts,
            )
