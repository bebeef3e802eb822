"""The recurrent decoder over whole target sequences as one differentiable function: the fast path of training.

It covers the commonest decoder, one LSTM cell with mlp attention and input feeding, and computes what
`RecurrentDecoder` computes step by step. It is faster because autograd records nothing for each step, buffers for all
steps are allocated at once, and the backward pass, derived by hand, multiplies with each weight once for all steps. The
equations are those of `rnn.lstm_update`, `attention.MlpAttention` and `rnn_decoder`.

Attention's `v · tanh(x)` is computed as `2v · σ(2x)`. Both differ by a constant, Σv, which the softmax cancels, and
PyTorch's sigmoid takes a quarter of the time of its tanh on a CPU. With s = σ(2x), tanh'(x) = 4 s (1 - s). Attention's
hidden layer, `[T, B, S, A]`, would take more memory than everything else together: it is computed one step at a time,
and again in the backward pass.

Shapes: B sentences, T target length, S source length, H hidden units, D width of the encoder's states, A attention
units.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqwright.models.linear import packed_linear


@dataclass(frozen=True)
class DecoderWeights:
    """The parameters of a step.

    Attributes:
        step: `[first cell's columns for the attentional hidden; weight_hh]`, `[4H, 2H]`.
        query: attention's W, `[A, H]`.
        score: attention's v, `[A]`.
        hidden: the weight of the attentional hidden, `[H, H + D]`.
        hidden_bias: its bias, `[H]`.
    """

    step: Tensor
    query: Tensor
    score: Tensor
    hidden: Tensor
    hidden_bias: Tensor


def decode(
    projected: Tensor,
    output: Tensor,
    cell: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
    weights: DecoderWeights,
    mask: Tensor | None,
) -> Tensor:
    """Attentional hidden vectors of every step, `[B, T, H]`.

    Args:
        projected: the share of the embeddings in the gates, both biases included, gates in the order i, f, g, o,
            `[T, B, 4H]`.
        output: the cell's output h before the first step, `[B, H]`.
        cell: the memory cell c before the first step, `[B, H]`.
        keys: attention's keys, `[B, S, A]`; their type is that of the matrix products, fp32 or bf16.
        values: the encoder's states, `[B, S, D]`.
        bias: zero at real source positions and the most negative number at padding, `[B, S]`.
        weights: the parameters.
        mask: dropout factors of `[output; context]`, `[T, B, H + D]`; None for no dropout.
    """
    with torch.autocast(keys.device.type, enabled=False):
        hiddens: Tensor = _Decode.apply(  # type: ignore[no-untyped-call]
            projected, output, cell, keys, values, bias, *vars(weights).values(), mask
        )
    return hiddens.transpose(0, 1)


class _Decode(torch.autograd.Function):
    """`decode` with single weights; returns `[T, B, H]`."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's own
        projected: Tensor,
        output: Tensor,
        cell: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
        step: Tensor,
        query: Tensor,
        score: Tensor,
        hidden: Tensor,
        hidden_bias: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        dtype, device = keys.dtype, keys.device
        steps, batch, size = len(projected), len(keys), cell.shape[1]  # T, B, H
        length, width = keys.shape[1:]  # S, A
        values, bias = values.to(dtype), bias.float()
        step, query, score, hidden = (weight.to(dtype) for weight in (step, query, score, hidden))
        step_product, query_product, hidden_product = (packed_linear(weight) for weight in (step, 2 * query, hidden))
        twice_keys, twice_score = 2 * keys, 2 * score
        inputs = torch.empty(steps + 1, batch, 2 * size, dtype=dtype, device=device)  # [attentional hidden; output]
        joined = torch.empty(steps, batch, hidden.shape[1], dtype=dtype, device=device)  # [output; context]
        gates = torch.empty(steps, batch, 4 * size, device=device)
        cells = torch.empty(steps + 1, batch, size, device=device)
        squashed = torch.empty(steps, batch, size, device=device)  # tanh of the memory cell
        queries = torch.empty(steps, batch, width, dtype=dtype, device=device)
        activations = torch.empty_like(keys)  # attention's hidden layer of one step, [B, S, A]
        attention = torch.empty(steps, batch, length, device=device)
        inputs[0, :, :size] = 0
        inputs[0, :, size:] = output
        cells[0] = cell
        for t in range(steps):
            torch.add(projected[t], step_product(inputs[t]), out=gates[t])  # [B, 4H]
            gates[t, :, : 2 * size].sigmoid_()
            gates[t, :, 2 * size : 3 * size].tanh_()
            gates[t, :, 3 * size :].sigmoid_()
            input_gate, forget_gate, candidate, output_gate = gates[t].chunk(4, dim=1)
            torch.mul(forget_gate, cells[t], out=cells[t + 1]).addcmul_(input_gate, candidate)
            torch.mul(output_gate, torch.tanh(cells[t + 1], out=squashed[t]), out=inputs[t + 1, :, size:])
            output = inputs[t + 1, :, size:]  # [B, H]

            queries[t] = query_product(output)  # [B, A]
            torch.add(twice_keys, queries[t].unsqueeze(1), out=activations).sigmoid_()
            torch.softmax((activations @ twice_score).float() + bias, dim=1, out=attention[t])  # [B, S]
            joined[t, :, :size] = output
            joined[t, :, size:] = torch.bmm(attention[t].to(dtype).unsqueeze(1), values).squeeze(1)  # context, [B, D]
            if mask is not None:
                joined[t] *= mask[t]
            torch.tanh(hidden_product(joined[t]).float() + hidden_bias, out=inputs[t + 1, :, :size])
        ctx.saved = (inputs, joined, gates, cells, squashed, queries, attention, mask)
        ctx.save_for_backward(keys, values, step, query, score, hidden)
        ctx.dtypes = (projected.dtype, output.dtype)
        return inputs[1:, :, :size]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, joined, gates, cells, squashed, queries, attention, mask = ctx.saved
        del ctx.saved  # the gates are overwritten: a second backward pass is impossible
        keys, values, step, query, score, hidden = ctx.saved_tensors
        dtype, steps, batch, size = keys.dtype, len(gates), len(keys), cells.shape[2]

        # The factor of each gate's gradient, for all steps at once; the factors overwrite the gates.
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=2)  # [T, B, H] each
        forgetting = forget_gate.clone()
        output_slope = output_gate * (1 - squashed * squashed)
        output_factor = squashed * output_gate * (1 - output_gate)
        candidate_factor = input_gate * (1 - candidate * candidate)
        input_factor = candidate * input_gate * (1 - input_gate)
        torch.mul(cells[:-1], forget_gate * (1 - forget_gate), out=forget_gate)
        input_gate.copy_(input_factor)
        candidate.copy_(candidate_factor)
        output_gate.copy_(output_factor)
        factors = gates.view(steps, batch, 4, size)

        transposed = (weight.t().contiguous() for weight in (step, query, hidden))
        step_product, query_product, hidden_product = (packed_linear(weight) for weight in transposed)
        d_gates = torch.empty(steps, batch, 4, size, dtype=dtype, device=keys.device)
        d_hidden = torch.empty(steps, batch, size, dtype=dtype, device=keys.device)
        d_context = torch.empty(steps, batch, values.shape[2], dtype=dtype, device=keys.device)
        d_scores = torch.empty(steps, batch, keys.shape[1], dtype=dtype, device=keys.device)
        d_query = torch.empty(steps, batch, keys.shape[2], dtype=dtype, device=keys.device)
        d_keys = torch.zeros(keys.shape, device=keys.device)
        d_score = torch.zeros(keys.shape[2], device=keys.device)
        twice_keys, activations = 2 * keys, torch.empty_like(keys)
        d_inputs = torch.zeros(batch, 2 * size, dtype=dtype, device=keys.device)
        d_cell = torch.zeros(batch, size, device=keys.device)
        for t in range(steps - 1, -1, -1):
            attentional = inputs[t + 1, :, :size].float()  # [B, H]
            torch.mul(gradient[t] + d_inputs[:, :size], 1 - attentional * attentional, out=d_hidden[t])
            d_joined = hidden_product(d_hidden[t])
            if mask is not None:
                d_joined *= mask[t]
            d_context[t] = d_joined[:, size:]
            d_attention = torch.bmm(values, d_context[t].unsqueeze(2)).squeeze(2).float()
            weighted = attention[t] * d_attention
            torch.addcmul(weighted, attention[t], weighted.sum(1, keepdim=True), value=-1, out=d_scores[t])

            # The factors 4 and v are the same at every step: they are applied at the end.
            torch.add(twice_keys, queries[t].unsqueeze(1), out=activations).sigmoid_()
            d_score += d_scores[t].flatten() @ activations.flatten(0, 1)
            slope = activations.addcmul_(activations, activations, value=-1)  # s (1 - s), [B, S, A]
            d_keys.addcmul_(slope, d_scores[t].unsqueeze(2))
            torch.mul(torch.bmm(d_scores[t].unsqueeze(1), slope).squeeze(1), 4 * score, out=d_query[t])

            d_output = (query_product(d_query[t]) + d_joined[:, :size] + d_inputs[:, size:]).float()
            d_cell.addcmul_(d_output, output_slope[t])
            torch.mul(d_cell.unsqueeze(1), factors[t, :, :3], out=d_gates[t, :, :3])
            torch.mul(d_output, factors[t, :, 3], out=d_gates[t, :, 3])
            d_cell *= forgetting[t]
            d_inputs = step_product(d_gates[t].view(batch, 4 * size))

        d_keys *= 4 * score
        d_values = torch.bmm(attention.to(dtype).permute(1, 2, 0), d_context.transpose(0, 1))
        rows = steps * batch
        outputs, flat = inputs[1:, :, size:].reshape(rows, size), d_gates.view(rows, 4 * size)
        d_step = flat.t() @ inputs[:-1].view(rows, 2 * size)
        d_weight_query = d_query.view(rows, -1).t() @ outputs
        d_weight_hidden = d_hidden.view(rows, size).t() @ joined.view(rows, -1)
        d_bias = d_hidden.sum((0, 1), dtype=torch.float32)
        projected_dtype, output_dtype = ctx.dtypes
        return (
            flat.view(steps, batch, -1).to(projected_dtype),
            d_inputs[:, size:].to(output_dtype),
            d_cell,
            d_keys.to(dtype),
            d_values,
            None,
            d_step.float(),
            d_weight_query.float(),
            2 * d_score,  # the constant Σv adds nothing: the sum of a step's d_scores is zero
            d_weight_hidden.float(),
            d_bias,
            None,
        )
