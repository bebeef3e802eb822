"""The recurrent decoder: input feeding, attention, and stacked cells, as the original has them.

Step t (Luong et al. 2015, with input feeding): the first cell reads `[embedding of the last token; previous
attentional hidden]`, attention looks at the source from a cell's output, and the attentional hidden
`tanh(W [output; context] + b)` predicts the next token. With `attention_in_upper_layers` the first cell's output
attends, and every upper cell reads `[output below; context]` (Wu et al. 2016); without it, the top cell's output does.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqwright.models.attention import AttentionMemory, MlpAttention, build_attention
from seqwright.models.embeddings import TokenEmbedding
from seqwright.models.fused_decoder import DecoderWeights, decode
from seqwright.models.linear import TanhLinear
from seqwright.models.protocols import DecoderState, Encoded
from seqwright.models.rnn import NUM_STATES, CellState, RecurrentCell


class RecurrentHypotheses(NamedTuple):
    """What differs between the hypotheses of a recurrent decoder.

    Attributes:
        hidden: the previous attentional hidden, `[N, H]`.
        cells: the state of every cell, bottom first, each a tuple of `[N, H]`.
    """

    hidden: Tensor
    cells: tuple[CellState, ...]


RecurrentState = DecoderState[AttentionMemory, RecurrentHypotheses]


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
        self.state_init = state_init
        self.upper_cells_read_context = attention_in_upper_layers and num_layers > 1
        self.first_residual_layer = first_residual_layer or math.inf
        self.embedding = TokenEmbedding(vocab_size, num_embed, embed_dropout)
        upper_input = num_hidden + (encoder_size if self.upper_cells_read_context else 0)
        stack = nn.ModuleList([RecurrentCell(cell_type, num_embed + num_hidden, num_hidden, projected_size=num_embed)])
        stack.extend(RecurrentCell(cell_type, upper_input, num_hidden) for _ in range(num_layers - 1))
        self.cells = cast(Sequence[RecurrentCell], stack)
        self.attention = build_attention(
            attention_type, query_size=num_hidden, state_size=encoder_size, num_hidden=attention_num_hidden
        )
        self.hidden_dropout = hidden_dropout
        self.hidden = TanhLinear(num_hidden + encoder_size, num_hidden)
        self.num_states = NUM_STATES[cell_type]
        count = 0 if state_init == "zero" else num_layers * self.num_states
        self.initial_states = nn.ModuleList(TanhLinear(encoder_size, num_hidden) for _ in range(count))
        self.gate_table: Tensor | None = None
        """`project_tokens` of the whole vocabulary, `[V, gates · H]`, where it was computed for search."""

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
        (output, cell), memory = state.hypotheses.cells[0], state.memory
        if tokens.device.type == "cpu" and not (self.training and self.embedding.dropout.p):
            # Most tokens of a batch occur many times: each is projected once. The gradients of its occurrences are
            # added up in fp32, also where products are bf16.
            distinct, positions = torch.unique(tokens, return_inverse=True)
            by_token = F.linear(self.embedding(distinct), *self.embedding_projection()).float()
            projected = F.embedding(positions, by_token)  # [T, B, 4H]
        else:
            projected = F.linear(self.embedding(tokens), *self.embedding_projection())
        return decode(projected, output, cell, memory.keys, memory.values, memory.bias, self.weights(), mask)

    def weights(self) -> DecoderWeights:
        """The parameters of a step, of a decoder that is fusable."""
        cell, attention = self.cells[0], cast(MlpAttention, self.attention)
        return DecoderWeights(
            torch.cat([cell.split_weight()[1], cell.weight_hh], dim=1),
            attention.query.weight,
            attention.score.weight[0],
            self.hidden.weight,
            self.hidden.bias,
        )

    def embedding_projection(self) -> tuple[Tensor, Tensor]:
        """Weight `[gates · H, E]` and bias of the embedding's part of the first cell's gates, both biases in one."""
        cell = self.cells[0]
        return cell.split_weight()[0], cell.bias_ih + cell.bias_hh

    def _decode_by_steps(self, tokens: Tensor, state: RecurrentState, mask: Tensor | None) -> Tensor:
        """Step by step, for every decoder; the reference for `_decode_fused`."""
        outputs = []
        for number, projected in enumerate(self.cells[0].project(self.embedding(tokens))):  # [T, B, gates · H]
            _, state = self._advance(projected, state, None if mask is None else mask[number])
            outputs.append(state.hypotheses.hidden)
        return torch.stack(outputs, dim=1)  # [B, T, H]

    def _dropout_mask(self, tokens: Tensor, encoded: Encoded) -> Tensor | None:
        """The factors of `[output; context]` at every step, `[T, B, H + D]`; None without dropout."""
        if not (self.training and self.hidden_dropout):
            return None
        ones = encoded.states.new_ones(*tokens.shape, self.hidden.in_features)
        return F.dropout(ones, self.hidden_dropout)

    def start(self, encoded: Encoded) -> RecurrentState:
        """The state before the first token, with one hypothesis for each sentence.

        The states of every cell are `tanh(W e + b)` of the encoder's last or mean state e, or zero.
        """
        zeros = encoded.states.new_zeros(len(encoded.lengths), self.output_size)
        if self.state_init == "zero":
            states = [zeros] * (len(self.cells) * self.num_states)
        else:
            summary = encoded.last if self.state_init == "last" else encoded.mean()  # [B, D]
            states = [layer(summary) for layer in self.initial_states]
        by_cell = zip(*[iter(states)] * self.num_states, strict=True)  # the states of each cell together
        return DecoderState(self.attention.remember(encoded), RecurrentHypotheses(zeros, tuple(by_cell)))

    def project_tokens(self, token: Tensor) -> Tensor:
        """The share of `token` `[N]` in the first cell's gates, `[N, gates · H]`."""
        if self.gate_table is not None:
            return self.gate_table.index_select(0, token)
        return self.cells[0].project(self.embedding(token))

    def step(self, token: Tensor, state: RecurrentState) -> tuple[Tensor, Tensor, RecurrentState]:
        """Feed `token` `[N]`: the attentional hidden `[N, H]`, attention weights `[N, S]`, and the next state."""
        weights, state = self._advance(self.project_tokens(token), state)
        return state.hypotheses.hidden, weights, state

    def _advance(
        self, projected: Tensor, state: RecurrentState, mask: Tensor | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """One step from the token's share of the first cell's gates, `[N, gates · H]`."""
        before, memory = state.hypotheses, state.memory
        cell_state = self.cells[0](before.hidden, before.cells[0], projected)
        cells, output = [cell_state], cell_state[0]  # output: [N, H]
        attended: tuple[Tensor, Tensor] | None = None
        if self.upper_cells_read_context:
            attended = self.attention(output, memory)
        for number, (cell, previous) in enumerate(zip(self.cells[1:], before.cells[1:], strict=True), start=2):
            cell_state = cell(torch.cat([output, attended[0]], dim=1) if attended else output, previous)
            cells.append(cell_state)
            output = output + cell_state[0] if number >= self.first_residual_layer else cell_state[0]
        context, weights = attended or self.attention(output, memory)  # [N, D], [N, S]
        joined = torch.cat([output, context], dim=1)  # [N, H + D]
        if mask is not None:
            joined = joined * mask
        return weights, DecoderState(memory, RecurrentHypotheses(self.hidden(joined), tuple(cells)))
