"""What a user should be told about a text that was read: sequences that were cut, and tokens that are unknown."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Self

from seqwright.data.vocabulary import UNK
from seqwright.hyperparameters import Hyperparameters

logger = logging.getLogger(__name__)

UNKNOWN_SHARE = 0.1
"""The share of unknown tokens above which a user is warned: it usually means wrong tokens or a wrong language."""

_MAX_EXAMPLES = 5
_MAX_COUNTED = 10_000
"""Different unknown tokens that are counted; of a text that goes on for ever, not all fit into memory."""


def unknown_tokens(tokens: Sequence[str], ids: Sequence[int]) -> list[str]:
    """The tokens that the model does not know: those whose id is that of `<unk>`."""
    return [token for token, index in zip(tokens, ids, strict=True) if index == UNK]


class InputReport:
    """Counts what is cut and unknown in a text, and warns of both in a line each.

    Args:
        name: what to call the text in warnings, a file for example.
        limit: tokens of the longest sequence that is not cut.
        setting: the hyperparameter that says so.
        unit: what to call a sequence, `line` for example.
        start: the number of the first sequence.
    """

    def __init__(self, name: str, limit: int, setting: str, unit: str = "line", start: int = 1) -> None:
        self._name, self._limit, self._setting, self._unit = name, limit, setting, unit
        self._next = start
        self._sequences = self._tokens = self._unknown = self._cut = 0
        self._first_cut = (0, 0)  # its number and its length
        self._unknown_tokens = Counter[str]()

    @classmethod
    def of_source(cls, name: str, settings: Hyperparameters, unit: str = "line", start: int = 1) -> Self:
        """A report on a source text for a model with these hyperparameters."""
        return cls(name, settings.max_seq_len_source, "max_seq_len_source", unit, start)

    def add(self, tokens: Sequence[str], ids: Sequence[int]) -> None:
        """Count a sequence of `tokens` whose ids are `ids`, before it is cut."""
        number = self._next
        self._next += 1
        self._sequences += 1
        self._tokens += len(ids)
        if len(ids) > self._limit:
            self._cut += 1
            if self._cut == 1:
                self._first_cut = (number, len(ids))
        if UNK in ids:
            unknown = unknown_tokens(tokens, ids)
            self._unknown += len(unknown)
            if len(self._unknown_tokens) < _MAX_COUNTED:
                self._unknown_tokens.update(unknown)

    def warn(self) -> None:
        """Log a warning if sequences were cut, and one if more than `UNKNOWN_SHARE` of the tokens are unknown."""
        if self._cut:
            number, length = self._first_cut
            logger.warning(
                "%s: %s of %s sequences are longer than %s=%s and were cut, the first of them %s %s with %s tokens",
                *(self._name, f"{self._cut:,}", f"{self._sequences:,}", self._setting, self._limit),
                *(self._unit, f"{number:,}", f"{length:,}"),
            )
        if self._unknown > UNKNOWN_SHARE * self._tokens:
            examples = ", ".join(repr(token) for token, _ in self._unknown_tokens.most_common(_MAX_EXAMPLES))
            logger.warning(
                "%s: %s of %s tokens (%.0f %%) are unknown to the model, such as %s: was the text split into tokens as "
                "the training data was, and is it in the right language?",
                *(self._name, f"{self._unknown:,}", f"{self._tokens:,}", 100 * self._unknown / self._tokens, examples),
            )
