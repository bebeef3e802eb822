"""Starting from a model or from word vectors instead of from random parameters alone."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seqwright.artifacts import TrainedModel, load_model
from seqwright.data.vectors import read_vectors
from seqwright.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from seqwright.errors import ClientError
from seqwright.files import describe_os_errors
from seqwright.hyperparameters import Hyperparameters
from seqwright.models.seq2seq import Seq2Seq

SOURCE_EMBEDDING = "encoder.embedding.table.weight"
TARGET_EMBEDDING = "decoder.embedding.table.weight"
SOURCE_ROWS = frozenset({SOURCE_EMBEDDING})
TARGET_ROWS = frozenset({TARGET_EMBEDDING, "output_layer.weight", "output_layer.bias"})
"""Parameters with a row for every token of the source, and of the target, by name."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What a run starts from; without anything, from random parameters.

    Attributes:
        model: a model folder or `model.tar.gz` to take hyperparameters and parameters from.
        vectors_source: word vectors for the source embedding, as word2vec, GloVe or fastText write them in text.
        vectors_target: the same for the target embedding.
        freeze_source: whether the source embedding stays as it starts, words without a vector included.
        freeze_target: the same for the target embedding.
    """

    model: Path | None = None
    vectors_source: Path | None = None
    vectors_target: Path | None = None
    freeze_source: bool = False
    freeze_target: bool = False


@dataclass(frozen=True)
class Origin:
    """A start that was opened.

    Attributes:
        start: what was asked for.
        model: the start model, on the CPU; None without one.
        digests: what identifies the start, by names for messages; empty for random parameters.
    """

    start: Start
    model: TrainedModel | None
    digests: Mapping[str, str]

    @property
    def source_eos(self) -> bool:
        """Whether `</s>` ends every source sequence: as in the start model's training; yes without one."""
        return self.model is None or self.model.source_eos


def open_start(start: Start) -> Origin:
    """Load the start model and fingerprint every file that shapes the start.

    Raises:
        ClientError: a file is missing, not readable or damaged, or an embedding is frozen that starts at random.
    """
    digests = {}
    model = load_model(start.model) if start.model else None
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
    return Origin(start, model, digests)


def settle(origin: Origin, given: Hyperparameters | Mapping[str, object]) -> Hyperparameters:
    """The hyperparameters of a run: those given, over those of the start model, over the defaults.

    Args:
        origin: the start.
        given: what the user asks for; of a `Hyperparameters`, what was set when it was made.

    Raises:
        ClientError: a value is not valid, or differs from the start model's where that decides what its parameters
            mean; the message names each.
    """
    if origin.model is None:
        return given if isinstance(given, Hyperparameters) else Hyperparameters.parse(given)
    base = origin.model.settings
    values = given.model_dump(exclude_unset=True) if isinstance(given, Hyperparameters) else given
    try:
        settings = Hyperparameters.parse({**base.to_json_dict(), **values})
    except ClientError as error:
        raise ClientError(f"{error}\nhyperparameters that you do not give are those of {origin.start.model}") from error
    changed = [
        f"hyperparameter {name}: {getattr(settings, name)} differs from the start model's {getattr(base, name)}"
        for name in base.names_that_fix_shapes()
        if not _agree(settings, base, name)
    ]
    if changed:
        advice = f"leave out what differs, so that {origin.start.model} decides, or train without a start model"
        raise ClientError("\n".join([*changed, advice]))
    return settings


def _agree(left: Hyperparameters, right: Hyperparameters, name: str) -> bool:
    """Whether a hyperparameter comes to the same, where another decides whether and how it counts."""
    if name == "rnn_attention_num_hidden":
        return left.attention_num_hidden == right.attention_num_hidden
    if name == "rnn_first_residual_layer" and not (left.rnn_residual_connections and right.rnn_residual_connections):
        return True
    return bool(getattr(left, name) == getattr(right, name))


def freeze(model: Seq2Seq, start: Start) -> None:
    """Take the gradient from the embeddings that `start` freezes; an optimizer must leave them out."""
    for side, frozen, name in (
        ("source", start.freeze_source, SOURCE_EMBEDDING),
        ("target", start.freeze_target, TARGET_EMBEDDING),
    ):
        if frozen:
            model.get_parameter(name).requires_grad_(False)
            logger.info("the %s embedding is frozen", side)


def begin(
    model: Seq2Seq,
    origin: Origin,
    settings: Hyperparameters,
    source_vocabulary: Vocabulary,
    target_vocabulary: Vocabulary,
) -> None:
    """Put the start's parameters into a freshly initialised model, vectors over the start model's.

    Args:
        model: the model, on any device.
        origin: the start; without a model and vectors nothing happens.
        settings: the hyperparameters from `settle`, that `model` was built from.
        source_vocabulary: the source vocabulary that `model` was built for.
        target_vocabulary: its target vocabulary.

    Raises:
        ClientError: a vector file is at fault; see `read_vectors`.
    """
    if origin.model:
        take_parameters(model, origin.model, source_vocabulary, target_vocabulary)
    for side, path, vocabulary, name in (
        ("source", origin.start.vectors_source, source_vocabulary, SOURCE_EMBEDDING),
        ("target", origin.start.vectors_target, target_vocabulary, TARGET_EMBEDDING),
    ):
        if path:
            table = model.get_parameter(name).detach()
            hyperparameter = f"num_embed_{side}"
            ids, vectors = read_vectors(
                path, vocabulary, width=getattr(settings, hyperparameter), hyperparameter=hyperparameter
            )
            _put_rows(table, torch.from_numpy(ids), torch.from_numpy(vectors))
            words, found = len(vocabulary) - len(SPECIAL_TOKENS), int((ids >= len(SPECIAL_TOKENS)).sum())
            logger.info(
                "%s vectors: %d of %d words of the vocabulary found (%.1f %%)", side, found, words, 100 * found / words
            )


def take_parameters(
    model: Seq2Seq, taken: TrainedModel, source_vocabulary: Vocabulary, target_vocabulary: Vocabulary
) -> None:
    """Copy the parameters of a trained model into another of the same architecture.

    Where a parameter has a row for every token, rows go by the token: those of tokens that both vocabularies have are
    copied, the others stay as they are.

    Args:
        model: the model to copy into, on any device.
        taken: the model to copy from.
        source_vocabulary: the source vocabulary of `model`.
        target_vocabulary: the target vocabulary of `model`.
    """
    source = _shared_rows("source", taken.source_vocabulary, source_vocabulary)
    target = _shared_rows("target", taken.target_vocabulary, target_vocabulary)
    by_token = {**dict.fromkeys(SOURCE_ROWS, source), **dict.fromkeys(TARGET_ROWS, target)}
    mine = model.state_dict()
    for name, tensor in taken.model.state_dict().items():
        if rows := by_token.get(name):
            to, origin = rows
            _put_rows(mine[name], to, tensor[origin])
        else:
            mine[name].copy_(tensor)


def _shared_rows(side: str, old: Vocabulary, new: Vocabulary) -> tuple[Tensor, Tensor]:
    """The ids `[N]` in `new` and in `old` of the tokens that both have, the special ones among them."""
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


def _put_rows(table: Tensor, ids: Tensor, rows: Tensor) -> None:
    """Overwrite the rows `ids` `[N]` of `table` `[V, ...]` with `rows` `[N, ...]`."""
    table[ids.to(table.device)] = rows.to(table)


def _digest_model(trained: TrainedModel) -> str:
    """The same for the same parameters and vocabularies, whether in a folder or in an archive."""
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
