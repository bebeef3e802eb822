"""Cross-entropy over the real target positions of a batch."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from seqwright.data.batches import Batch
from seqwright.data.vocabulary import PAD
from seqwright.models.seq2seq import Seq2Seq


@dataclass(frozen=True)
class BatchLoss:
    """What a model makes of one batch of M target tokens, EOS counted and padding not.

    Attributes:
        total: negative log-likelihood summed over the target tokens, natural logarithm, a scalar.
        objective: what training minimises, a scalar with gradient: `total`, or its smoothed form.
        logits: unnormalised log probabilities at each target token, `[M, V]`.
        targets: the target tokens, `[M]`.
    """

    total: Tensor
    objective: Tensor
    logits: Tensor
    targets: Tensor

    @property
    def tokens(self) -> int:
        """How many target tokens there are, M."""
        return len(self.targets)

    def correct(self) -> Tensor:
        """How many target tokens the model ranks first under teacher forcing, a scalar."""
        return (self.logits.detach().argmax(dim=1) == self.targets).sum()


def batch_loss(model: Seq2Seq, batch: Batch, label_smoothing: float = 0.0) -> BatchLoss:
    """Score every target token of `batch` given those before it; logits are made at real positions alone.

    Args:
        model: the model.
        batch: source and target sequences.
        label_smoothing: share ε of the objective's target distribution that is spread evenly over the vocabulary:
            `(1 - ε) · nll + ε · mean over the vocabulary of the negative log probability` (Szegedy et al. 2016).
    """
    hidden = model(batch.source, batch.source_lengths, batch.target_in)
    real = batch.target_out != PAD
    targets = batch.target_out[real]
    logits = model.logits(hidden[real]).float()
    total = F.cross_entropy(logits, targets, reduction="sum")
    objective = total
    if label_smoothing:
        objective = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
    return BatchLoss(total.detach(), objective, logits, targets)
