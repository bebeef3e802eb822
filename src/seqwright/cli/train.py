"""`seqwright train`."""

import contextlib
import functools
import json
from typing import Annotated

import typer

from seqwright.cli.console import STDERR, set_up_logging
from seqwright.cli.options import DeviceOption, PrecisionOption, TimeoutOption, path_option
from seqwright.files import read_json_object
from seqwright.hyperparameters import parse_assignments
from seqwright.interrupts import STOP_SIGNALS, StopRequested, stop_on_signals
from seqwright.remote import LocalCopies, add_suffix, join, redacted, try_to_push


def train_command(
    data: Annotated[str, path_option(help="Folder with the channels train, validation and vocab.")],
    output: Annotated[str, path_option(help="Model folder to write.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "-H",
            metavar="NAME=VALUE",
            help="A hyperparameter, of those that `seqwright hyperparameters` lists; may be given many times.",
        ),
    ] = None,
    hyperparameters: Annotated[str | None, path_option(help="JSON object of hyperparameters; -H overrides it.")] = None,
    model: Annotated[
        str | None,
        path_option(help="Model folder or model.tar.gz to start from: its hyperparameters and parameters."),
    ] = None,
    vectors_source: Annotated[
        str | None,
        path_option(help="Word vectors that the source embedding starts from: word2vec, GloVe or fastText as text."),
    ] = None,
    vectors_target: Annotated[
        str | None, path_option(help="Word vectors that the target embedding starts from.")
    ] = None,
    freeze_vectors_source: Annotated[
        bool, typer.Option("--freeze-vectors-source", help="Leave the whole source embedding as it starts.")
    ] = False,
    freeze_vectors_target: Annotated[
        bool, typer.Option("--freeze-vectors-target", help="Leave the whole target embedding as it starts.")
    ] = False,
    checkpoints: Annotated[
        str | None,
        path_option(help="Folder for training state and TensorBoard files; OUTPUT.checkpoints if not given."),
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
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of initialisation, data order and dropout.")
    ] = 1,
) -> None:
    """Train a model; interrupted training goes on where it stopped when the same command is given again."""
    with contextlib.suppress(StopRequested), stop_on_signals(*STOP_SIGNALS) as stop_requested:
        from seqwright.training.group import ProcessRank
        from seqwright.training.job import Channels, train
        from seqwright.training.launch import Cluster
        from seqwright.training.run_folders import has_begun
        from seqwright.training.warm_start import Start

        process_rank = ProcessRank.from_torchrun()
        is_main = process_rank is None or process_rank.rank == 0
        checkpoints = checkpoints or add_suffix(output, ".checkpoints")
        with LocalCopies(STDERR, is_main, stop_requested) as copies:
            state = copies.mirror(checkpoints)
            model_folder = copies.write_folder(output, may_exist=has_begun(state))
            given = copies.read_if_given(hyperparameters)
            values = {**(read_json_object(given) if given else {}), **parse_assignments(assignments or [])}
            channels = Channels(*(copies.read(join(data, name)) for name in ("train", "validation", "vocab")))
            start = Start(
                copies.read_if_given(model),
                copies.read_if_given(vectors_source),
                copies.read_if_given(vectors_target),
                freeze_vectors_source,
                freeze_vectors_target,
            )
            progress = train(
                channels,
                model_folder,
                values,
                start=start,
                checkpoints=state,
                keep=keep,
                device=device,
                precision=precision,
                processes=processes,
                cluster=Cluster(timeout=timeout),
                seed=seed,
                accumulate=accumulate,
                console=STDERR,
                stop_requested=stop_requested,
                on_saved=functools.partial(try_to_push, checkpoints),
                set_up=set_up_logging,
            )
        if not is_main:
            return
        print(
            json.dumps(
                {
                    "model": redacted(output) if progress.has_model else None,
                    "updates": progress.updates,
                    "epoch": progress.epoch,
                    "best": progress.best,
                }
            )
        )
