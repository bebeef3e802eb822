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
        total: negative log-likelihood summed over the target tokens, natural logarithm, a scalar with gradient.
        logits: unnormalised log probabilities at each target token, `[M, V]`.
        targets: the target tokens, `[M]`.
    """

    total: Tensor
    logits: Tensor
    targets: Tensor

    @property
    def tokens(self) -> int:
        """How many target tokens there are, M."""
        return len(self.targets)

    def correct(self) -> Tensor:
        """How many target tokens the model ranks first under teacher forcing, a scalar."""
        return (self.logits.detach().argmax(dim=1) == self.targets).sum()


def batch_loss(model: Seq2Seq, batch: Batch) -> BatchLoss:
    """Score every target token of `batch` given those before it; logits are made at real positions alone."""
    hidden = model(batch.source, batch.source_lengths, batch.target_in)
    real = batch.target_out != PAD
    targets = batch.target_out[real]
    logits = model.logits(hidden[real]).float()
    return BatchLoss(F.cross_entropy(logits, targets, reduction="sum"), logits, targets)
