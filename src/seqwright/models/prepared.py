"""A trained model made ready for search: what depends on its parameters alone is computed once."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqwright.devices import Precision, autocast
from seqwright.models.attention import AttentionMemory, MlpAttention
from seqwright.models.products import product
from seqwright.models.protocols import Decoder, Encoded, padding_bias
from seqwright.models.rnn import RecurrentCell
from seqwright.models.rnn_decoder import RecurrentDecoder
from seqwright.models.seq2seq import Seq2Seq

MAX_TABLE = 1 << 27
"""Numbers that the table of projected embeddings may hold: half a gigabyte in fp32."""


NARROWED = (nn.Linear, nn.Conv1d, nn.LSTM, nn.GRU, RecurrentCell)
"""Modules whose parameters enter matrix products and nothing else."""


class SearchDecoder(Protocol):
    """A decoder as search uses it; see `Decoder`."""

    def start(self, encoded: Encoded) -> Any:  # noqa: ANN401 - a `DecoderState` of the decoder's own
        """The state before the first token, one hypothesis a sentence."""

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:  # noqa: ANN401
        """Feed `token` `[N]`: hidden vectors `[N, H]`, attention weights `[N, S]` and the next state."""


class SearchModel(Protocol):
    """A model as search uses it: a `Seq2Seq`, or one made ready."""

    @property
    def decoder(self) -> SearchDecoder:
        """The decoder."""

    def encode(self, source: Tensor, source_lengths: Tensor) -> Encoded:
        """Encode `source` ids `[B, S]` of the given lengths `[B]`."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Unnormalised log probabilities `[..., V]` of the next token, from hidden vectors `[..., H]`."""


class PreparedModel:
    """A model for search. Its parameters must not change while this is in use.

    Args:
        model: the model, where it is to run.
        precision: the arithmetic of its matrix products.
    """

    def __init__(self, model: Seq2Seq, precision: Precision = "fp32") -> None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        weight = model.output_layer.weight.detach()
        narrow = narrowed(model, dtype)
        self._encode = narrow.encode
        self._arithmetic = partial(autocast, weight.device, precision)
        self.decoder = self._prepared(model.decoder, narrow.decoder, dtype)
        self._output = product(weight.to(dtype), model.output_layer.bias.detach())
        self._dtype = dtype

    def encode(self, source: Tensor, source_lengths: Tensor) -> Encoded:
        """As `Seq2Seq.encode`."""
        with self._arithmetic():
            return self._encode(source, source_lengths)

    def logits(self, hidden: Tensor) -> Tensor:
        """As `Seq2Seq.logits`."""
        return self._output(hidden.to(self._dtype))

    def _prepared(self, decoder: Decoder, narrow: Decoder, dtype: torch.dtype) -> SearchDecoder:
        """The fast form of a decoder where there is one; `narrow` is what `narrowed` makes of it."""
        if isinstance(decoder, RecurrentDecoder) and decoder.is_fusable:
            return PreparedRecurrentDecoder(decoder, dtype)
        return narrow if dtype == torch.float32 else AutocastDecoder(narrow, self._arithmetic)


def narrowed(model: Seq2Seq, dtype: torch.dtype) -> Seq2Seq:
    """A copy whose matrix products' weights are of `dtype`, to be run under autocast, which need not cast them then.

    Everything else of it is the model's own; in fp32 it is the model.
    """
    if dtype == torch.float32:
        return model
    shared = {id(each): each for each in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    for part in copied.modules():
        if isinstance(part, NARROWED):
            for name, weight in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
    return copied


class AutocastDecoder:
    """A decoder that is run under autocast.

    Args:
        decoder: the decoder.
        arithmetic: makes the context to run it in.
    """

    def __init__(self, decoder: Decoder, arithmetic: Callable[[], AbstractContextManager[object]]) -> None:
        self._decoder = decoder
        self._arithmetic = arithmetic

    def start(self, encoded: Encoded) -> Any:  # noqa: ANN401
        """As `SearchDecoder.start`."""
        with self._arithmetic():
            return self._decoder.start(encoded)

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:  # noqa: ANN401
        """As `SearchDecoder.step`."""
        with self._arithmetic():
            return self._decoder.step(token, state)


@dataclass(frozen=True)
class PreparedState:
    """A `PreparedRecurrentDecoder` between two steps.

    Attributes:
        memory: the source side of attention, `[B, ...]`; the keys are twice as large as the decoder's.
        recurrent: what the next step's gates read, `[previous attentional hidden; the cell's negated output]`,
            `[N, 2H]`, of the products' type.
        twice_cell: the memory cell, twice as large, fp32 `[N, H]`.
    """

    memory: AttentionMemory
    recurrent: Tensor
    twice_cell: Tensor


class PreparedRecurrentDecoder:
    """A recurrent decoder of the kind that `fused_decoder` covers, for search.

    The gates' share of each target token is looked up in a table, `W [embedding] + b` for the whole vocabulary; the
    shares of the two recurrent inputs come from one product.

    Every tanh of the cell and of attention is `2 σ(2x) - 1`, for PyTorch's sigmoid takes a quarter of the time of its
    tanh on a CPU. The factors 2 within are part of weights, keys and the memory cell. The cell's output `o · tanh(c)`
    is kept as its negative, for that is one operation, `o - 2 o σ(2c)`, and the weights that read it are negative as
    well: at a few thousand numbers a step, it is operations that count. On a CPU attention is fp32 whatever the
    products are: its sums and sigmoids take half as long again in bf16.

    Args:
        decoder: the decoder.
        dtype: the type of the matrix products, fp32 or bf16.
    """

    @torch.no_grad()
    def __init__(self, decoder: RecurrentDecoder, dtype: torch.dtype) -> None:
        size, weights, attention = decoder.output_size, decoder.weights(), cast(MlpAttention, decoder.attention)
        scale = _gate_scale(size, weights.step)
        step, hidden = weights.step * scale.unsqueeze(1), weights.hidden.clone()
        step[:, size:] *= -1
        hidden[:, :size] *= -1
        self._size, self._dtype = size, dtype
        self._attention_dtype = torch.float32 if scale.device.type == "cpu" else dtype
        self._summary = decoder.summary
        self._keys = product((2 * attention.key.weight).to(dtype))
        self._initial = [
            product((sign * layer.weight).to(dtype), sign * layer.bias, tanh=True)
            for sign, layer in zip((-1, 1), cast(Sequence[nn.Linear], decoder.initial_states), strict=False)
        ]
        self._gates = _gates_by_token(decoder)
        self._step = product(step.to(dtype))
        self._query = product((-2 * weights.query).to(dtype))
        self._score = (2 * weights.score).to(self._attention_dtype)
        self._hidden = product(hidden.to(dtype), weights.hidden_bias.detach(), tanh=True)

    def start(self, encoded: Encoded) -> PreparedState:
        """As `RecurrentDecoder.start`."""
        states, dtype = encoded.states.to(self._dtype), self._attention_dtype
        bias = padding_bias(encoded.lengths, states.shape[1], torch.float32)
        memory = AttentionMemory(self._keys(states).to(dtype), states.to(dtype), bias)
        summary = self._summary(encoded)
        output = cell = zeros = states.new_zeros(len(states), self._size)
        if summary is not None:
            output, cell = (make(summary.to(self._dtype)) for make in self._initial)
        return PreparedState(memory, torch.cat([zeros, output], dim=1), 2 * cell.float())

    def step(self, token: Tensor, state: PreparedState) -> tuple[Tensor, Tensor, PreparedState]:
        """As `RecurrentDecoder.step`."""
        memory = state.memory
        gates = self._gates(token).add_(self._step(state.recurrent)).sigmoid_()
        write, forget, candidate, read = gates.chunk(4, dim=1)
        twice_cell = torch.mul(forget, state.twice_cell).addcmul_(write, candidate, value=4).sub_(write, alpha=2)
        output = torch.addcmul(read, read, torch.sigmoid(twice_cell), value=-2).to(self._dtype)

        sentences, length, width = memory.keys.shape
        query = self._query(output).to(self._attention_dtype).view(sentences, -1, 1, width)
        looked = torch.add(memory.keys.unsqueeze(1), query).sigmoid_()
        scores = (looked @ self._score).float() + memory.bias.unsqueeze(1)
        attention = torch.softmax(scores, dim=2)
        context = torch.bmm(attention.to(self._attention_dtype), memory.values).view(len(token), -1)
        hidden = self._hidden(torch.cat([output, context.to(self._dtype)], dim=1))
        following = PreparedState(memory, torch.cat([hidden, output], dim=1), twice_cell)
        return hidden, attention.view(len(token), length), following


def _gate_scale(size: int, like: Tensor) -> Tensor:
    """What the rows of the gates i, f, g, o are multiplied with: 2 for the candidates g, otherwise 1, `[4H]`."""
    return torch.tensor([1, 1, 2, 1], dtype=like.dtype, device=like.device).repeat_interleave(size)


def _gates_by_token(decoder: RecurrentDecoder) -> Callable[[Tensor], Tensor]:
    """The embeddings' part of the gates `[N, 4H]` of tokens `[N]`, the candidates' twice as large.

    It comes from a table, or is made, where that were too large.
    """
    weight, bias = (each.detach() for each in decoder.embedding_projection())
    scale = _gate_scale(decoder.output_size, bias)
    weight, bias, embeddings = weight * scale.unsqueeze(1), bias * scale, decoder.embedding.table.weight.detach()
    if len(embeddings) * len(weight) > MAX_TABLE:
        return lambda token: F.linear(embeddings[token], weight, bias).float()
    table = F.linear(embeddings, weight, bias)
    return lambda token: table.index_select(0, token)
