"""Refuses requests whose answers could be too large, before anything is searched for them."""

from collections.abc import Sequence

from seqwright.serving.codecs import Instance, is_on
from seqwright.serving.errors import answer_too_large
from seqwright.serving.limits import MAX_ANSWER_BYTES
from seqwright.serving.searcher import ModelDescription

_TARGET_BYTES = 64
"""The size of a translation in JSON besides its tokens: keys and its score."""

_WEIGHT_BYTES = 10
"""The size of an attention weight in JSON: six decimals and a separator."""

_ALIGNMENT_BYTES = 80
"""The size of an entry of `tokens` in JSON besides its target token; most of it is keys."""


def check_answer_size(instances: Sequence[Instance], model: ModelDescription) -> None:
    """Check that the answer to a request will not be larger than `MAX_ANSWER_BYTES`.

    Every translation is taken to be as long as it may be, its tokens to be as long as the mean of the vocabulary.

    Raises:
        RequestError: 413 if it could be.
    """
    if sum(_answer_bytes(instance, model) for instance in instances) > MAX_ANSWER_BYTES:
        raise answer_too_large()


def _answer_bytes(instance: Instance, model: ModelDescription) -> float:
    """The size of the answer to an instance."""
    if not instance.ids:
        return _TARGET_BYTES
    wanted, options = instance.configuration, instance.options
    source_length = len(instance.ids)
    length = model.max_output_length(source_length, options)
    translations = 1 + (wanted.nbest or 0)
    size = translations * (_TARGET_BYTES + length * model.target_token_bytes)
    if is_on(wanted.attention_matrix):
        size += length * source_length * _WEIGHT_BYTES
    if is_on(wanted.tokens):
        size += length * (_ALIGNMENT_BYTES + model.target_token_bytes)
    return size
