"""A trained model prepared for search: what depends on its parameters alone is computed once.

A prepared model is a copy of the model in which modules of the types in `PREPARED` are replaced by faster ones that
compute the same. So a new architecture made of these modules is fast without code of its own; a new module gets a
prepared form by an entry there. Parameters that need not be cast or rearranged are shared with the model.

The modules of a prepared model take and return fp32. In bf16 they cast what enters a matrix product, as autocast
would, but with weights that are cast once.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqwright.devices import Precision, autocast
from seqwright.models.attention import MlpAttention
from seqwright.models.cnn import ConvolutionBlock
from seqwright.models.linear import TanhLinear, packed_linear
from seqwright.models.rnn import CellState, RecurrentCell
from seqwright.models.rnn_decoder import RecurrentDecoder
from seqwright.models.seq2seq import Seq2Seq

MAX_TABLE = 1 << 27
"""Numbers that the table of projected tokens may hold: half a gigabyte in fp32."""


@torch.no_grad()
def prepare_model(model: Seq2Seq, precision: Precision = "fp32") -> Seq2Seq:
    """A copy of `model` for search, which computes the same faster.

    Args:
        model: the model, on its device; its parameters must not change while the copy is in use.
        precision: the arithmetic of the matrix products.
    """
    shared = {id(each): each for each in (*model.parameters(), *model.buffers())}
    prepared = copy.deepcopy(model, shared).eval()
    _replace_children(prepared, torch.bfloat16 if precision == "bf16" else torch.float32)
    decoder = prepared.decoder
    if isinstance(decoder, RecurrentDecoder):
        embeddings, project = decoder.embedding.table.weight, decoder.cells[0].project
        if len(embeddings) * project(embeddings[:1]).shape[1] <= MAX_TABLE:
            decoder.gate_table = project(embeddings)  # [V, gates · H]
    return prepared


def _replace_children(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace the modules in `module` that have a prepared form, the outermost of nested ones."""
    for name, child in module.named_children():
        if make := PREPARED.get(type(child)):
            setattr(module, name, make(child, dtype))
        else:
            _replace_children(child, dtype)


def _cast_linear(
    weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, tanh: bool = False
) -> Callable[[Tensor], Tensor]:
    """`packed_linear` in `dtype`, from fp32 to fp32."""
    multiply = packed_linear(weight.detach().to(dtype), None if bias is None else bias.detach(), tanh=tanh)
    return multiply if dtype == torch.float32 else lambda x: multiply(x.to(dtype)).float()


class PreparedLinear(nn.Module):
    """`nn.Linear` or `TanhLinear` with a packed weight."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self._multiply = _cast_linear(layer.weight, layer.bias, dtype, tanh=isinstance(layer, TanhLinear))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `[..., O]` of inputs `[..., I]`."""
        return self._multiply(x)


class Bf16RecurrentLayer(nn.Module):
    """`nn.LSTM` or `nn.GRU` over whole sequences, with weights in bf16."""

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self._layer = layer
        for name, weight in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter(weight.detach().bfloat16(), requires_grad=False))

    def forward(self, inputs: Tensor) -> tuple[Tensor, None]:
        """Outputs `[B, S, H]` of inputs `[B, S, I]`; the final state, which nobody reads, is left out."""
        with autocast(inputs.device, "bf16"):
            outputs, _ = self._layer(inputs)
        return outputs.float(), None


def _prepare_layer(layer: nn.LSTM | nn.GRU, dtype: torch.dtype) -> nn.Module:
    """PyTorch's recurrent layers are fast as they are; in bf16 their weights are cast once."""
    return layer if dtype == torch.float32 else Bf16RecurrentLayer(layer)


class PreparedLstmCell(nn.Module):
    """`RecurrentCell` of the kind `lstm`, with one product and one sigmoid for all gates.

    The rows of the cell candidate are twice as large in the weights, for `tanh(x) = 2 σ(2x) - 1`: PyTorch's sigmoid
    takes a quarter of the time of its tanh on a CPU.
    """

    def __init__(self, cell: RecurrentCell, dtype: torch.dtype) -> None:
        super().__init__()
        scale = torch.tensor([1.0, 1.0, 2.0, 1.0], device=cell.bias_ih.device)  # of the gates i, f, g, o
        scale = scale.repeat_interleave(cell.hidden_size)  # [4H]
        projected_weight, other_weight = (weight * scale.unsqueeze(1) for weight in cell.split_weight())
        self._projected_weight = projected_weight.detach()
        self._bias = ((cell.bias_ih + cell.bias_hh) * scale).detach()
        recurrent = cell.weight_hh * scale.unsqueeze(1)
        self._multiply = _cast_linear(torch.cat([other_weight, recurrent], dim=1), None, dtype)

    def project(self, inputs: Tensor) -> Tensor:
        """As `RecurrentCell.project`, with both biases, and cell candidates twice as large."""
        return F.linear(inputs, self._projected_weight, self._bias)

    def forward(self, inputs: Tensor, state: CellState, projected: Tensor | None = None) -> CellState:
        """As `RecurrentCell.forward`; `projected` is from `project` of this class."""
        hidden, cell = state
        gates = self._multiply(torch.cat([inputs, hidden], dim=1))  # [N, 4H]
        gates = gates.add_(self._bias if projected is None else projected).sigmoid_()
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
        # c' = f c + i tanh(g)
        cell = torch.mul(forget_gate, cell).addcmul_(input_gate, candidate, value=2).sub_(input_gate)
        return output_gate * torch.tanh(cell), cell


class PreparedGruCell(nn.Module):
    """`RecurrentCell` of the kind `gru`. The reset gate acts on the recurrent product alone, so that there are two."""

    def __init__(self, cell: RecurrentCell, dtype: torch.dtype) -> None:
        super().__init__()
        projected_weight, other_weight = cell.split_weight()
        self._projected_weight, self._bias = projected_weight.detach(), cell.bias_ih.detach()
        self._multiply = _cast_linear(other_weight.contiguous(), None, dtype)
        self._multiply_recurrent = _cast_linear(cell.weight_hh, cell.bias_hh, dtype)

    def project(self, inputs: Tensor) -> Tensor:
        """As `RecurrentCell.project`."""
        return F.linear(inputs, self._projected_weight, self._bias)

    def forward(self, inputs: Tensor, state: CellState, projected: Tensor | None = None) -> CellState:
        """As `RecurrentCell.forward`."""
        (hidden,) = state
        size = hidden.shape[1]
        gates = self._multiply(inputs).add_(self._bias if projected is None else projected)  # [N, 3H]
        recurrent = self._multiply_recurrent(hidden)  # [N, 3H]
        reset_gate, update_gate = gates[:, : 2 * size].add_(recurrent[:, : 2 * size]).sigmoid_().chunk(2, dim=1)
        candidate = gates[:, 2 * size :].addcmul_(reset_gate, recurrent[:, 2 * size :]).tanh_()
        return (torch.lerp(candidate, hidden, update_gate),)  # n + z (h - n)


def _prepare_cell(cell: RecurrentCell, dtype: torch.dtype) -> nn.Module:
    return PreparedLstmCell(cell, dtype) if cell.kind == "lstm" else PreparedGruCell(cell, dtype)


class PreparedMlpAttention(MlpAttention):
    """`MlpAttention` whose `v · tanh(x)` is computed as `2v · σ(2x)`.

    Both differ by a constant, Σv, which the softmax over the source cancels. The factors 2 are part of the weights.
    """

    def __init__(self, attention: MlpAttention, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self._twice_query = _cast_linear(2 * attention.query.weight, None, dtype)
        self._twice_key = _cast_linear(2 * attention.key.weight, None, dtype)
        self._twice_score = 2 * attention.score.weight.detach()[0]  # [A]

    def keys(self, states: Tensor) -> Tensor:
        """`2 U s`, `[B, S, A]`."""
        return self._twice_key(states)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """`v · tanh(W q + U s)` less a constant, `[B, K, S]`."""
        hidden = torch.add(self._twice_query(query).unsqueeze(2), keys.unsqueeze(1)).sigmoid_()  # [B, K, S, A]
        return hidden @ self._twice_score


class PreparedConvolution(ConvolutionBlock):
    """`ConvolutionBlock` with a packed weight."""

    def __init__(self, block: ConvolutionBlock, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.convolution, self.activation = block.convolution, block.activation
        self._multiply = _cast_linear(block.weight_rows().contiguous(), block.convolution.bias, dtype)

    def convolve(self, rows: Tensor) -> Tensor:
        """As `ConvolutionBlock.convolve`."""
        return self._multiply(rows)


PREPARED: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Linear: PreparedLinear,
    TanhLinear: PreparedLinear,
    nn.LSTM: _prepare_layer,
    nn.GRU: _prepare_layer,
    RecurrentCell: _prepare_cell,
    MlpAttention: PreparedMlpAttention,
    ConvolutionBlock: PreparedConvolution,
}
"""The prepared form of each type of module, made from the module and the type of its matrix products."""
