"""Warm start: a run that starts from a model or from word vectors instead of from random parameters alone."""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seqwright.artifacts import TrainedModel
from seqwright.data.vectors import read_vectors
from seqwright.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from seqwright.errors import ClientError
from seqwright.files import describe_os_errors
from seqwright.hyperparameters import Hyperparameters
from seqwright.model_sources import load_any_model
from seqwright.models.seq2seq import Seq2Seq

SOURCE_EMBEDDING = "encoder.embedding.table.weight"
TARGET_EMBEDDING = "decoder.embedding.table.weight"
SOURCE_ROWS = frozenset({SOURCE_EMBEDDING})
TARGET_ROWS = frozenset({TARGET_EMBEDDING, "output_layer.weight", "output_layer.bias"})
"""Names of the parameters that have a row for every token of the source, and of the target."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, init=False)
class Start:
    """What a run starts from; by default from random parameters.

    Attributes:
        model: a model folder or `model.tar.gz` to take hyperparameters and parameters from.
        vectors_source: word vectors for the source embedding, in the text format of word2vec, GloVe or fastText.
        vectors_target: word vectors for the target embedding.
        freeze_source: whether the source embedding is not trained, words without a vector included.
        freeze_target: whether the target embedding is not trained.
    """

    model: Path | None
    vectors_source: Path | None
    vectors_target: Path | None
    freeze_source: bool
    freeze_target: bool

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        vectors_source: str | os.PathLike[str] | None = None,
        vectors_target: str | os.PathLike[str] | None = None,
        freeze_source: bool = False,
        freeze_target: bool = False,
    ) -> None:
        paths = {"model": model, "vectors_source": vectors_source, "vectors_target": vectors_target}
        for name, path in paths.items():
            object.__setattr__(self, name, None if path is None else Path(path))
        object.__setattr__(self, "freeze_source", freeze_source)
        object.__setattr__(self, "freeze_target", freeze_target)


@dataclass(frozen=True)
class WarmStart:
    """A `Start` whose model is loaded and whose files are fingerprinted.

    Attributes:
        start: what was asked for.
        model: the start model, on the CPU; None without one.
        digests: identify the start; the keys are for messages. Empty if all parameters are random.
    """

    start: Start
    model: TrainedModel | None
    digests: Mapping[str, str]

    @property
    def source_eos(self) -> bool:
        """Whether `</s>` ends every source sequence: as the start model was trained; True without a start model."""
        return self.model is None or self.model.source_eos


def load_warm_start(start: Start) -> WarmStart:
    """Load the start model and fingerprint every file of the start.

    Raises:
        ClientError: a file is missing, unreadable or damaged, or an embedding with random values is to be frozen.
    """
    digests = {}
    model = load_any_model(start.model) if start.model else None
    if model:
        digests["start model"] = _digest_model(model)
    for side, vectors, frozen in (
        ("source", start.vectors_source, start.freeze_source),
        ("target", start.vectors_target, start.freeze_target),
    ):
        if vectors:
            digests[f"{side} vectors"] = _digest_file(vectors)
        if frozen:
            if not vectors and not model:
                raise ClientError(
                    f"the {side} embedding cannot be frozen as it starts at random: give --vectors-{side} or --model"
                )
            digests[f"freezing of the {side} embedding"] = "yes"
    return WarmStart(start, model, digests)


def resolve_hyperparameters(warm_start: WarmStart, given: Hyperparameters | Mapping[str, object]) -> Hyperparameters:
    """The hyperparameters of a run: those given, else those of the start model, else the defaults.

    Args:
        warm_start: the start.
        given: the user's values; of a `Hyperparameters` those that were set when it was made.

    Raises:
        ClientError: a value is not valid, or differs from the start model's where that decides what its parameters
            mean; the message names each.
    """
    if warm_start.model is None:
        return given if isinstance(given, Hyperparameters) else Hyperparameters.parse(given)
    base, path = warm_start.model.settings, warm_start.start.model
    values = given.model_dump(exclude_unset=True) if isinstance(given, Hyperparameters) else given
    try:
        settings = Hyperparameters.parse({**base.to_json_dict(), **values})
    except ClientError as error:
        raise ClientError(f"{error}\nhyperparameters that you do not give are those of {path}") from error
    changed = [
        f"hyperparameter {name}: {getattr(settings, name)} differs from the start model's {getattr(base, name)}"
        for name in base.names_that_fix_shapes()
        if not _agree(settings, base, name)
    ]
    if changed:
        advice = f"leave out what differs, so that the values of {path} apply, or train without a start model"
        raise ClientError("\n".join([*changed, advice]))
    return settings


def _agree(left: Hyperparameters, right: Hyperparameters, name: str) -> bool:
    """Whether a hyperparameter has the same effect in both, which may depend on other hyperparameters."""
    if name == "rnn_attention_num_hidden":
        follows = left.rnn_attention_num_hidden is None and right.rnn_attention_num_hidden is None
        return follows or left.attention_num_hidden == right.attention_num_hidden  # rnn_num_hidden, which is compared
    if name == "rnn_first_residual_layer" and not (left.rnn_residual_connections and right.rnn_residual_connections):
        return True
    return bool(getattr(left, name) == getattr(right, name))


def freeze_embeddings(model: Seq2Seq, start: Start) -> None:
    """Switch off the gradient of the embeddings that `start` freezes; an optimizer must leave them out."""
    for side, frozen, name in (
        ("source", start.freeze_source, SOURCE_EMBEDDING),
        ("target", start.freeze_target, TARGET_EMBEDDING),
    ):
        if frozen:
            model.get_parameter(name).requires_grad_(False)
            logger.info("the %s embedding is frozen", side)


def apply_warm_start(
    model: Seq2Seq,
    warm_start: WarmStart,
    settings: Hyperparameters,
    source_vocabulary: Vocabulary,
    target_vocabulary: Vocabulary,
) -> None:
    """Copy the parameters of the start model, then the word vectors, into a newly initialised model.

    Args:
        model: the model, on any device.
        warm_start: the start; without a model and vectors nothing happens.
        settings: the hyperparameters that `model` was built from.
        source_vocabulary: the source vocabulary of `model`.
        target_vocabulary: the target vocabulary of `model`.

    Raises:
        ClientError: a vector file is at fault; see `read_vectors`.
    """
    if warm_start.model:
        copy_parameters(model, warm_start.model, source_vocabulary, target_vocabulary)
    for side, path, vocabulary, name in (
        ("source", warm_start.start.vectors_source, source_vocabulary, SOURCE_EMBEDDING),
        ("target", warm_start.start.vectors_target, target_vocabulary, TARGET_EMBEDDING),
    ):
        if path:
            table = model.get_parameter(name).detach()  # [V, E]
            hyperparameter = f"num_embed_{side}"
            ids, vectors = read_vectors(
                path, vocabulary, width=getattr(settings, hyperparameter), hyperparameter=hyperparameter
            )
            _overwrite_rows(table, torch.from_numpy(ids), torch.from_numpy(vectors))
            words, found = len(vocabulary) - len(SPECIAL_TOKENS), int((ids >= len(SPECIAL_TOKENS)).sum())
            logger.info(
                "%s vectors: %d of %d words of the vocabulary found (%.1f %%)", side, found, words, 100 * found / words
            )


def copy_parameters(
    model: Seq2Seq, trained: TrainedModel, source_vocabulary: Vocabulary, target_vocabulary: Vocabulary
) -> None:
    """Copy the parameters of a trained model into another of the same architecture.

    In parameters with a row for every token, the rows of tokens that both vocabularies have are copied, whatever their
    ids; other rows stay as they are.

    Args:
        model: the model to copy into, on any device.
        trained: the model to copy from.
        source_vocabulary: the source vocabulary of `model`.
        target_vocabulary: the target vocabulary of `model`.
    """
    source = _shared_rows("source", trained.source_vocabulary, source_vocabulary)
    target = _shared_rows("target", trained.target_vocabulary, target_vocabulary)
    by_token = {**dict.fromkeys(SOURCE_ROWS, source), **dict.fromkeys(TARGET_ROWS, target)}
    mine = model.state_dict()
    for name, tensor in trained.model.state_dict().items():
        if rows := by_token.get(name):
            new_ids, old_ids = rows
            _overwrite_rows(mine[name], new_ids, tensor[old_ids])
        else:
            mine[name].copy_(tensor)


def _shared_rows(side: str, old: Vocabulary, new: Vocabulary) -> tuple[Tensor, Tensor]:
    """The ids `[N]` in `new` and in `old` of the tokens that both have, special tokens included."""
    tokens = [token for token in new.tokens if token in old]
    kept = len(tokens) - len(SPECIAL_TOKENS)
    words = len(new) - len(SPECIAL_TOKENS)
    if kept:
        logger.info("start model: %d of %d %s words keep their parameters", kept, words, side)
    else:
        logger.warning(
            "start model: none of the %d %s words is known to it, so all of them start at random: "
            "check that it was trained on the same language, case and tokens",
            words,
            side,
        )
    return torch.tensor(new.ids(tokens)), torch.tensor(old.ids(tokens))


def _overwrite_rows(table: Tensor, ids: Tensor, rows: Tensor) -> None:
    """Overwrite the rows `ids` `[N]` of `table` `[V, ...]` with `rows` `[N, ...]`."""
    table[ids.to(table.device)] = rows.to(table)


def _digest_model(trained: TrainedModel) -> str:
    """A digest of parameters and vocabularies; the same for a model folder and an archive of it."""
    digest = hashlib.blake2b(b"source ends with </s>" if trained.source_eos else b"", digest_size=16)
    for vocabulary in (trained.source_vocabulary, trained.target_vocabulary):
        digest.update("\n".join(vocabulary.tokens).encode())
    for name, tensor in sorted(trained.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest_file(path: Path) -> str:
    with describe_os_errors(f"cannot read {path}"), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
