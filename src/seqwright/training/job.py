"""A whole training run: channels in, a model folder out."""

import contextlib
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from seqwright.artifacts import LengthRatio, TrainedModel
from seqwright.data.batches import Batches
from seqwright.data.corpus import ParallelCorpus, load_channel, load_vocabularies
from seqwright.data.vocabulary import Vocabulary
from seqwright.devices import choose_device, choose_precision, keep_freed_memory, process_count
from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters
from seqwright.interrupts import StopRequested
from seqwright.models.seq2seq import build_model, initialize_model
from seqwright.training.best_model import BestModelWriter, restore_best
from seqwright.training.checkpoints import CheckpointStore
from seqwright.training.claims import CORPUS, MAY_CHANGE, TENSORBOARD, Identity, claim, held
from seqwright.training.launch import Hosts, run_processes
from seqwright.training.monitors import LogLines, PlainProgress, ProgressBar, TensorBoard
from seqwright.training.optimizers import build_optimizer
from seqwright.training.parallel import Group, Place, joined
from seqwright.training.progress import Monitor, Progress
from seqwright.training.schedules import build_schedule
from seqwright.training.trainer import NoRoomError, Trainer
from seqwright.training.validation import validator
from seqwright.training.warm_start import Origin, Start, begin, freeze, open_start, settle

logger = logging.getLogger(__name__)

SetUp = Callable[[], Console | None]
"""Sets up a process, its logging above all, and gives its `console`; a function that can be imported by name."""

Saved = Callable[[Callable[[], bool]], None]
"""Told that a checkpoint is on disk, and how to ask whether to stop."""


@dataclass(frozen=True)
class Channels:
    """The three data channels, each a folder."""

    train: Path
    validation: Path
    vocab: Path

    @classmethod
    def under(cls, folder: Path) -> "Channels":
        """The channels as `prepare` lays them out."""
        return cls(folder / "train", folder / "validation", folder / "vocab")


def train(
    channels: Channels,
    output: Path,
    hyperparameters: Hyperparameters | Mapping[str, object],
    *,
    start: Start | None = None,
    checkpoints: Path | None = None,
    keep: int = 2,
    cache: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    processes: int | str = "auto",
    hosts: Hosts | None = None,
    seed: int = 1,
    accumulate: int = 1,
    console: Console | None = None,
    monitors: Sequence[Monitor] = (),
    stop_requested: Callable[[], bool] = lambda: False,
    saved: Saved | None = None,
    set_up: SetUp | None = None,
) -> Progress:
    """Train a model and leave the best one in `output`; where `checkpoints` holds this run's, go on from there.

    Several processes train together, with the result of one: those that this function starts, on as many hosts as call
    it at the same time, or those that `torchrun` started, each of which calls it.

    Args:
        channels: the data.
        output: the model folder to write.
        hyperparameters: their values, or a mapping to parse; what is not given is as in the start model, if any.
        start: a model or word vectors to start from, and embeddings to leave as they start.
        checkpoints: where training state and TensorBoard files go; `<output>.checkpoints` if not given.
        keep: checkpoints kept, the newest; the best model is always kept.
        cache: where decoded channels are kept for the next run; in `checkpoints` if not given.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`.
        processes: how many train together on this host; `auto` for one a GPU, or one on the CPU. A script that asks
            for several must guard its main part with `if __name__ == "__main__"`.
        hosts: the hosts, where there are others.
        seed: of initialisation, data order and dropout; the same seed and number of processes give the same model on
            the same machine.
        accumulate: parts that a batch is computed in, for the same gradient in less memory.
        console: a terminal for the progress bar; plain log lines without one.
        monitors: what else watches training; with several processes, copies in the first of them.
        stop_requested: asked while channels are decoded and others are waited for, and at every update; once it says
            yes, the run saves its state and returns.
        saved: called whenever a checkpoint is on disk, while training goes on, with how to ask whether to stop; with
            several processes a function that can be imported by name.
        set_up: called first in every process that this one starts.

    Returns:
        How far training came, the best score included.

    Raises:
        ClientError: the data, a hyperparameter, the start, the device or a folder is at fault, or other processes were
            not met.
        LostContactError: another process ended or cannot be reached.
    """
    if not 0 <= seed < 1 << 63:
        raise ClientError(f"seed={seed} is not between 0 and 2^63 - 1")
    hosts = hosts or Hosts()
    run = _Run(
        channels=channels,
        output=output,
        hyperparameters=hyperparameters,
        start=start or Start(),
        checkpoints=checkpoints or output.with_name(output.name + ".checkpoints"),
        keep=keep,
        cache=cache,
        device=device,
        precision=precision,
        seed=seed,
        accumulate=accumulate,
        host=hosts.name,
        monitors=tuple(monitors),
        saved=saved or _nothing,
    )
    if place := Place.of_torchrun(hosts.timeout):
        return _train_at(run, place, stop_requested, console)
    count = process_count(str(processes), device)
    if count * hosts.count == 1:
        return _train_at(run, None, stop_requested, console)
    while True:
        try:
            return run_processes(functools.partial(_train_apart, run, set_up), count, stop_requested, hosts)
        except NoRoomError as error:
            if hosts.count > 1:
                raise
            logger.warning("%s: doing so from the last checkpoint on", error)
            run = dataclasses.replace(run, accumulate=error.accumulate)


@dataclass(frozen=True)
class _Run:
    """What `train` was asked for, as every process must know it."""

    channels: Channels
    output: Path
    hyperparameters: Hyperparameters | Mapping[str, object]
    start: Start
    checkpoints: Path
    keep: int
    cache: Path | None
    device: str
    precision: str
    seed: int
    accumulate: int
    host: str
    monitors: tuple[Monitor, ...]
    saved: Saved


def _nothing(stop_requested: Callable[[], bool]) -> None:
    """What is done besides when a checkpoint is on disk."""


def _train_apart(run: _Run, set_up: SetUp | None, place: Place, stop_requested: Callable[[], bool]) -> Progress:
    """Train in a process that `train` started."""
    console = set_up() if set_up else None
    if place.rank:
        logging.getLogger("seqwright").setLevel(logging.WARNING)
    return _train_at(run, place, stop_requested, console)


def _train_at(run: _Run, place: Place | None, stop_requested: Callable[[], bool], console: Console | None) -> Progress:
    """Train with the processes at `place`."""
    keep_freed_memory()
    device = choose_device(run.device, place.local_rank if place else None)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    try:
        with joined(place, device, stop_requested) as group:
            return _train(run, group, stop_requested, console if group.leads else None)
    except StopRequested:
        logger.info("nothing was trained: give the same command again")
        return Progress()


def _train(run: _Run, group: Group, stop_requested: Callable[[], bool], console: Console | None) -> Progress:
    origin = open_start(run.start)
    settings = settle(origin, run.hyperparameters)
    if settings.batch_size < group.size:
        raise ClientError(
            f"batch_size={settings.batch_size} cannot be divided over {group.size} processes: it is the size of the "
            "whole batch; make it larger, or the processes fewer"
        )
    channels = dataclasses.astuple(run.channels)
    with held(run.checkpoints, run.output, channels) if group.leads else contextlib.nullcontext():
        return _train_settled(run, group, origin, settings, stop_requested, console)


def _train_settled(
    run: _Run,
    group: Group,
    origin: Origin,
    settings: Hyperparameters,
    stop_requested: Callable[[], bool],
    console: Console | None,
) -> Progress:
    """Train with these hyperparameters, in folders that are the run's alone."""
    arithmetic = choose_precision(run.precision, group.device)

    data = None
    for is_my_turn in group.take_turns():  # the first of a host to read a channel leaves it decoded for the others
        if is_my_turn:
            with contextlib.suppress(StopRequested):
                cache = run.cache or run.checkpoints / CORPUS
                data = _read(run.channels, settings, run.seed, origin.source_eos, cache, stop_requested)
    [gave_up] = group.sum(data is None)
    if data is None or gave_up:
        raise StopRequested
    torch.manual_seed(run.seed + group.rank)
    model = build_model(settings, len(data.source_vocabulary), len(data.target_vocabulary))
    initialize_model(model, settings, run.seed)
    freeze(model, run.start)
    trained = TrainedModel(
        model.to(group.device),
        settings,
        data.source_vocabulary,
        data.target_vocabulary,
        length_ratio(data.train),
        origin.source_eos,
    )
    logger.info(
        "%d training pairs, %d validation pairs, vocabularies of %d and %d, %.2f million parameters, %s on %s%s",
        len(data.train), len(data.validation), len(data.source_vocabulary), len(data.target_vocabulary),
        sum(p.numel() for p in model.parameters()) / 1e6, arithmetic, group.device,
        f" in {group.size} processes" if group.size > 1 else "",
    )  # fmt: skip

    trainer = Trainer(
        model,
        build_optimizer(settings, {name: each for name, each in model.named_parameters() if each.requires_grad}),
        build_schedule(settings),
        settings,
        validator(trained, data.validation, data.validation_batches, group.device, arithmetic, group),
        arithmetic,
        accumulate=run.accumulate,
        group=group,
    )
    identity = _identity(settings, data, origin, run.seed, arithmetic)
    if group.leads:
        claim(run.checkpoints, run.output, identity, trained)
    saved = functools.partial(run.saved, stop_requested)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(
            contextlib.closing(CheckpointStore(run.checkpoints, trainer, identity, run.keep, saved))
        )
        if not store.restore():
            begin(model, origin, settings, data.source_vocabulary, data.target_vocabulary)
        if group.leads:
            restore_best(run.checkpoints, run.output, trained, trainer.progress)
        watching: list[Monitor] = [store]
        if group.leads:
            watching = [
                BestModelWriter(run.checkpoints, run.output, trained),
                store,
                TensorBoard(run.checkpoints / TENSORBOARD),
                LogLines(run.host),
                *run.monitors,
            ]
            if console and console.is_terminal:
                bar = ProgressBar(console, settings, data.batches.batches_per_epoch)
                watching.append(stack.enter_context(contextlib.closing(bar)))
            else:
                watching.append(PlainProgress())
        trainer.fit(data.batches, watching, stop_requested)
    return trainer.progress


@dataclass(frozen=True)
class _Data:
    """What the channels hold, ready to train on."""

    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    train: ParallelCorpus
    validation: ParallelCorpus
    batches: Batches
    validation_batches: Batches


def _read(
    channels: Channels,
    settings: Hyperparameters,
    seed: int,
    source_eos: bool,
    cache: Path,
    stop_requested: Callable[[], bool],
) -> _Data:
    source_vocabulary, target_vocabulary = load_vocabularies(channels.vocab)
    train_corpus, validation_corpus = (
        load_channel(
            folder,
            source_vocab_size=len(source_vocabulary),
            target_vocab_size=len(target_vocabulary),
            cache=cache,
            stop_requested=stop_requested,
        )
        for folder in (channels.train, channels.validation)
    )
    return _Data(
        source_vocabulary,
        target_vocabulary,
        train_corpus,
        validation_corpus,
        _batches(train_corpus, settings, seed, source_eos),
        _batches(validation_corpus, settings, seed, source_eos),
    )


def _batches(corpus: ParallelCorpus, settings: Hyperparameters, seed: int, source_eos: bool) -> Batches:
    return Batches(
        corpus,
        batch_size=settings.batch_size,
        max_source_length=settings.max_seq_len_source,
        max_target_length=settings.max_seq_len_target,
        bucket_width=settings.bucket_width,
        bucketing=settings.bucketing_enabled,
        seed=seed,
        source_eos=source_eos,
    )


def length_ratio(corpus: ParallelCorpus) -> LengthRatio:
    """Mean and standard deviation of target length over source length in `corpus`."""
    ratios = corpus.target.lengths / corpus.source.lengths
    return LengthRatio(mean=float(np.mean(ratios)), std=float(np.std(ratios)))


def _identity(settings: Hyperparameters, data: _Data, origin: Origin, seed: int, precision: str) -> Identity:
    free = MAY_CHANGE
    if settings.lr_cooldown_num_batches:
        free = free - {"max_num_batches"}
    if settings.optimized_metric == "bleu":  # it decides what is best, and is not the same of other translations
        free = free - {"bleu_sample_size", "beam_size"}
    values = {name: value for name, value in settings.to_json_dict().items() if name not in free}
    digests = {"train channel": data.train.digest, "validation channel": data.validation.digest, **origin.digests}
    for name, vocabulary in (("source", data.source_vocabulary), ("target", data.target_vocabulary)):
        digests[f"{name} vocabulary"] = hashlib.sha256("\n".join(vocabulary.tokens).encode()).hexdigest()
    return Identity(values, digests, seed, precision)
