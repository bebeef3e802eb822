"""Attention of a recurrent decoder over the encoder's states.

Every scorer divides its work in two: `remember` computes once for each sentence what does not depend on the decoder,
and `forward` attends from N = B·K queries, where the K hypotheses of a sentence share its memory.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from seqwright.models.protocols import Encoded, padding_bias


class AttentionMemory(NamedTuple):
    """The source side of attention.

    Attributes:
        keys: what queries are scored against, `[B, S, A]`.
        values: the encoder's states, `[B, S, H]`.
        bias: zero at real positions, the most negative number at padding, `[B, S]`.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor


class Attention(nn.Module):
    """Base of the scorers: a subclass defines the keys and how a query scores them."""

    def keys(self, states: Tensor) -> Tensor:
        """Keys `[B, S, A]` of the encoder's `states` `[B, S, H]`."""
        raise NotImplementedError

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Scores `[B, K, S]` of `query` `[B, K, Q]` against `keys` `[B, S, A]`."""
        raise NotImplementedError

    def remember(self, encoded: Encoded) -> AttentionMemory:
        """Compute what attention needs of the source, once for each sentence."""
        states = encoded.states
        return AttentionMemory(self.keys(states), states, padding_bias(encoded.lengths, states.shape[1], states.dtype))

    def forward(self, query: Tensor, memory: AttentionMemory) -> tuple[Tensor, Tensor]:
        """Attend from `query` `[N, Q]`: the context `[N, H]` and the weights over the source `[N, S]`."""
        sentences, length, width = memory.values.shape
        by_sentence = query.view(sentences, -1, query.shape[1])  # [B, K, Q]
        scores = self.scores(by_sentence, memory.keys) + memory.bias.unsqueeze(1)  # [B, K, S]
        weights = torch.softmax(scores, dim=2)
        context = torch.bmm(weights, memory.values.to(weights.dtype))  # [B, K, H]
        return context.view(-1, width), weights.view(-1, length)


class MlpAttention(Attention):
    """`score(q, s) = v · tanh(W q + U s)` (Bahdanau et al. 2015), without biases.

    Args:
        query_size: width of the decoder's output, Q.
        state_size: width of the encoder's states, H.
        num_hidden: units of the hidden layer, A.
    """

    def __init__(self, query_size: int, state_size: int, num_hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, num_hidden, bias=False)
        self.key = nn.Linear(state_size, num_hidden, bias=False)
        self.score = nn.Linear(num_hidden, 1, bias=False)

    def keys(self, states: Tensor) -> Tensor:
        """`U s`, `[B, S, A]`."""
        keys: Tensor = self.key(states)
        return keys

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """`v · tanh(W q + U s)`, `[B, K, S]`."""
        hidden = torch.tanh(self.query(query).unsqueeze(2) + keys.unsqueeze(1))  # [B, K, S, A]
        scores: Tensor = self.score(hidden).squeeze(3)
        return scores


class DotAttention(Attention):
    """`score(q, s) = q · s` (Luong et al. 2015); a side whose width is not `num_hidden` is projected to it first.

    Args:
        query_size: width of the decoder's output, Q.
        state_size: width of the encoder's states, H.
        num_hidden: width in which the product is taken, A.
    """

    def __init__(self, query_size: int, state_size: int, num_hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, num_hidden, bias=False) if query_size != num_hidden else nn.Identity()
        self.key = nn.Linear(state_size, num_hidden, bias=False) if state_size != num_hidden else nn.Identity()

    def keys(self, states: Tensor) -> Tensor:
        """The states, projected where widths differ, `[B, S, A]`."""
        keys: Tensor = self.key(states)
        return keys

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """`q · s`, `[B, K, S]`."""
        projected: Tensor = self.query(query)
        return torch.bmm(projected, keys.transpose(1, 2))


class BilinearAttention(Attention):
    """`score(q, s) = q · W s` (Luong et al. 2015, "general").

    Args:
        query_size: width of the decoder's output, Q.
        state_size: width of the encoder's states, H.
    """

    def __init__(self, query_size: int, state_size: int) -> None:
        super().__init__()
        self.key = nn.Linear(state_size, query_size, bias=False)

    def keys(self, states: Tensor) -> Tensor:
        """`W s`, `[B, S, Q]`."""
        keys: Tensor = self.key(states)
        return keys

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """`q · W s`, `[B, K, S]`."""
        return torch.bmm(query, keys.transpose(1, 2))


class FixedAttention(Attention):
    """No attention: the context is the encoder's last state at every step (Sutskever et al. 2014)."""

    def remember(self, encoded: Encoded) -> AttentionMemory:
        """Keep the last state alone, with all weight on its position.

        Against `AttentionMemory`, the keys and the bias are these weights, `[B, S]`, and the values are `[B, H]`.
        """
        positions = torch.nn.functional.one_hot(encoded.lengths - 1, encoded.states.shape[1])
        weights = positions.to(encoded.states.dtype)  # [B, S]
        return AttentionMemory(keys=weights, values=encoded.last, bias=weights)

    def forward(self, query: Tensor, memory: AttentionMemory) -> tuple[Tensor, Tensor]:
        """The last state `[N, H]` whatever the query, and one-hot weights `[N, S]`."""
        beam = len(query) // len(memory.values)
        return memory.values.repeat_interleave(beam, 0), memory.keys.repeat_interleave(beam, 0)


def build_attention(kind: str, *, query_size: int, state_size: int, num_hidden: int) -> Attention:
    """The scorer that the hyperparameter `rnn_attention_type` names.

    Args:
        kind: `mlp`, `dot`, `bilinear` or `fixed`.
        query_size: width of the decoder's output.
        state_size: width of the encoder's states.
        num_hidden: units of the mlp scorer, or the width of the dot product.

    Raises:
        ValueError: `kind` is none of the four.
    """
    match kind:
        case "mlp":
            return MlpAttention(query_size, state_size, num_hidden)
        case "dot":
            return DotAttention(query_size, state_size, num_hidden)
        case "bilinear":
            return BilinearAttention(query_size, state_size)
        case "fixed":
            return FixedAttention()
        case _:
            raise ValueError(f"unknown attention {kind!r}")
