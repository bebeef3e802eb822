"""What the training loop tells its monitors, and what a monitor is."""

import dataclasses
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Progress:
    """How far training has come. A checkpoint has this and the states of model, optimizer, schedule and random numbers.

    Attributes:
        epoch: passes over the corpus that are completed.
        batch: batches of the current pass that are done.
        updates: parameter updates, skipped ones included.
        checkpoints: validations.
        checkpoint_updates: updates at the last validation.
        stale: validations in a row, up to the last, that did not improve the optimized metric.
        best: the best value of the optimized metric; None if no validation had a finite score.
        best_updates: updates at that validation.
        skipped: updates that changed nothing because their loss or gradient was not finite.
        skipped_in_a_row: how many of the last updates were skipped.
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
    def has_diverged(self) -> bool:
        """Whether the model was validated, but never with a finite score."""
        return self.checkpoints > 0 and self.best is None

    @property
    def has_model(self) -> bool:
        """Whether the run has a model to leave: the best, or one that was trained but not validated yet."""
        return self.best is not None or (self.checkpoints == 0 and self.updates > self.skipped)

    @property
    def model_updates(self) -> int:
        """Updates of the model that a run leaves: the best, or the last where none was validated."""
        return self.updates if self.best is None else self.best_updates


@dataclass(frozen=True)
class Scores:
    """Validation scores: perplexity, accuracy 0 to 1, and BLEU 0 to 100 if it was computed."""

    perplexity: float
    accuracy: float
    bleu: float | None = None

    def named(self) -> dict[str, float]:
        """The scores that were computed, by the names of the metrics."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Update:
    """One parameter update.

    Attributes:
        loss: the objective's mean over the target tokens of the batch, a scalar tensor.
        pairs: sentence pairs in the batch.
        tokens: target tokens in the batch, EOS counted.
        learning_rate: the learning rate of the update.
    """

    loss: Tensor
    pairs: int
    tokens: int
    learning_rate: float


@dataclass(frozen=True)
class Checkpoint:
    """The results of a validation.

    Attributes:
        train: the name of the training metric, and its value over the updates since the last validation.
        validation: the validation scores.
        improved: whether the optimized metric is the best so far.
        learning_rate: the learning rate of the next update.
        seconds: how long the validation took.
    """

    train: tuple[str, float]
    validation: Scores
    improved: bool
    learning_rate: float
    seconds: float


class Monitor:
    """Watches training. The loop knows nothing about its monitors but these methods."""

    def on_start(self, progress: Progress) -> None:
        """Training starts, or goes on from `progress`."""

    def on_update(self, progress: Progress, update: Update) -> None:
        """An update was made."""

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """The model was validated."""

    def on_interrupt(self, progress: Progress) -> None:
        """Training stops here, between two validations, and will go on another time."""

    def on_end(self, progress: Progress, reason: str) -> None:
        """Training ended; `reason` says why."""
