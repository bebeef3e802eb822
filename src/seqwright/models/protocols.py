"""What an encoder, a decoder, a decoder's state and a model for search are.

Shapes: B sentences, S source length, T target length, H hidden units, V vocabulary size, K beam size, N = B·K
hypotheses; the hypotheses of one sentence are next to each other.
"""

from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor

from seqwright.models.embeddings import TokenEmbedding

TreeT = TypeVar("TreeT")
MemoryT = TypeVar("MemoryT")
HypothesesT = TypeVar("HypothesesT")


@dataclass(frozen=True)
class Encoded:
    """The output of an encoder for a batch of source sequences.

    Attributes:
        states: one vector for each source position, `[B, S, H]`; positions past the length are undefined.
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
        real = ~padding_mask(self.lengths, self.states.shape[1])  # [B, S]
        return (self.states * real.unsqueeze(2)).sum(1) / self.lengths.unsqueeze(1)


@dataclass(frozen=True)
class DecoderState(Generic[MemoryT, HypothesesT]):
    """A decoder between two steps. Both parts are tensors, or (named) tuples of tensors and of further tuples.

    The hypotheses of a sentence share its row of the source side, which therefore is not copied when hypotheses are
    reordered.

    Attributes:
        memory: the source side of attention, with a row for each sentence, `[B, ...]`.
        hypotheses: what differs between hypotheses, with a row for each of them, `[N, ...]`.
    """

    memory: MemoryT
    hypotheses: HypothesesT

    def select_hypotheses(self, rows: Tensor) -> Self:
        """The state with the hypotheses `rows` `[N']`, which belong to the same sentences as before."""
        return replace(self, hypotheses=select_rows(self.hypotheses, rows))

    def select_sentences(self, sentences: Tensor, rows: Tensor) -> Self:
        """The state with `sentences` `[B']` and hypotheses `rows` `[N']`, both numbered as in this state."""
        return replace(self, memory=select_rows(self.memory, sentences), hypotheses=select_rows(self.hypotheses, rows))


def select_rows(tree: TreeT, rows: Tensor) -> TreeT:
    """The rows `[M]` of every tensor in `tree`: a tensor, or a (named) tuple of tensors and of further tuples."""
    if isinstance(tree, Tensor):
        return cast(TreeT, tree.index_select(0, rows))
    assert isinstance(tree, tuple)  # noqa: S101 - see the docstring
    parts = [select_rows(part, rows) for part in tree]
    make = getattr(type(tree), "_make", tuple)  # a named tuple is made from an iterable by `_make`
    return cast(TreeT, make(parts))


class Encoder(Protocol):
    """Source ids to states.

    Attributes:
        output_size: width of the states, H.
        embedding: the table of the source tokens.
    """

    output_size: int
    embedding: TokenEmbedding

    def __call__(self, source: Tensor, lengths: Tensor) -> Encoded:
        """Encode `source` ids `[B, S]` of the given `lengths` `[B]`."""


class Decoder(Protocol):
    """Target ids to hidden vectors, all at once for training or step by step for search.

    `forward` over a sequence and `step` repeated over its tokens give the same hidden vectors, up to rounding.

    Attributes:
        output_size: width of the hidden vectors, H.
        embedding: the table of the target tokens.
    """

    output_size: int
    embedding: TokenEmbedding

    def __call__(self, encoded: Encoded, target_in: Tensor) -> Tensor:
        """Hidden vectors `[B, T, H]` for the tokens that follow each of `target_in` `[B, T]`."""

    def start(self, encoded: Encoded) -> DecoderState[Any, Any]:
        """The state before the first token, with one hypothesis for each sentence."""

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:  # noqa: ANN401 - the decoder's own state
        """Feed `token` `[N]`: hidden vectors `[N, H]`, attention weights `[N, S]` and the next state."""


class SearchModel(Protocol):
    """A model as search uses it: one network, or several that are searched as one."""

    def start(self, source: Tensor, source_lengths: Tensor) -> DecoderState[Any, Any]:
        """Encode `source` ids `[B, S]` of the given lengths `[B]`: the state with one hypothesis for each sentence."""

    def step(
        self, token: Tensor, state: DecoderState[Any, Any], rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, DecoderState[Any, Any]]:
        """Feed `token` `[N]` to every hypothesis.

        Args:
            token: the last token of each hypothesis.
            state: the state before it.
            rows: hypotheses whose next token is wanted, `[M]`; all if None.

        Returns:
            Log probabilities of the next token in fp32, `[M, V]`, which the caller may change; attention weights
            `[N, S]`; and the next state, of all N hypotheses.
        """


def padding_mask(lengths: Tensor, size: int) -> Tensor:
    """True where a position lies past the sequence's length, `[B, size]`."""
    return torch.arange(size, device=lengths.device) >= lengths.unsqueeze(1)


def padding_bias(lengths: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Zero at real positions and the most negative number at padding, to add to attention scores, `[B, size]`."""
    return padding_mask(lengths, size).to(dtype) * torch.finfo(dtype).min
