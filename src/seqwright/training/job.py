"""A whole training run: channels in, a model folder out."""

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
from seqwright.devices import choose_device, choose_precision
from seqwright.files import explained, require_absent
from seqwright.hyperparameters import Hyperparameters
from seqwright.models.seq2seq import build_model, initialize_model
from seqwright.training.checkpoints import (
    MAY_CHANGE,
    BestModelWriter,
    CheckpointStore,
    Identity,
    existing_checkpoints,
    restore_best,
)
from seqwright.training.monitors import LogLines, PlainProgress, ProgressBar, TensorBoard
from seqwright.training.optimizers import build_optimizer
from seqwright.training.progress import Monitor, Progress
from seqwright.training.schedules import build_schedule
from seqwright.training.trainer import Trainer
from seqwright.training.validation import validator
from seqwright.training.warm_start import Origin, Start, begin, freeze, open_start, settle

logger = logging.getLogger(__name__)


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
    cache: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 1,
    accumulate: int = 1,
    host: str = "localhost",
    console: Console | None = None,
    monitors: Sequence[Monitor] = (),
    stop_requested: Callable[[], bool] = lambda: False,
) -> Progress:
    """Train a model and leave the best one in `output`; where `checkpoints` holds this run's, go on from there.

    Args:
        channels: the data.
        output: the model folder to write.
        hyperparameters: their values, or a mapping to parse; what is not given is as in the start model, if any.
        start: a model or word vectors to start from, and embeddings to leave as they start.
        checkpoints: where training state and TensorBoard files go; `<output>.checkpoints` if not given.
        cache: where decoded channels are kept for the next run; in `checkpoints` if not given.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`.
        seed: of initialisation, data order and dropout; the same seed gives the same model on the same machine.
        accumulate: parts that a batch is computed in, for the same gradient in less memory.
        host: the name that log lines carry.
        console: a terminal for the progress bar; plain log lines without one.
        monitors: what else watches training.
        stop_requested: asked after every update; once it says yes, the run saves its state and returns.

    Returns:
        How far training came, the best score included.

    Raises:
        ClientError: the data, a hyperparameter, the start, the device or a folder is at fault.
    """
    start = start or Start()
    origin = open_start(start)
    settings = settle(origin, hyperparameters)
    checkpoints = checkpoints or output.with_name(output.name + ".checkpoints")
    if not existing_checkpoints(checkpoints):
        require_absent(output)
    with explained(f"cannot write {checkpoints}"):
        checkpoints.mkdir(parents=True, exist_ok=True)
    chosen = choose_device(device)
    arithmetic = choose_precision(precision, chosen)

    data = _read(channels, settings, seed, origin.source_eos, cache or checkpoints / "corpus")
    torch.manual_seed(seed)
    model = build_model(settings, len(data.source_vocabulary), len(data.target_vocabulary))
    initialize_model(model, settings, seed)
    freeze(model, start)
    trained = TrainedModel(
        model.to(chosen),
        settings,
        data.source_vocabulary,
        data.target_vocabulary,
        length_ratio(data.train),
        origin.source_eos,
    )
    logger.info(
        "%d training pairs, %d validation pairs, vocabularies of %d and %d, %.2f million parameters, %s on %s",
        len(data.train), len(data.validation), len(data.source_vocabulary), len(data.target_vocabulary),
        sum(p.numel() for p in model.parameters()) / 1e6, arithmetic, chosen,
    )  # fmt: skip

    trainer = Trainer(
        model,
        build_optimizer(settings, [parameter for parameter in model.parameters() if parameter.requires_grad]),
        build_schedule(settings),
        settings,
        validator(trained, data.validation, data.validation_batches, chosen, arithmetic),
        arithmetic,
        accumulate=accumulate,
    )
    store = CheckpointStore(checkpoints, trainer, _identity(settings, data, origin, seed, arithmetic))
    if not store.restore():
        begin(model, origin, settings, data.source_vocabulary, data.target_vocabulary)
    else:
        restore_best(checkpoints, output)
    watching: list[Monitor] = [
        BestModelWriter(checkpoints, output, trained),
        store,
        TensorBoard(checkpoints / "tensorboard"),
        LogLines(host),
        *monitors,
    ]
    bar = ProgressBar(console, settings, data.batches.batches_per_epoch) if console and console.is_terminal else None
    try:
        trainer.fit(data.batches, [*watching, bar or PlainProgress()], stop_requested)
    finally:
        if bar:
            bar.close()
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


def _read(channels: Channels, settings: Hyperparameters, seed: int, source_eos: bool, cache: Path) -> _Data:
    source_vocabulary, target_vocabulary = load_vocabularies(channels.vocab)
    train_corpus, validation_corpus = (
        load_channel(
            folder,
            source_vocab_size=len(source_vocabulary),
            target_vocab_size=len(target_vocabulary),
            cache=cache,
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
    free = MAY_CHANGE - {"max_num_batches"} if settings.lr_cooldown_num_batches else MAY_CHANGE
    values = {name: value for name, value in settings.to_json_dict().items() if name not in free}
    digests = {"train channel": data.train.digest, "validation channel": data.validation.digest, **origin.digests}
    for name, vocabulary in (("source", data.source_vocabulary), ("target", data.target_vocabulary)):
        digests[f"{name} vocabulary"] = hashlib.sha256("\n".join(vocabulary.tokens).encode()).hexdigest()
    return Identity(values, digests, seed, precision)
