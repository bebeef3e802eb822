"""Monitors that show training to the user: log lines and a progress bar."""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import TypeVarTuple, Unpack

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from seqwright.hyperparameters import Hyperparameters
from seqwright.training.progress import Checkpoint, Monitor, Progress, Update

logger = logging.getLogger(__name__)

Ts = TypeVarTuple("Ts")


class LogLines(Monitor):
    """Logs at each checkpoint one `#quality_metric` line per metric, in the original's format, and a summary.

    Args:
        host: the name of the host in these lines.
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
        if not math.isnan(value):  # it is where no update was made, after a stop during validation
            logger.info("%s, train %s <score>=%.6g", where, name, value)
        for metric, score in checkpoint.validation.named().items():
            logger.info("%s, validation %s <score>=%.6g", where, metric, score)
        if progress.skipped:
            logger.info("%d updates skipped so far, for their loss or gradient was not finite", progress.skipped)
        verdict = "best so far, model saved" if checkpoint.improved else f"no improvement for {progress.stale}"
        logger.info(
            "checkpoint %d after update %d: %s; learning rate %.3g; validated in %.1f s",
            progress.checkpoints, progress.updates, verdict, checkpoint.learning_rate, checkpoint.seconds,
        )  # fmt: skip

    def on_end(self, progress: Progress, reason: str) -> None:
        """Say why training ended."""
        outcome = f"best at update {progress.model_updates}"
        if progress.best is None:
            outcome = "no model was validated: the last is kept" if progress.has_model else "there is no model yet"
        logger.info("training ended after update %d: %s; %s", progress.updates, reason, outcome)


class Speed:
    """Target tokens and pairs per second since the last call of `read` or `restart`."""

    def __init__(self) -> None:
        self._tokens = self._pairs = 0
        self._since = time.monotonic()

    def count(self, update: Update) -> None:
        """Count an update."""
        self._tokens += update.tokens
        self._pairs += update.pairs

    @property
    def seconds(self) -> float:
        """Time since counting started."""
        return time.monotonic() - self._since

    def read(self) -> tuple[float, float]:
        """Tokens per second and pairs per second; counting starts anew."""
        seconds = max(self.seconds, 1e-9)
        rates = self._tokens / seconds, self._pairs / seconds
        self.restart()
        return rates

    def restart(self) -> None:
        """Start counting anew."""
        self._tokens = self._pairs = 0
        self._since = time.monotonic()


class PlainProgress(Monitor):
    """Logs loss and speed every `interval` seconds, where there is no progress bar."""

    def __init__(self, interval: float = 30.0) -> None:
        self._interval = interval
        self._speed = Speed()

    def on_start(self, progress: Progress) -> None:
        """Start the clock."""
        self._speed.restart()

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
        self._speed.restart()


class ProgressBar(Monitor):
    """A live bar with loss, speed and time left, on a terminal or in a notebook.

    It counts to the end of training if updates or epochs are bounded, and to the next checkpoint otherwise.

    Args:
        console: where it is shown.
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
        self._speed.restart()
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
        self._speed.restart()

    def on_end(self, progress: Progress, reason: str) -> None:
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the bar; also to be called after an error. A console that cannot be written keeps it."""
        with contextlib.suppress(OSError, ValueError):
            self._bar.stop()

    def _show(self, progress: Progress) -> None:
        done = progress.updates if self._end else progress.updates - progress.checkpoint_updates
        self._bar.update(self._task, completed=done, epoch=progress.epoch)


class Isolated(Monitor):
    """Passes everything on to a monitor whose failure must not end training. A failure is logged once and ends it.

    Args:
        monitor: the monitor.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._has_failed = False

    def on_start(self, progress: Progress) -> None:
        """Pass on."""
        self._call(self._monitor.on_start, progress)

    def on_update(self, progress: Progress, update: Update) -> None:
        """Pass on."""
        self._call(self._monitor.on_update, progress, update)

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """Pass on."""
        self._call(self._monitor.on_checkpoint, progress, checkpoint)

    def on_interrupt(self, progress: Progress) -> None:
        """Pass on."""
        self._call(self._monitor.on_interrupt, progress)

    def on_end(self, progress: Progress, reason: str) -> None:
        """Pass on."""
        self._call(self._monitor.on_end, progress, reason)

    def _call(self, method: Callable[[Unpack[Ts]], None], *arguments: *Ts) -> None:
        if self._has_failed:
            return
        try:
            method(*arguments)
        except Exception as error:
            self._has_failed = True
            name = type(self._monitor).__name__
            logger.warning("training goes on without %s: %s: %s", name, type(error).__name__, error)
