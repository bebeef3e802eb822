"""What watches training: log lines, a progress bar, TensorBoard."""

import logging
import math
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from seqwright.hyperparameters import Hyperparameters
from seqwright.training.progress import Checkpoint, Monitor, Progress, Update

logger = logging.getLogger(__name__)


class LogLines(Monitor):
    """Logs one `#quality_metric` line a metric at each checkpoint, in the original's format, and a summary.

    Args:
        host: the name that the lines carry.
    """

    def __init__(self, host: str) -> None:
        self._host = host

    def on_start(self, progress: Progress) -> None:
        """Say where training starts."""
        if progress.updates:
            logger.info("going on after update %d, epoch %d", progress.updates, progress.epoch)

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """Log the scores."""
        where = f"#quality_metric: host={self._host}, epoch={progress.epoch}, batch={progress.updates}"
        name, value = checkpoint.train
        if not math.isnan(value):  # as where a run goes on with the validation that it was stopped in
            logger.info("%s, train %s <score>=%.6g", where, name, value)
        for metric, score in checkpoint.validation.named().items():
            logger.info("%s, validation %s <score>=%.6g", where, metric, score)
        if progress.skipped:
            logger.warning("%d updates skipped so far, for their loss or gradient was not finite", progress.skipped)
        verdict = "best so far, model saved" if checkpoint.improved else f"no improvement for {progress.stale}"
        logger.info(
            "checkpoint %d after update %d: %s; learning rate %.3g; validated in %.1f s",
            progress.checkpoints, progress.updates, verdict, checkpoint.learning_rate, checkpoint.seconds,
        )  # fmt: skip

    def on_end(self, progress: Progress, reason: str) -> None:
        """Say why training ended."""
        outcome = f"best at update {progress.kept}"
        if progress.best is None:
            outcome = "no model was scored: the last is kept" if progress.has_model else "there is no model yet"
        logger.info("training ended after update %d: %s; %s", progress.updates, reason, outcome)


class Speed:
    """Target tokens and pairs a second, over the time since the last reading."""

    def __init__(self) -> None:
        self._tokens = self._pairs = 0
        self._since = time.monotonic()

    def count(self, update: Update) -> None:
        """Count an update."""
        self._tokens += update.tokens
        self._pairs += update.pairs

    @property
    def seconds(self) -> float:
        """Time since the last reading."""
        return time.monotonic() - self._since

    def read(self) -> tuple[float, float]:
        """Tokens a second and pairs a second; counting starts anew."""
        seconds = max(self.seconds, 1e-9)
        rates = self._tokens / seconds, self._pairs / seconds
        self._tokens = self._pairs = 0
        self._since = time.monotonic()
        return rates

    def skip(self) -> None:
        """Leave the time since the last reading out of account."""
        self._tokens = self._pairs = 0
        self._since = time.monotonic()


class PlainProgress(Monitor):
    """A log line of loss and speed every `interval` seconds, for output that is not a terminal."""

    def __init__(self, interval: float = 30.0) -> None:
        self._interval = interval
        self._speed = Speed()

    def on_start(self, progress: Progress) -> None:
        """Start the clock."""
        self._speed.skip()

    def on_update(self, progress: Progress, update: Update) -> None:
        """Log if it is time."""
        self._speed.count(update)
        if self._speed.seconds >= self._interval:
            tokens, pairs = self._speed.read()
            logger.info(
                "update %d, epoch %d: loss %.4f, %.0f tokens/s, %.0f pairs/s",
                progress.updates, progress.epoch, update.loss.item(), tokens, pairs,
            )  # fmt: skip

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """Validation does not count as training time."""
        self._speed.skip()


class ProgressBar(Monitor):
    """A live bar with loss, speed and time left, on a terminal.

    It counts towards the end where a bound on updates or epochs gives one, and towards the next checkpoint otherwise.

    Args:
        console: the terminal.
        settings: hyperparameters; the bounds are read.
        batches_per_epoch: updates in an epoch.
    """

    def __init__(self, console: Console, settings: Hyperparameters, batches_per_epoch: int) -> None:
        bounds = [settings.max_num_batches] if settings.max_num_batches > 0 else []
        if settings.max_num_epochs is not None:
            bounds.append(settings.max_num_epochs * batches_per_epoch)
        self._end = min(bounds, default=None)
        self._frequency = settings.checkpoint_frequency_num_batches
        self._speed = Speed()
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
            TimeRemainingColumn(), console=console, transient=True,
        )  # fmt: skip
        label = "training" if self._end else "to next checkpoint"
        self._task = self._bar.add_task(label, total=self._end or self._frequency, epoch=0, loss="-", speed="-")

    def on_start(self, progress: Progress) -> None:
        """Show the bar."""
        self._show(progress)
        self._speed.skip()
        self._bar.start()

    def on_update(self, progress: Progress, update: Update) -> None:
        """Move the bar; refresh its figures twice a second."""
        self._speed.count(update)
        if self._speed.seconds >= 0.5:
            tokens, _ = self._speed.read()
            self._bar.update(self._task, loss=f"{update.loss.item():.3f}", speed=f"{tokens:,.0f}")
            self._show(progress)

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """Validation does not count as training time."""
        self._show(progress)
        self._speed.skip()

    def on_end(self, progress: Progress, reason: str) -> None:
        """Take the bar away."""
        self.close()

    def close(self) -> None:
        """Take the bar away, after an error too."""
        self._bar.stop()

    def _show(self, progress: Progress) -> None:
        done = progress.updates if self._end else progress.updates - progress.checkpoint_updates
        self._bar.update(self._task, completed=done, epoch=progress.epoch)


class TensorBoard(Monitor):
    """Writes TensorBoard event files.

    Args:
        folder: where they go.
        interval: updates between two points of the training curves.
    """

    def __init__(self, folder: Path, interval: int = 50) -> None:
        self._folder = folder
        self._interval = interval

    def on_start(self, progress: Progress) -> None:
        """Open a new event file; points after `progress` that an interrupted run left are hidden by it."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=progress.updates + 1 if progress.updates else None)

    def on_update(self, progress: Progress, update: Update) -> None:
        """Write loss and learning rate now and then."""
        if progress.updates % self._interval == 0:
            self._add("train/loss", update.loss.item(), progress)
            self._add("train/learning_rate", update.learning_rate, progress)

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """Write the scores."""
        name, value = checkpoint.train
        self._add(f"train/{name}", value, progress)
        for metric, score in checkpoint.validation.named().items():
            self._add(f"validation/{metric}", score, progress)
        self._writer.flush()

    def _add(self, name: str, value: float, progress: Progress) -> None:
        if math.isfinite(value):  # no curve has a place for others, and the library would warn of them twice
            self._writer.add_scalar(name, value, progress.updates)

    def on_end(self, progress: Progress, reason: str) -> None:
        """Close the file."""
        self._writer.close()
