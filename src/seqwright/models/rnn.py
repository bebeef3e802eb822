"""Recurrent cells and the recurrent encoder. Gate order and parameter names are PyTorch's."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqwright.models.embeddings import TokenEmbedding
from seqwright.models.protocols import Encoded

CellState = tuple[Tensor, ...]
"""The state of a cell between two steps: the output `[N, H]`, and for an LSTM the memory cell `[N, H]`."""

GATES = {"lstm": 4, "gru": 3}
"""Gates of a cell by its kind, the candidate counted; each has H rows in the weights."""

NUM_STATES = {"lstm": 2, "gru": 1}
"""Tensors in the state of a cell by its kind."""


class RecurrentCell(nn.Module):
    """One step of an LSTM or a GRU.

    A part of the input that is known for all steps beforehand can be multiplied with its weights in one product for
    all of them: `project`.

    Args:
        kind: `lstm` or `gru`.
        input_size: width of the input, I.
        hidden_size: width of the output, H.
        projected_size: columns P at the start of the input that are not in the `inputs` of `forward`: what `project`
            returns for them is passed as `projected`.
    """

    def __init__(self, kind: str, input_size: int, hidden_size: int, projected_size: int = 0) -> None:
        super().__init__()
        self.kind = kind
        self.hidden_size = hidden_size
        self.projected_size = projected_size
        rows = GATES[kind] * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias_ih = nn.Parameter(torch.zeros(rows))
        self.bias_hh = nn.Parameter(torch.zeros(rows))

    def split_weight(self) -> tuple[Tensor, Tensor]:
        """The input's weight for `project` and for `forward`, `[gates · H, P]` and `[gates · H, I - P]`."""
        return self.weight_ih[:, : self.projected_size], self.weight_ih[:, self.projected_size :]

    def project(self, inputs: Tensor) -> Tensor:
        """The share of the first columns of the input, `[..., P]`, in the gates, bias included: `[..., gates · H]`."""
        return F.linear(inputs, self.split_weight()[0], self.bias_ih)

    def forward(self, inputs: Tensor, state: CellState, projected: Tensor | None = None) -> CellState:
        """One step.

        Args:
            inputs: the other columns of the input, `[N, I - P]`.
            state: the state of the step before.
            projected: `project` of the first columns, `[N, gates · H]`; None where P is 0.

        Returns:
            The new state; its first tensor is the output.
        """
        weight = self.split_weight()[1]
        gates = F.linear(inputs, weight, self.bias_ih) if projected is None else projected + F.linear(inputs, weight)
        recurrent = F.linear(state[0], self.weight_hh, self.bias_hh)  # [N, gates · H]
        if self.kind == "lstm":
            return lstm_update(gates + recurrent, state[1])
        return (gru_update(gates, recurrent, state[0]),)


def lstm_update(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """`c' = σ(f)·c + σ(i)·tanh(g)`, `h' = σ(o)·tanh(c')` (Hochreiter and Schmidhuber 1997, with forget gate).

    Args:
        gates: pre-activations of the input gate i, the forget gate f, the cell candidate g and the output gate o,
            `[N, 4H]`.
        cell: the memory cell c, `[N, H]`.

    Returns:
        The output h' and the memory cell c', both `[N, H]`.
    """
    input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
    cell = torch.sigmoid(forget_gate) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
    return torch.sigmoid(output_gate) * torch.tanh(cell), cell


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
