"""The output layer fused with the cross-entropy, at target positions that are not padding."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqwright.data.batches import Batch
from seqwright.data.vocabulary import PAD
from seqwright.models.linear import packed_linear
from seqwright.models.seq2seq import Seq2Seq

CHUNK = 1 << 23
"""Logits held at a time: 32 MB in fp32."""


@dataclass(frozen=True)
class BatchLoss:
    """The loss of a batch with M target tokens, EOS counted, padding not.

    Attributes:
        total: negative log-likelihood summed over the target tokens, natural logarithm, a scalar.
        objective: what training minimises, a scalar with gradient: `total`, or its smoothed form, over the divisor.
        correct: how many target tokens the model ranks first under teacher forcing, a scalar.
        tokens: M.
    """

    total: Tensor
    objective: Tensor
    correct: Tensor
    tokens: int


def batch_loss(model: Seq2Seq, batch: Batch, label_smoothing: float = 0.0, divisor: float = 1.0) -> BatchLoss:
    """The loss of every target token of `batch` given those before it. Padding has no logits.

    Args:
        model: the model.
        batch: source and target sequences.
        label_smoothing: the share ε of the target distribution that is spread evenly over the vocabulary:
            `(1 - ε) · nll + ε · mean over the vocabulary of the negative log probability` (Szegedy et al. 2016).
        divisor: the objective is divided by it: the number of target tokens in an update.
    """
    hidden = model(batch.source, batch.source_lengths, batch.target_in)  # [B, T, H]
    is_real = batch.target_out != PAD  # [B, T]
    targets = batch.target_out[is_real]  # [M]
    layer = model.output_layer
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    with torch.autocast(hidden.device.type, enabled=False):
        total, objective, correct = output_loss(
            hidden[is_real].to(dtype), layer.weight, layer.bias, targets, label_smoothing, divisor
        )
    return BatchLoss(total, objective, correct, len(targets))


def output_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float = 0.0, divisor: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The output layer and the cross-entropy of its logits, a chunk of rows at a time.

    The gradients are computed with the loss, from the probabilities of each chunk: the gradient of the logits is the
    probabilities minus the target distribution. So the logits of all rows are never held at once.

    Args:
        hidden: `[M, H]`; its type, fp32 or bf16, is that of the matrix products.
        weight: of the output layer, `[V, H]`.
        bias: of the output layer, `[V]`.
        targets: ids, `[M]`.
        smoothing: ε of `batch_loss`.
        divisor: as in `batch_loss`.

    Returns:
        The summed negative log-likelihood without gradient, the objective, and how many targets rank first; scalars.
    """
    total, objective, correct = _OutputLoss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, smoothing, divisor, torch.is_grad_enabled()
    )
    return total, objective, correct


class _OutputLoss(torch.autograd.Function):
    """`output_loss`."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's own
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: float,
        divisor: float,
        needs_gradients: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        product_weight = weight.to(hidden.dtype)
        output = packed_linear(product_weight)
        vocab_size = len(weight)
        totals = hidden.new_zeros(3, dtype=torch.float64)
        d_hidden = torch.empty_like(hidden) if needs_gradients else None
        d_weight = torch.empty_like(weight) if needs_gradients else None  # written by the first chunk
        d_bias = torch.zeros_like(bias) if needs_gradients else None
        rows, scale = max(1, CHUNK // vocab_size), 1 / divisor
        for start in range(0, len(targets), rows):
            part = hidden[start : start + rows]  # [R, H]
            target_ids = targets[start : start + rows].unsqueeze(1)  # [R, 1]
            logits = output(part).float().add_(bias)  # [R, V]
            target_logits, best = logits.gather(1, target_ids), logits.amax(1, keepdim=True)  # [R, 1]
            mean = logits.mean(1, keepdim=True) if smoothing else None
            probabilities = torch.softmax(logits, dim=1, out=logits)
            # Softmax overwrote the logits, but log Σ exp is the best logit minus the log of the best probability.
            normalizer = best - probabilities.amax(1, keepdim=True).log_()  # [R, 1]
            losses = (normalizer - target_logits).sum(dtype=torch.float64)
            totals[0] += losses
            if mean is not None:
                uniform_losses = (normalizer - mean).sum(dtype=torch.float64)
                totals[1] += (1 - smoothing) * losses + smoothing * uniform_losses
            totals[2] += (target_logits == best).sum()
            if d_hidden is None or d_weight is None or d_bias is None:
                continue
            gradients = probabilities  # [R, V]
            if smoothing:
                gradients -= smoothing / vocab_size
            gradients.scatter_add_(1, target_ids, torch.full_like(normalizer, smoothing - 1))
            d_bias.add_(gradients.sum(0), alpha=scale)
            gradients = gradients.to(hidden.dtype)
            d_hidden[start : start + rows].addmm_(gradients, product_weight, beta=0, alpha=scale)
            if gradients.dtype == torch.float32:
                d_weight.addmm_(gradients.t(), part, beta=min(start, 1), alpha=scale)
            elif start:
                d_weight.add_(gradients.t() @ part, alpha=scale)
            else:
                d_weight.copy_(gradients.t() @ part).mul_(scale)
            del logits, probabilities, gradients  # free the memory before the next chunk
        total, correct = totals[0].float(), totals[2].long()
        objective = (totals[1] if smoothing else totals[0]).mul(scale).float()
        ctx.mark_non_differentiable(total, correct)
        ctx.gradients = (d_hidden, d_weight, d_bias)
        return total, objective, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, gradient: Tensor, __: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        gradients = ctx.gradients
        del ctx.gradients  # scaled in place below, so a second backward pass would be wrong
        if gradient.device.type != "cpu" or gradient != 1:  # on a GPU, comparing takes longer than multiplying
            gradients = tuple(each.mul_(gradient) for each in gradients)
        return (*gradients, None, None, None, None)
