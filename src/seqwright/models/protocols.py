"""What an encoder and a decoder are, and the one way in which decoder states are reordered.

Shapes: B sentences, S source length, T target length, H hidden units, K beam, N = B·K hypotheses, those of one
sentence next to each other.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from seqwright.models.embeddings import TokenEmbedding


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of a batch of source sequences.

    Attributes:
        states: one vector a source position, `[B, S, H]`; positions past the length hold anything.
        lengths: real positions of each sentence, int64 `[B]`.
        last: the state at each sentence's last real position, `[B, H]`.
    """

    states: Tensor
    lengths: Tensor
    last: Tensor

    @classmethod
    def of(cls, states: Tensor, lengths: Tensor) -> "Encoded":
        """Pick `last` out of `states` `[B, S, H]` by `lengths` `[B]`."""
        rows = torch.arange(len(lengths), device=states.device)
        return cls(states, lengths, states[rows, lengths - 1])

    def mean(self) -> Tensor:
        """The mean state over the real positions, `[B, H]`."""
        real = ~padding_mask(self.lengths, self.states.shape[1])
        return (self.states * real.unsqueeze(2)).sum(1) / self.lengths.unsqueeze(1)


class DecoderState(Protocol):
    """A dataclass of tensors: `memory` has a row a sentence, every other field a row a hypothesis."""

    @property
    def memory(self) -> Any:  # noqa: ANN401 - each decoder keeps its own dataclass of `[B, ...]` tensors here
        """What all hypotheses of a sentence share: the encoder's side, `[B, ...]`."""


StateT = TypeVar("StateT", bound=DecoderState)


class Encoder(Protocol):
    """Source ids to states."""

    output_size: int
    embedding: TokenEmbedding

    def __call__(self, source: Tensor, lengths: Tensor) -> Encoded:
        """Encode `source` ids `[B, S]` of the given `lengths` `[B]`."""


class Decoder(Protocol):
    """Target ids to hidden vectors, all at once for training or step by step for search.

    `forward` over a sequence and `step` repeated over its tokens give the same hidden vectors to rounding.
    """

    output_size: int
    embedding: TokenEmbedding

    def __call__(self, encoded: Encoded, target_in: Tensor) -> Tensor:
        """Hidden vectors `[B, T, H]` for the tokens that follow each of `target_in` `[B, T]`."""

    def start(self, encoded: Encoded) -> Any:  # noqa: ANN401 - a `DecoderState` of the decoder's own
        """The state before the first token, one hypothesis a sentence."""

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:  # noqa: ANN401
        """Feed `token` `[N]`: hidden vectors `[N, H]`, attention weights `[N, S]` and the next state."""


def padding_mask(lengths: Tensor, size: int) -> Tensor:
    """True where a position lies past the sequence's length, `[B, size]`."""
    return torch.arange(size, device=lengths.device) >= lengths.unsqueeze(1)


def padding_bias(lengths: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Zero at real positions and a hugely negative number at padding, to add to attention scores, `[B, size]`."""
    return padding_mask(lengths, size).to(dtype) * torch.finfo(dtype).min


def select_hypotheses(state: StateT, rows: Tensor) -> StateT:
    """The state whose hypotheses are `rows` `[N']` of the old ones, of the same sentences."""
    fields = [field.name for field in dataclasses.fields(cast(Any, state)) if field.name != "memory"]
    return cast(
        StateT,
        dataclasses.replace(cast(Any, state), **{name: _take(getattr(state, name), rows) for name in fields}),
    )


def select_sentences(state: StateT, sentences: Tensor, rows: Tensor) -> StateT:
    """The state of the kept `sentences` `[B']` with hypotheses `rows` `[N']`, both numbered as in the old state."""
    kept = select_hypotheses(state, rows)
    return cast(StateT, dataclasses.replace(cast(Any, kept), memory=_take(state.memory, sentences)))


def _take(tree: Any, rows: Tensor) -> Any:  # noqa: ANN401 - tensors, tuples and dataclasses of them, nested
    if isinstance(tree, Tensor):
        return tree.index_select(0, rows)
    if isinstance(tree, tuple):
        return tuple(_take(part, rows) for part in tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        parts = {field.name: _take(getattr(tree, field.name), rows) for field in dataclasses.fields(tree)}
        return dataclasses.replace(tree, **parts)
    return tree
