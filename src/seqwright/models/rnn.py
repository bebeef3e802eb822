"""Recurrent cells and the recurrent encoder. Gate order and parameter names are PyTorch's."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqwright.models.embeddings import TokenEmbedding
from seqwright.models.protocols import Encoded

CellState = tuple[Tensor, ...]
"""What a cell hands to its next step: the output `[N, H]`, and for an LSTM the memory cell `[N, H]`."""


class RecurrentCell(nn.Module):
    """One step of an LSTM or a GRU, with the input's part of the gates computed apart.

    The input's part does not depend on the previous step, so a caller that knows all inputs computes it for all
    steps in one product (`project`).

    Args:
        kind: `lstm` or `gru`.
        input_size: width of the input, I.
        hidden_size: width of the output, H.
    """

    def __init__(self, kind: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.kind = kind
        gates = {"lstm": 4, "gru": 3}[kind]
        self.hidden_size = hidden_size
        self.num_states = {"lstm": 2, "gru": 1}[kind]
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.zeros(gates * hidden_size))
        self.bias_hh = nn.Parameter(torch.zeros(gates * hidden_size))

    def project(self, inputs: Tensor, start: int = 0) -> Tensor:
        """The part of the gates that columns `start` on of the input make, bias included.

        Args:
            inputs: the first or only columns of the input, `[..., C]`.
            start: the weight's column that the first of them meets.

        Returns:
            `[..., gates · H]`.
        """
        weight = self.weight_ih[:, start : start + inputs.shape[-1]]
        return F.linear(inputs, weight, self.bias_ih if start == 0 else None)

    def forward(self, projected: Tensor, state: CellState) -> CellState:
        """One step from the projected input `[N, gates · H]`; the output is the first of the new state."""
        recurrent = F.linear(state[0], self.weight_hh, self.bias_hh)
        if self.kind == "lstm":
            return lstm_update(projected + recurrent, state[1])
        return (gru_update(projected, recurrent, state[0]),)


def lstm_update(gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """`c' = σ(f)·c + σ(i)·tanh(g)`, `h' = σ(o)·tanh(c')` (Hochreiter and Schmidhuber 1997, with forget gate).

    Args:
        gates: pre-activations in the order i, f, g, o, `[N, 4H]`.
        memory: the memory cell c, `[N, H]`.

    Returns:
        The output h' and the memory cell c', both `[N, H]`.
    """
    write, forget, candidate, read = gates.chunk(4, dim=1)
    memory = torch.sigmoid(forget) * memory + torch.sigmoid(write) * torch.tanh(candidate)
    return torch.sigmoid(read) * torch.tanh(memory), memory


def gru_update(projected: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    """`h' = (1 - z)·tanh(x_n + r·h_n) + z·h` (Cho et al. 2014, with the reset gate after the product).

    Args:
        projected: the input's part of r, z, n, `[N, 3H]`.
        recurrent: the previous output's part of r, z, n, `[N, 3H]`.
        hidden: the previous output h, `[N, H]`.

    Returns:
        The output h', `[N, H]`.
    """
    input_reset, input_update, input_new = projected.chunk(3, dim=1)
    hidden_reset, hidden_update, hidden_new = recurrent.chunk(3, dim=1)
    update = torch.sigmoid(input_update + hidden_update)
    candidate = torch.tanh(input_new + torch.sigmoid(input_reset + hidden_reset) * hidden_new)
    return candidate + update * (hidden - candidate)


class RecurrentEncoder(nn.Module):
    """One bidirectional layer of H/2 units a direction, then forward layers of H units.

    Args:
        vocab_size: source vocabulary size, V.
        num_embed: embedding width, E.
        num_hidden: width of every layer's output, H; even.
        num_layers: layers, the bidirectional one counted.
        cell_type: `lstm` or `gru`.
        embed_dropout: dropout on the embeddings.
        first_residual_layer: first layer, counted from 1, whose input is added to its output; None for no
            residual connections.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_embed: int,
        num_hidden: int,
        num_layers: int,
        cell_type: str,
        embed_dropout: float = 0.0,
        first_residual_layer: int | None = None,
    ) -> None:
        super().__init__()
        layer = {"lstm": nn.LSTM, "gru": nn.GRU}[cell_type]
        self.output_size = num_hidden
        self.first_residual_layer = first_residual_layer or math.inf
        self.embedding = TokenEmbedding(vocab_size, num_embed, embed_dropout)
        self.forward_layer = layer(num_embed, num_hidden // 2, batch_first=True)
        self.backward_layer = layer(num_embed, num_hidden // 2, batch_first=True)
        self.layers = nn.ModuleList(layer(num_hidden, num_hidden, batch_first=True) for _ in range(num_layers - 1))

    def forward(self, source: Tensor, lengths: Tensor) -> Encoded:
        """Encode `source` ids `[B, S]` of the given `lengths` `[B]`; states are `[B, S, H]`.

        Padding follows the sequence in either direction (the backward layer reads each sequence reversed in place),
        so it never reaches a real position.
        """
        embedded = self.embedding(source)
        mirror = mirrored_positions(lengths, source.shape[1])
        ahead, _ = self.forward_layer(embedded)
        back, _ = self.backward_layer(reverse(embedded, mirror))
        states = torch.cat([ahead, reverse(back, mirror)], dim=2)
        for number, layer in enumerate(self.layers, start=2):
            output, _ = layer(states)
            states = output + states if number >= self.first_residual_layer else output
        return Encoded.of(states, lengths)


def mirrored_positions(lengths: Tensor, size: int) -> Tensor:
    """For each position its mirror image within the sequence's real length; padding stays, `[B, size]`."""
    positions = torch.arange(size, device=lengths.device).expand(len(lengths), size)
    mirrored = lengths.unsqueeze(1) - 1 - positions
    return torch.where(mirrored >= 0, mirrored, positions)


def reverse(states: Tensor, mirror: Tensor) -> Tensor:
    """`states` `[B, S, H]` in the order of `mirror` `[B, S]`."""
    return states.gather(1, mirror.unsqueeze(2).expand_as(states))
