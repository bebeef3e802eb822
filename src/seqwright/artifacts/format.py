"""The files of a model and what they hold."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from seqwright.data.vocabulary import Vocabulary
from seqwright.hyperparameters import Hyperparameters
from seqwright.models.seq2seq import Seq2Seq

CONFIG, WEIGHTS, METRICS = "config.json", "model.safetensors", "metrics.json"
SOURCE_VOCABULARY, TARGET_VOCABULARY = "vocab.src.json", "vocab.trg.json"
FILES = (WEIGHTS, SOURCE_VOCABULARY, TARGET_VOCABULARY, METRICS, CONFIG)
"""In the order in which they are written: a folder without the last one is not a complete model."""

DIGEST = "sha256"
"""The name of the tensors' digest in the metadata of the weights; files that other programs wrote may have none."""

MAX_CONFIG_BYTES = 4 << 20
"""Far more than this file takes; a larger one is not read."""


class LengthRatio(BaseModel):
    """Target length divided by source length in the training data, without special symbols."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    std: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]

    def max_steps(self, source_length: int, bucket_width: int) -> int:
        """Steps that a search for a translation may take, EOS counted, where no limit was given.

        The original's rule: two standard deviations above the mean ratio, of the source's length rounded up to its
        bucket.

        Args:
            source_length: positions of the source, EOS counted where there is one.
            bucket_width: the hyperparameter.
        """
        bucket = math.ceil(source_length / bucket_width) * bucket_width
        return math.ceil((self.mean + 2 * self.std) * bucket) + 1


class Config(BaseModel):
    """The content of `config.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    source_vocab_size: Annotated[int, Field(ge=4)]
    target_vocab_size: Annotated[int, Field(ge=4)]
    source_eos: bool
    """Whether `</s>` ends every source sequence, as it did in training."""
    length_ratio: LengthRatio
    hyperparameters: dict[str, bool | int | float | str | None]


@dataclass(frozen=True)
class TrainedModel:
    """A model with everything that is needed to use it.

    Attributes:
        model: the network.
        settings: the hyperparameters that it was built from.
        source_vocabulary: source tokens and ids.
        target_vocabulary: target tokens and ids.
        length_ratio: the usual length of translations, which bounds their search.
        source_eos: whether `</s>` ends every source sequence.
    """

    model: Seq2Seq
    settings: Hyperparameters
    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    length_ratio: LengthRatio
    source_eos: bool = True

    def config(self) -> Config:
        """The content of its `config.json`."""
        return Config(
            source_vocab_size=len(self.source_vocabulary),
            target_vocab_size=len(self.target_vocabulary),
            source_eos=self.source_eos,
            length_ratio=self.length_ratio,
            hyperparameters=self.settings.to_json_dict(),
        )

    def digest(self) -> str:
        """The SHA-256 of the parameters, the vocabularies and the settings."""
        vocabularies = (json.dumps(each.tokens) for each in (self.source_vocabulary, self.target_vocabulary))
        parts = (self.config().model_dump_json(), *vocabularies, digest_of(self.model.state_dict()))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors: of their names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
