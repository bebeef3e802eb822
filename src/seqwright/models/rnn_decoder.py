"""The recurrent decoder: input feeding, attention, and stacked cells, as the original has them.

Step t (Luong et al. 2015, with input feeding): the first cell reads `[embedding of the last token; previous
attentional hidden]`, attention looks at the source from a cell's output, and the attentional hidden
`tanh(W [output; context] + b)` predicts the next token. With `attention_in_upper_layers` the first cell's output
attends, and every upper cell reads `[output below; context]` (Wu et al. 2016); without it, the top cell's output does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqwright.models.attention import AttentionMemory, MlpAttention, build_attention
from seqwright.models.embeddings import TokenEmbedding
from seqwright.models.fused_decoder import DecoderWeights, decode
from seqwright.models.protocols import Encoded
from seqwright.models.rnn import CellState, RecurrentCell


@dataclass(frozen=True)
class RecurrentState:
    """The decoder between two steps.

    Attributes:
        memory: the source side of attention, `[B, ...]`.
        hidden: the previous attentional hidden, `[N, H]`.
        cells: the state of every cell, bottom first, each a tuple of `[N, H]`.
    """

    memory: AttentionMemory
    hidden: Tensor
    cells: tuple[CellState, ...]


class RecurrentDecoder(nn.Module):
    """Decoder of one or more recurrent cells with attention.

    Args:
        vocab_size: target vocabulary size, V.
        num_embed: embedding width, E.
        num_hidden: width of the cells and of the output, H.
        num_layers: cells in the stack.
        cell_type: `lstm` or `gru`.
        encoder_size: width of the encoder's states.
        attention_type: `mlp`, `dot`, `bilinear` or `fixed`.
        attention_num_hidden: units of the attention scorer, A.
        attention_in_upper_layers: whether upper cells read the context.
        state_init: `last`, `avg` or `zero`: what of the encoder the cells start from.
        embed_dropout: dropout on the embeddings.
        hidden_dropout: dropout on `[output; context]`.
        first_residual_layer: first cell, counted from 1, whose input is added to its output; None for none.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_embed: int,
        num_hidden: int,
        num_layers: int,
        cell_type: str,
        encoder_size: int,
        attention_type: str,
        attention_num_hidden: int,
        attention_in_upper_layers: bool = True,
        state_init: str = "last",
        embed_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        first_residual_layer: int | None = None,
    ) -> None:
        super().__init__()
        self.output_size = num_hidden
        self.num_embed = num_embed
        self.state_init = state_init
        self.context_from_first = attention_in_upper_layers and num_layers > 1
        self.first_residual_layer = first_residual_layer or math.inf
        self.embedding = TokenEmbedding(vocab_size, num_embed, embed_dropout)
        upper_input = num_hidden + (encoder_size if self.context_from_first else 0)
        inputs = [num_embed + num_hidden] + [upper_input] * (num_layers - 1)
        stack = nn.ModuleList(RecurrentCell(cell_type, size, num_hidden) for size in inputs)
        self.cells = cast(Sequence[RecurrentCell], stack)
        self.attention = build_attention(
            attention_type, query_size=num_hidden, state_size=encoder_size, num_hidden=attention_num_hidden
        )
        self.hidden_dropout = hidden_dropout
        self.hidden = nn.Linear(num_hidden + encoder_size, num_hidden)
        self.num_states = {"lstm": 2, "gru": 1}[cell_type]
        count = 0 if state_init == "zero" else num_layers * self.num_states
        self.initial_states = nn.ModuleList(nn.Linear(encoder_size, num_hidden) for _ in range(count))

    def forward(self, encoded: Encoded, target_in: Tensor) -> Tensor:
        """Hidden vectors `[B, T, H]` for the tokens that follow each of `target_in` `[B, T]`."""
        tokens, state = target_in.t(), self.start(encoded)
        mask = self._dropout_mask(tokens, encoded)
        if self.is_fusable:
            return self._decode_fused(tokens, state, mask)
        return self._decode_by_steps(tokens, state, mask)

    @property
    def is_fusable(self) -> bool:
        """Whether `fused_decoder` covers this decoder."""
        return len(self.cells) == 1 and self.cells[0].kind == "lstm" and isinstance(self.attention, MlpAttention)

    def _decode_fused(self, tokens: Tensor, state: RecurrentState, mask: Tensor | None) -> Tensor:
        """All steps as one function."""
        (output, cell), memory = state.cells[0], state.memory
        if tokens.device.type == "cpu" and not (self.training and self.embedding.dropout.p):
            # Most tokens of a batch come many times. Their gradients add up, in fp32 where products are not, too.
            distinct, places = torch.unique(tokens, return_inverse=True)
            projected = F.embedding(places, F.linear(self.embedding(distinct), *self.embedding_projection()).float())
        else:
            projected = F.linear(self.embedding(tokens), *self.embedding_projection())
        return decode(projected, output, cell, memory.keys, memory.values, memory.bias, self.weights(), mask)

    def weights(self) -> DecoderWeights:
        """What a step reads, of a decoder that is fusable."""
        cell, attention = self.cells[0], cast(MlpAttention, self.attention)
        return DecoderWeights(
            torch.cat([cell.weight_ih[:, self.num_embed :], cell.weight_hh], dim=1),
            attention.query.weight,
            attention.score.weight[0],
            self.hidden.weight,
            self.hidden.bias,
        )

    def embedding_projection(self) -> tuple[Tensor, Tensor]:
        """Weight `[gates · H, E]` and bias of the embedding's part of the first cell's gates, both biases in one."""
        cell = self.cells[0]
        return cell.weight_ih[:, : self.num_embed], cell.bias_ih + cell.bias_hh

    def _decode_by_steps(self, tokens: Tensor, state: RecurrentState, mask: Tensor | None) -> Tensor:
        """The same, and every other decoder, step by step: what search does, and the reference."""
        outputs = []
        for number, projected in enumerate(self.cells[0].project(self.embedding(tokens))):
            _, state = self._advance(projected, state, None if mask is None else mask[number])
            outputs.append(state.hidden)
        return torch.stack(outputs, dim=1)

    def _dropout_mask(self, tokens: Tensor, encoded: Encoded) -> Tensor | None:
        """What `[output; context]` is multiplied with at every step, `[T, B, H + D]`; None where nothing drops out."""
        if not (self.training and self.hidden_dropout):
            return None
        ones = encoded.states.new_ones(*tokens.shape, self.hidden.in_features)
        return F.dropout(ones, self.hidden_dropout)

    def start(self, encoded: Encoded) -> RecurrentState:
        """The state before the first token, one hypothesis a sentence.

        Every cell's states are `tanh(W e + b)` of the encoder's last or mean state e, or zero.
        """
        zeros = encoded.states.new_zeros(len(encoded.lengths), self.output_size)
        summary = self.summary(encoded)
        if summary is None:
            states = [zeros] * (len(self.cells) * self.num_states)
        else:
            states = [torch.tanh(layer(summary)) for layer in self.initial_states]
        pairs = zip(*[iter(states)] * self.num_states, strict=True)
        return RecurrentState(self.attention.remember(encoded), zeros, tuple(pairs))

    def summary(self, encoded: Encoded) -> Tensor | None:
        """What of the encoder the cells' first states are made from, `[B, D]`; None where they are zero."""
        match self.state_init:
            case "zero":
                return None
            case "last":
                return encoded.last
            case _:
                return encoded.mean()

    def step(self, token: Tensor, state: RecurrentState) -> tuple[Tensor, Tensor, RecurrentState]:
        """Feed `token` `[N]`: the attentional hidden `[N, H]`, attention weights `[N, S]`, and the next state."""
        weights, state = self._advance(self.cells[0].project(self.embedding(token)), state)
        return state.hidden, weights, state

    def _advance(
        self, projected: Tensor, state: RecurrentState, mask: Tensor | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """One step from the embedding's part of the first cell's gates, `[N, gates · H]`."""
        first = self.cells[0]
        cell_state = first(projected + first.project(state.hidden, self.num_embed), state.cells[0])
        output = cell_state[0]
        cells = [cell_state]
        attended: tuple[Tensor, Tensor] | None = None
        if self.context_from_first:
            attended = self.attention(output, state.memory)
        for number, (cell, previous) in enumerate(zip(self.cells[1:], state.cells[1:], strict=True), start=2):
            cell_input = torch.cat([output, attended[0]], dim=1) if attended else output
            cell_state = cell(cell.project(cell_input), previous)
            cells.append(cell_state)
            output = output + cell_state[0] if number >= self.first_residual_layer else cell_state[0]
        context, weights = attended or self.attention(output, state.memory)
        joined = torch.cat([output, context], dim=1)
        if mask is not None:
            joined = joined * mask
        hidden = torch.tanh(self.hidden(joined))
        return weights, RecurrentState(state.memory, hidden, tuple(cells))
