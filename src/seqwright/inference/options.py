"""The options of a search: one object that goes from every entry point to the search unchanged."""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, cast

from seqwright.errors import ClientError

MAX_BEAM_SIZE = 10_000
MAX_OUTPUT_LENGTH = 1_000_000

_RANGES = {
    "beam_size": (1, MAX_BEAM_SIZE),
    "nbest": (1, MAX_BEAM_SIZE),
    "max_output_length": (1, MAX_OUTPUT_LENGTH),
}
"""The least and the greatest value of each number."""


@dataclass(frozen=True)
class SearchOptions:
    """How the translations of one sentence are searched for, and what is wanted of them.

    To add an option: add a field here with its check, use it in `beam_search`, and offer it in `cli/options.py` and in
    the endpoint's `Configuration`. A test compares the three.

    Attributes:
        beam_size: hypotheses that the search keeps, K; at least `nbest` are kept. None: the model's hyperparameter
            `beam_size`.
        nbest: translations to return, best first; fewer where the search finds no more.
        attention: whether to return attention matrices.
        max_output_length: tokens after which a translation is cut off. None: a limit that grows with the source.

    Raises:
        ClientError: a value is not valid; the message names the option.
    """

    beam_size: int | None = None
    nbest: int = 1
    attention: bool = False
    max_output_length: int | None = None

    def __post_init__(self) -> None:
        for name, (least, greatest) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name != "nbest":  # there is always a number of translations
                continue
            is_number = isinstance(value, Integral) and not isinstance(value, bool)
            if not is_number or not least <= value <= greatest:
                raise ClientError(f"{name} must be a whole number from {least} to {greatest:,}, not {value!r}")

    def resolved(self, beam_size: int) -> "SearchOptions":
        """The same options with the beam size filled in, and widened to `nbest`.

        Args:
            beam_size: the model's own beam size, taken where none was given.
        """
        width = max(self.beam_size or beam_size, self.nbest)
        return self if width == self.beam_size else dataclasses.replace(self, beam_size=width)

    @property
    def batch_key(self) -> tuple[int | None, bool]:
        """What the options of all sentences of one batch must have in common."""
        return self.beam_size, self.attention


def search_options(options: SearchOptions | None, named: Mapping[str, object]) -> SearchOptions:
    """`options`, or the defaults, with single options replaced by name.

    Raises:
        ClientError: a name is unknown, or a value is not valid.
    """
    known = [field.name for field in dataclasses.fields(SearchOptions)]
    for name in named.keys() - known:
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {near[0]}?" if near else f"options are {', '.join(known)}"
        raise ClientError(f"unknown search option {name}: {advice}")
    return dataclasses.replace(options or SearchOptions(), **cast(dict[str, Any], named))
