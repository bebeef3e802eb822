"""What the training loop tells those who watch it, and what a watcher is."""

import dataclasses
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Progress:
    """How far training has come: with the states of model, optimizer, schedule and randomness, all a resume needs.

    Attributes:
        epoch: passes over the corpus completed.
        batch: batches of the current pass taken.
        updates: parameter updates made.
        checkpoints: checkpoints made.
        checkpoint_updates: updates made at the last checkpoint.
        stale: checkpoints in a row, up to the last, that did not improve the optimized metric.
        best: the optimized metric's best value.
        best_updates: updates made when it was reached.
        skipped: updates that changed nothing, for their loss or gradient was not finite.
        skipped_in_a_row: how many of them were the last ones.
    """

    epoch: int = 0
    batch: int = 0
    updates: int = 0
    checkpoints: int = 0
    checkpoint_updates: int = 0
    stale: int = 0
    best: float | None = None
    best_updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0

    @property
    def has_model(self) -> bool:
        """Whether the run has a model to leave: not before an update has changed what training began with."""
        return self.best is not None or self.updates > self.skipped

    @property
    def kept(self) -> int:
        """Updates of the model that a run leaves: the best, or the last where none has a finite score."""
        return self.updates if self.best is None else self.best_updates


@dataclass(frozen=True)
class Scores:
    """Validation scores at a checkpoint: perplexity, accuracy 0 to 1, and BLEU 0 to 100 where it was asked for."""

    perplexity: float
    accuracy: float
    bleu: float | None = None

    def named(self) -> dict[str, float]:
        """The scores there are, by the metrics' names."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Update:
    """One parameter update.

    Attributes:
        loss: the objective's mean a target token of the batch, a scalar tensor.
        pairs: sentence pairs in the batch.
        tokens: target tokens in the batch, EOS counted.
        learning_rate: the rate it was made with.
    """

    loss: Tensor
    pairs: int
    tokens: int
    learning_rate: float


@dataclass(frozen=True)
class Checkpoint:
    """What is known at a checkpoint.

    Attributes:
        train: the training metric's name and its value over the updates since the last checkpoint.
        validation: the validation scores.
        improved: whether the optimized metric is the best so far.
        learning_rate: the rate of the next update.
        seconds: how long the validation took.
    """

    train: tuple[str, float]
    validation: Scores
    improved: bool
    learning_rate: float
    seconds: float


class Monitor:
    """Something that watches training; the loop knows no more of it."""

    def on_start(self, progress: Progress) -> None:
        """Training starts or goes on from `progress`."""

    def on_update(self, progress: Progress, update: Update) -> None:
        """An update was made."""

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """The model was validated."""

    def on_interrupt(self, progress: Progress) -> None:
        """Training is to stop here, between two checkpoints, and to go on another time."""

    def on_end(self, progress: Progress, reason: str) -> None:
        """Training ended; `reason` says why."""
