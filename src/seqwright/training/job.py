"""A whole training run: channels in, a model folder out."""

import contextlib
import dataclasses
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from seqwright.artifacts import TrainedModel
from seqwright.console import STDERR, can_show_bars, log_to, set_up_logging
from seqwright.devices import Precision, choose_device, choose_precision, keep_freed_memory, process_count
from seqwright.errors import AlgorithmError, ClientError
from seqwright.hyperparameters import Hyperparameters
from seqwright.interrupts import StopRequested, stop_on_signals
from seqwright.models.seq2seq import build_model, initialize_model
from seqwright.training.best_model import BestModelWriter, restore_best_model
from seqwright.training.checkpoints import CheckpointStore
from seqwright.training.data import TrainingData, read_data
from seqwright.training.group import Group, ProcessRank
from seqwright.training.launch import Cluster, run_processes
from seqwright.training.monitors import Isolated, LogLines, PlainProgress, ProgressBar
from seqwright.training.optimizers import build_optimizer
from seqwright.training.progress import Monitor, Progress
from seqwright.training.rendezvous import join_group
from seqwright.training.run_folders import (
    CORPUS,
    MAY_CHANGE,
    TENSORBOARD,
    RunFingerprint,
    lock_run_folders,
    open_run_folders,
)
from seqwright.training.schedules import build_schedule
from seqwright.training.tensorboard import TensorBoard
from seqwright.training.trainer import INTERRUPTED, ShareTooLargeError, Trainer
from seqwright.training.validation import validator
from seqwright.training.warm_start import (
    Start,
    WarmStart,
    apply_warm_start,
    freeze_embeddings,
    load_warm_start,
    resolve_hyperparameters,
)

logger = logging.getLogger(__name__)

StrPath = str | os.PathLike[str]

SetUp = Callable[[], Console | None]
"""Sets up a new process, above all its logging, and returns its `console`; a function that can be imported by name."""

OnSaved = Callable[[Callable[[], bool]], None]
"""Called when a checkpoint is on disk; its argument says whether to stop."""


@dataclass(frozen=True, init=False)
class Channels:
    """The folders of the three data channels.

    Attributes:
        train: RecordIO files of the pairs to train on.
        validation: RecordIO files of the pairs to validate on.
        vocab: `vocab.src.json` and `vocab.trg.json`.
    """

    train: Path
    validation: Path
    vocab: Path

    def __init__(self, train: StrPath, validation: StrPath, vocab: StrPath) -> None:
        for name, folder in (("train", train), ("validation", validation), ("vocab", vocab)):
            object.__setattr__(self, name, Path(folder))

    @classmethod
    def under(cls, folder: StrPath) -> "Channels":
        """The channels in a folder that `prepare` wrote."""
        return cls(Path(folder) / "train", Path(folder) / "validation", Path(folder) / "vocab")


@dataclass(frozen=True)
class Run:
    """What `train` was asked for, as every process must know it; the attributes are the arguments of `train`."""

    channels: Channels
    output: Path
    hyperparameters: Hyperparameters | Mapping[str, object]
    start: Start
    checkpoints: Path
    keep: int
    cache: Path
    device: str
    precision: str
    seed: int
    accumulate: int
    host_name: str
    monitors: tuple[Monitor, ...]
    on_saved: OnSaved | None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 63:
            raise ClientError(f"seed={self.seed} is not between 0 and 2^63 - 1")
        if self.keep < 1:
            raise ClientError(f"keep={self.keep} is not 1 or more: without a checkpoint a run cannot go on")
        if self.accumulate < 1:
            raise ClientError(f"accumulate={self.accumulate} is not 1 or more: a batch is computed in so many parts")


def train(
    channels: Channels | StrPath,
    output: StrPath,
    hyperparameters: Hyperparameters | Mapping[str, object] | None = None,
    *,
    start: Start | None = None,
    checkpoints: StrPath | None = None,
    keep: int = 2,
    cache: StrPath | None = None,
    device: str = "auto",
    precision: str = "auto",
    processes: int | str = "auto",
    cluster: Cluster | None = None,
    seed: int = 1,
    accumulate: int = 1,
    console: Console | None = STDERR,
    monitors: Sequence[Monitor] = (),
    stop_requested: Callable[[], bool] | None = None,
    on_saved: OnSaved | None = None,
    set_up: SetUp | None = None,
) -> Progress:
    """Train a model and leave the best one in `output`. If `checkpoints` holds checkpoints of this run, it goes on.

    Several processes train together, with the result of one: those that this function starts, on as many hosts as call
    it at the same time, or those that `torchrun` started, each of which calls it.

    Ctrl-C and the stop button of a notebook end training after the current update: the state is saved, and
    `KeyboardInterrupt` raised. The same call goes on from there.

    Args:
        channels: the data, or the folder that `prepare` wrote.
        output: the model folder to write.
        hyperparameters: their values, or a mapping to parse; others are those of the start model, or the defaults.
        start: a model or word vectors to start from, and embeddings to freeze.
        checkpoints: the folder for training state and TensorBoard files; `<output>.checkpoints` if not given.
        keep: how many of the newest checkpoints are kept. The best model is always kept.
        cache: the folder for decoded channels, kept for the next run; in `checkpoints` if not given.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`.
        processes: how many train together on this host; `auto` for one per GPU, or one on the CPU. A script that asks
            for several must guard its main part with `if __name__ == "__main__"`.
        cluster: the hosts, if there are several.
        seed: of initialisation, data order and dropout; the same seed and number of processes give the same model on
            the same machine.
        accumulate: parts that a batch is computed in, for the same gradient in less memory.
        console: where progress goes, standard error by default: a bar on a terminal and in a notebook, else log lines.
            Log lines go to the program's own handlers if it has set up logging. None for neither bar nor log lines.
        monitors: others that watch training; with several processes, copies of them in the first process. What they
            raise ends training.
        stop_requested: asked before every update, and while channels are decoded and others are waited for. When it
            returns True, the run saves its state and returns. If it is given, Ctrl-C is not caught.
        on_saved: called in a thread when a checkpoint is on disk, while training goes on, with a function that says
            whether to stop; with several processes a function that can be imported by name.
        set_up: called first in every process that this one starts.

    Returns:
        How far training came, the best score included.

    Raises:
        ClientError: the data, a hyperparameter, the start, the device or a folder is at fault, or other processes were
            not met.
        AlgorithmError: training diverged: no validation had a finite score.
        LostContactError: another process ended or cannot be reached.
        KeyboardInterrupt: training was interrupted, and its state is saved.
    """
    cluster, output = cluster or Cluster(), Path(output)
    checkpoints = Path(checkpoints) if checkpoints else output.with_name(output.name + ".checkpoints")
    run = Run(
        channels=channels if isinstance(channels, Channels) else Channels.under(channels),
        output=output,
        hyperparameters=hyperparameters or {},
        start=start or Start(),
        checkpoints=checkpoints,
        keep=keep,
        cache=Path(cache) if cache else checkpoints / CORPUS,
        device=device,
        precision=precision,
        seed=seed,
        accumulate=accumulate,
        host_name=cluster.host_name,
        monitors=tuple(monitors),
        on_saved=on_saved,
    )
    if set_up is None and console is not None:
        set_up = set_up_logging
    with log_to(console), _stop_on_interrupt(stop_requested) as stop:
        if process_rank := ProcessRank.from_torchrun(cluster.timeout):
            return _train_in_this_process(run, process_rank, stop, console)
        count = process_count(str(processes), device)
        if count * cluster.num_hosts == 1:
            return _train_in_this_process(run, None, stop, console)
        return _train_in_new_processes(run, count, cluster, stop, set_up)


@contextlib.contextmanager
def _stop_on_interrupt(stop_requested: Callable[[], bool] | None) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether to stop: the given one, or one that notes SIGINT.

    In the latter case `KeyboardInterrupt` is raised at the end of the block if there was a SIGINT. A program that
    handles SIGINT itself keeps its handler.
    """
    is_handled_here = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if stop_requested or not is_handled_here:
        yield stop_requested or (lambda: False)
        return
    with stop_on_signals(signal.SIGINT) as interrupted:
        yield interrupted
    if interrupted():
        logger.warning("interrupted: the state is saved, and the same call goes on from there")
        raise KeyboardInterrupt


def _train_in_new_processes(
    run: Run, count: int, cluster: Cluster, stop_requested: Callable[[], bool], set_up: SetUp | None
) -> Progress:
    """Train in `count` new processes; on a single host anew, in smaller parts, if a batch does not fit into memory."""
    while True:
        try:
            return run_processes(functools.partial(_main_of_process, run, set_up), count, stop_requested, cluster)
        except ShareTooLargeError as error:
            if cluster.num_hosts > 1:
                raise
            logger.warning("%s: doing so from the last checkpoint on", error)
            run = dataclasses.replace(run, accumulate=error.accumulate)


def _main_of_process(
    run: Run, set_up: SetUp | None, process_rank: ProcessRank, stop_requested: Callable[[], bool]
) -> Progress:
    """Train in a process that `train` started."""
    console = set_up() if set_up else None
    if process_rank.rank:
        logging.getLogger("seqwright").setLevel(logging.ERROR)  # the first process warns for all
    return _train_in_this_process(run, process_rank, stop_requested, console)


def _train_in_this_process(
    run: Run, process_rank: ProcessRank | None, stop_requested: Callable[[], bool], console: Console | None
) -> Progress:
    """Meet the other processes, settle the hyperparameters, lock the folders, and train."""
    keep_freed_memory()
    device = choose_device(run.device, process_rank.local_rank if process_rank else None)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    try:
        with join_group(process_rank, device, stop_requested) as group, contextlib.ExitStack() as stack:
            warm_start = load_warm_start(run.start)
            settings = resolve_hyperparameters(warm_start, run.hyperparameters)
            if settings.batch_size < group.size:
                raise ClientError(
                    f"batch_size={settings.batch_size} cannot be divided over {group.size} processes: it is the size "
                    "of the whole batch; make it larger, or the processes fewer"
                )
            if group.is_main:
                stack.enter_context(lock_run_folders(run.checkpoints, run.output, dataclasses.astuple(run.channels)))
            return _train(run, group, warm_start, settings, stop_requested, console)
    except StopRequested:
        logger.info("nothing was trained: give the same command again")
        return Progress()


def _train(
    run: Run,
    group: Group,
    warm_start: WarmStart,
    settings: Hyperparameters,
    stop_requested: Callable[[], bool],
    console: Console | None,
) -> Progress:
    """Read the data, build model and trainer, restore what an interrupted run left, and train to the end."""
    precision = choose_precision(run.precision, group.device)
    folders = dataclasses.astuple(run.channels)
    data = read_data(
        folders, settings, run.seed, warm_start.source_eos, run.cache, group, run.host_name, stop_requested
    )
    trained = _build_model(run, settings, data, warm_start, group)
    trainer = _build_trainer(run, trained, data, precision, group)
    fingerprint = _fingerprint(run, settings, data, warm_start, precision)
    if group.is_main:
        _log_sizes(data, trained, precision, group)
        open_run_folders(run.checkpoints, run.output, fingerprint, trained)
    on_saved = functools.partial(run.on_saved, stop_requested) if run.on_saved else lambda: None
    store = CheckpointStore(run.checkpoints, trainer, fingerprint, run.keep, on_saved)
    with contextlib.closing(store), contextlib.ExitStack() as stack:
        if not store.restore():
            apply_warm_start(trained.model, warm_start, settings, data.source_vocabulary, data.target_vocabulary)
        monitors: list[Monitor] = [store]
        if group.is_main:
            restore_best_model(run.checkpoints, run.output, trained, trainer.progress)
            best = BestModelWriter(run.checkpoints, run.output, trained)
            monitors = [best, store, *_display_monitors(run, console, data, settings, stack), *run.monitors]
        reason = trainer.fit(data.batches, monitors, stop_requested)
    if trainer.progress.has_diverged and reason != INTERRUPTED:
        raise AlgorithmError(
            f"training diverged: {settings.optimized_metric} was not finite at any checkpoint, so there is no model. "
            f"Lower learning_rate={settings.learning_rate:g}, or look at the data"
        )
    return trainer.progress


def _build_model(
    run: Run, settings: Hyperparameters, data: TrainingData, warm_start: WarmStart, group: Group
) -> TrainedModel:
    """The model with its initial parameters, on its device."""
    torch.manual_seed(run.seed + group.rank)  # dropout differs between processes
    model = build_model(settings, len(data.source_vocabulary), len(data.target_vocabulary))
    initialize_model(model, settings, run.seed)
    freeze_embeddings(model, run.start)
    return TrainedModel(
        model.to(group.device),
        settings,
        data.source_vocabulary,
        data.target_vocabulary,
        data.length_ratio,
        warm_start.source_eos,
    )


def _build_trainer(run: Run, trained: TrainedModel, data: TrainingData, precision: Precision, group: Group) -> Trainer:
    model, settings = trained.model, trained.settings
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return Trainer(
        model,
        build_optimizer(settings, trainable),
        build_schedule(settings),
        settings,
        validator(trained, data.validation, data.validation_batches, group.device, precision, group),
        precision,
        accumulate=run.accumulate,
        group=group,
    )


def _fingerprint(
    run: Run, settings: Hyperparameters, data: TrainingData, warm_start: WarmStart, precision: str
) -> RunFingerprint:
    may_change = MAY_CHANGE
    if settings.lr_cooldown_num_batches:  # the learning rate then depends on the last update
        may_change = may_change - {"max_num_batches"}
    if settings.optimized_metric == "bleu":  # then these decide which model is the best
        may_change = may_change - {"bleu_sample_size", "beam_size"}
    values = {name: value for name, value in settings.to_json_dict().items() if name not in may_change}
    return RunFingerprint(values, {**data.digests, **warm_start.digests}, run.seed, precision)


def _display_monitors(
    run: Run,
    console: Console | None,
    data: TrainingData,
    settings: Hyperparameters,
    stack: contextlib.ExitStack,
) -> list[Monitor]:
    """What shows training to the user; the progress bar is removed when `stack` is closed."""
    monitors: list[Monitor] = [Isolated(TensorBoard(run.checkpoints / TENSORBOARD)), LogLines(run.host_name)]
    if console is None or not can_show_bars(console):
        return [*monitors, PlainProgress()]
    bar = stack.enter_context(contextlib.closing(ProgressBar(console, settings, data.batches.batches_per_epoch)))
    return [*monitors, Isolated(bar)]


def _log_sizes(data: TrainingData, trained: TrainedModel, precision: str, group: Group) -> None:
    logger.info(
        "%d training pairs, %d validation pairs, vocabularies of %d and %d, %.2f million parameters, %s on %s%s",
        len(data.train), len(data.validation), len(data.source_vocabulary), len(data.target_vocabulary),
        sum(parameter.numel() for parameter in trained.model.parameters()) / 1e6, precision, group.device,
        f" in {group.size} processes" if group.size > 1 else "",
    )  # fmt: skip
