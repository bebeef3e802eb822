"""Refuses requests whose answers could be too large, before anything is searched for them."""

from collections.abc import Sequence

from seqwright.serving.codecs import Instance, is_on
from seqwright.serving.errors import answer_too_large
from seqwright.serving.limits import MAX_ANSWER_BYTES
from seqwright.serving.searcher import ModelDescription

_TARGET_BYTES = 64  # of a translation in JSON besides its tokens: keys and a score
_WEIGHT_BYTES = 10  # of an attention weight: six decimals and a separator
_ALIGNMENT_BYTES = 80  # of an entry of `tokens` besides its target token


def check_answer_size(instances: Sequence[Instance], model: ModelDescription) -> None:
    """Check that the answer to a request will not be larger than `MAX_ANSWER_BYTES`.

    Every translation is taken to be as long as it may be, its tokens to be as long as the mean of the vocabulary.

    Raises:
        RequestError: 413 if it could be.
    """
    if sum(_answer_bytes(instance, model) for instance in instances) > MAX_ANSWER_BYTES:
        raise answer_too_large()


def _answer_bytes(instance: Instance, model: ModelDescription) -> float:
    wanted = instance.configuration
    length = model.max_output_length(len(instance.ids), instance.options) if instance.ids else 0
    size = (1 + (wanted.nbest or 0)) * (_TARGET_BYTES + length * model.target_token_bytes)
    if is_on(wanted.attention_matrix):
        size += length * len(instance.ids) * _WEIGHT_BYTES
    if is_on(wanted.tokens):
        size += length * (_ALIGNMENT_BYTES + model.target_token_bytes)
    return size
