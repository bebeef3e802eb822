"""`seqwright train`."""

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from seqwright.cli.console import STDERR, set_up_logging
from seqwright.cli.options import DeviceOption, PrecisionOption, TimeoutOption
from seqwright.files import read_json_object
from seqwright.hyperparameters import parse_assignments
from seqwright.interrupts import stop_on_signals


def train_command(
    data: Annotated[Path, typer.Option(help="Folder with the channels train, validation and vocab.")],
    output: Annotated[Path, typer.Option(help="Model folder to write.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("-H", metavar="NAME=VALUE", help="A hyperparameter; may be given many times."),
    ] = None,
    hyperparameters: Annotated[
        Path | None, typer.Option(help="JSON object of hyperparameters; -H goes before it.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Model folder or model.tar.gz to start from: its hyperparameters and parameters."),
    ] = None,
    vectors_source: Annotated[
        Path | None,
        typer.Option(help="Word vectors that the source embedding starts from: word2vec, GloVe or fastText as text."),
    ] = None,
    vectors_target: Annotated[
        Path | None, typer.Option(help="Word vectors that the target embedding starts from.")
    ] = None,
    freeze_vectors_source: Annotated[
        bool, typer.Option("--freeze-vectors-source", help="Leave the whole source embedding as it starts.")
    ] = False,
    freeze_vectors_target: Annotated[
        bool, typer.Option("--freeze-vectors-target", help="Leave the whole target embedding as it starts.")
    ] = False,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="Folder for training state and TensorBoard files; OUTPUT.checkpoints if not given."),
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints kept, the newest; the best model always is.")] = 2,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    processes: Annotated[
        str, typer.Option(metavar="auto|N", help="Processes that train together; auto: one a GPU, or one on the CPU.")
    ] = "auto",
    timeout: TimeoutOption = 600.0,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Parts that a batch is computed in: the same gradient in less memory.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, data order and dropout.")] = 1,
) -> None:
    """Train a model; interrupted training goes on where it stopped when the same command is given again."""
    values = {
        **(read_json_object(hyperparameters) if hyperparameters else {}),
        **parse_assignments(assignments or []),
    }
    from seqwright.training.job import Channels, train
    from seqwright.training.launch import Hosts
    from seqwright.training.parallel import Place
    from seqwright.training.warm_start import Start

    with stop_on_signals(signal.SIGTERM, signal.SIGINT) as stop_requested:
        progress = train(
            Channels.under(data),
            output,
            values,
            start=Start(model, vectors_source, vectors_target, freeze_vectors_source, freeze_vectors_target),
            checkpoints=checkpoints,
            keep=keep,
            device=device,
            precision=precision,
            processes=processes,
            hosts=Hosts(timeout=timeout),
            seed=seed,
            accumulate=accumulate,
            console=STDERR,
            stop_requested=stop_requested,
            set_up=set_up_logging,
        )
    place = Place.of_torchrun()
    if place and place.rank:
        return
    print(
        json.dumps(
            {
                "model": str(output),
                "updates": progress.updates,
                "epoch": progress.epoch,
                "best": progress.best,
            }
        )
    )
