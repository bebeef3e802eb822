"""The data of a training run: the channels, read, checked and cut into batches."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqwright.artifacts import LengthRatio
from seqwright.data.batches import Batches
from seqwright.data.corpus import ParallelCorpus, load_channel, load_vocabularies
from seqwright.data.vocabulary import Vocabulary
from seqwright.errors import ClientError, SeqwrightError
from seqwright.hyperparameters import Hyperparameters
from seqwright.interrupts import StopRequested
from seqwright.training.group import Group

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """The content of the channels.

    Attributes:
        source_vocabulary: source tokens and ids.
        target_vocabulary: target tokens and ids.
        train: the pairs to train on.
        validation: the pairs to validate on.
        batches: `train` in batches.
        validation_batches: `validation` in batches.
    """

    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    train: ParallelCorpus
    validation: ParallelCorpus
    batches: Batches
    validation_batches: Batches

    @property
    def length_ratio(self) -> LengthRatio:
        """Mean and standard deviation of target length over source length in the pairs to train on."""
        ratios = self.train.target.lengths / self.train.source.lengths
        return LengthRatio(mean=float(np.mean(ratios)), std=float(np.std(ratios)))

    @property
    def digests(self) -> dict[str, str]:
        """What identifies each channel and vocabulary, by names for messages."""
        digests = {"train channel": self.train.digest, "validation channel": self.validation.digest}
        for name, vocabulary in (("source", self.source_vocabulary), ("target", self.target_vocabulary)):
            digests[f"{name} vocabulary"] = hashlib.sha256("\n".join(vocabulary.tokens).encode()).hexdigest()
        return digests


def read_data(
    folders: tuple[Path, Path, Path],
    settings: Hyperparameters,
    seed: int,
    source_eos: bool,
    cache: Path,
    group: Group,
    host: str,
    stop_requested: Callable[[], bool],
) -> TrainingData:
    """Read the channels in every process, and check that all have the same data.

    Args:
        folders: the train, validation and vocab channels.
        settings: hyperparameters.
        seed: the random order of training depends on it.
        source_eos: whether EOS ends source sequences.
        cache: the folder for decoded channels.
        group: the processes that train together.
        host: the name of this process's host.
        stop_requested: asked while files are decoded.

    Raises:
        StopRequested: a process was asked to stop; nothing is left.
        ClientError: a channel is missing or at fault, on any host, or differs between hosts; all hosts raise it.
    """
    data: TrainingData | None = None
    error: SeqwrightError | None = None
    for is_my_turn in group.local_main_first():  # the first process of a host decodes the channels for the others
        if is_my_turn:
            try:
                data = _read(folders, settings, seed, source_eos, cache, stop_requested)
            except StopRequested:
                pass
            except SeqwrightError as failure:
                error = failure
    report = _Report(host, str(error or ""), _describe(data, settings, seed) if data else {})
    reports = [_Report(*json.loads(each)) for each in group.gather(json.dumps(report).encode())]
    if error:
        raise error
    for other in reports:
        if other.error:
            raise ClientError(f"host {other.host}: {other.error}")
    if data is None or not all(other.facts for other in reports):
        raise StopRequested
    _require_same(reports)
    if group.is_main:
        for name, corpus in (("train", data.train), ("validation", data.validation)):
            _warn_of_cut_pairs(name, corpus, settings)
    return data


def _read(
    folders: tuple[Path, Path, Path],
    settings: Hyperparameters,
    seed: int,
    source_eos: bool,
    cache: Path,
    stop_requested: Callable[[], bool],
) -> TrainingData:
    train_folder, validation_folder, vocab_folder = folders
    source_vocabulary, target_vocabulary = load_vocabularies(vocab_folder)
    train, validation = (
        load_channel(
            folder,
            source_vocab_size=len(source_vocabulary),
            target_vocab_size=len(target_vocabulary),
            cache=cache,
            stop_requested=stop_requested,
        )
        for folder in (train_folder, validation_folder)
    )
    batches, validation_batches = (
        Batches(
            corpus,
            batch_size=settings.batch_size,
            max_source_length=settings.max_seq_len_source,
            max_target_length=settings.max_seq_len_target,
            bucket_width=settings.bucket_width,
            bucketing=settings.bucketing_enabled,
            seed=seed,
            source_eos=source_eos,
        )
        for corpus in (train, validation)
    )
    return TrainingData(source_vocabulary, target_vocabulary, train, validation, batches, validation_batches)


class _Report(NamedTuple):
    """What a process tells the others after it has read its data.

    Attributes:
        host: the name of its host.
        error: what was wrong; empty if nothing was.
        facts: what must be the same in all processes, by names for messages; empty if it has no data.
    """

    host: str
    error: str
    facts: dict[str, str]


def _describe(data: TrainingData, settings: Hyperparameters, seed: int) -> dict[str, str]:
    sizes = {
        "train channel": f"{len(data.train):,} pairs",
        "validation channel": f"{len(data.validation):,} pairs",
        "source vocabulary": f"{len(data.source_vocabulary):,} tokens",
        "target vocabulary": f"{len(data.target_vocabulary):,} tokens",
    }
    digests = data.digests
    facts = {name: f"{size} (digest {digests[name][:12]})" for name, size in sizes.items()}
    facts |= {f"hyperparameter {name}": str(value) for name, value in settings.to_json_dict().items()}
    return facts | {"seed": str(seed)}


def _require_same(reports: Sequence[_Report]) -> None:
    """Check that all processes have the same data and settings.

    Raises:
        ClientError: they differ; the message has the first difference, with the hosts.
    """
    first = reports[0]
    for other in reports[1:]:
        for name, value in first.facts.items():
            if other.facts.get(name) != value:
                raise ClientError(
                    f"the {name} differs between hosts: host {first.host} has {value}, host {other.host} has "
                    f"{other.facts.get(name)}. Give every host the same data and the same settings: each takes its "
                    "share of every batch itself (on SageMaker, set S3DataDistributionType to FullyReplicated)"
                )


def _warn_of_cut_pairs(channel: str, corpus: ParallelCorpus, settings: Hyperparameters) -> None:
    """Log one line if sequences of a channel are longer than the maximum, for they are cut."""
    limits = {"max_seq_len_source": settings.max_seq_len_source, "max_seq_len_target": settings.max_seq_len_target}
    is_cut = [side.lengths > limit for side, limit in zip((corpus.source, corpus.target), limits.values(), strict=True)]
    pairs = int(np.count_nonzero(is_cut[0] | is_cut[1]))
    if pairs:
        counts = " and ".join(
            f"{np.count_nonzero(cut):,} by {name}={limit}"
            for cut, (name, limit) in zip(is_cut, limits.items(), strict=True)
            if cut.any()
        )
        logger.warning(
            "%s channel: %s of %s pairs (%.1f %%) are longer than the maximum and are cut: %s",
            channel, f"{pairs:,}", f"{len(corpus):,}", 100 * pairs / len(corpus), counts,
        )  # fmt: skip
