"""The training loop."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from seqwright.data.batches import Batch, Batches
from seqwright.devices import Precision, autocast, is_out_of_memory
from seqwright.errors import AlgorithmError, ClientError
from seqwright.hyperparameters import Hyperparameters
from seqwright.interrupts import StopRequested
from seqwright.metrics import perplexity
from seqwright.models.loss import BatchLoss, batch_loss
from seqwright.models.seq2seq import Seq2Seq
from seqwright.training.gradients import GradientSums
from seqwright.training.group import Group
from seqwright.training.optimizers import add_weight_decay
from seqwright.training.progress import Checkpoint, Monitor, Progress, Scores, Update
from seqwright.training.schedules import Schedule

logger = logging.getLogger(__name__)

MAX_SKIPPED = 20
"""Updates in a row without a finite loss and gradient that end training."""

Validate = Callable[[Callable[[], bool]], Scores | None]
"""Scores the model. Its argument says whether to stop; it then returns None."""

INTERRUPTED = "a stop was requested"
"""What `Trainer.fit` returns when it was asked to stop."""


class Trainer:
    """Trains one model on one device.

    Args:
        model: the model, on its device.
        optimizer: updates the model's parameters.
        schedule: gives the optimizer's learning rate.
        settings: hyperparameters.
        validate: scores the model at a checkpoint. When asked to stop it returns None, in all processes alike.
        precision: arithmetic of the matrix products; parameters stay fp32.
        progress: where to go on; the beginning if not given.
        accumulate: parts that a batch is computed in, one after the other, for the same gradient in less memory. It is
            raised when a batch does not fit into memory.
        group: the processes that train together. Each has its own trainer, and all do the same.
    """

    def __init__(
        self,
        model: Seq2Seq,
        optimizer: Optimizer,
        schedule: Schedule,
        settings: Hyperparameters,
        validate: Validate,
        precision: Precision = "fp32",
        progress: Progress | None = None,
        accumulate: int = 1,
        group: Group | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.settings = settings
        self.progress = progress or Progress()
        self.accumulate = accumulate
        self.group = group or Group()
        tables = [side.embedding.table.weight for side in (model.encoder, model.decoder)]
        self._gradient_sums = GradientSums(self.group, model, tables)
        self._validate = validate
        self._monitors: list[Monitor] = []
        self._precision = precision
        self._device = next(model.parameters()).device
        self._metric = TrainingMetric(settings.training_metric, self.group)
        self._stop_agreed = False  # several processes ask each other with every update, and stop together
        self._has_warned = False  # of divergence, since the last checkpoint

    def fit(
        self,
        batches: Batches,
        monitors: Iterable[Monitor] = (),
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> str:
        """Train until a bound is reached or the metric has stopped improving; returns why training ended.

        Args:
            batches: the training data.
            monitors: are told what happens, in this order.
            stop_requested: asked before every update and during validation whether to stop now and go on another time.
                If one of several processes is told so, all stop after the next update.
        """
        self._monitors = list(monitors)
        self.group.broadcast_parameters(self.model.parameters())
        for monitor in self._monitors:
            monitor.on_start(self.progress)
        try:
            reason = self._train(batches, stop_requested)
        except StopRequested:
            reason = INTERRUPTED
            for monitor in self._monitors:
                monitor.on_interrupt(self.progress)
        for monitor in self._monitors:
            monitor.on_end(self.progress, reason)
        return reason

    def _train(self, batches: Batches, stop_requested: Callable[[], bool]) -> str:
        """Make updates and checkpoints to the end; returns why it is the end, raises `StopRequested` before it."""
        progress, frequency = self.progress, self.settings.checkpoint_frequency_num_batches
        if progress.updates % frequency == 0 and progress.updates > progress.checkpoint_updates:
            self._checkpoint(stop_requested)  # the run was stopped during this validation
        for batch in self._batches_to_come(batches):
            if reason := self._reason_to_end():
                break
            if stop_requested() if self.group.size == 1 else self._stop_agreed:
                raise StopRequested
            update = self._update(batch, stop_requested)
            progress.batch += 1
            progress.updates += 1
            for monitor in self._monitors:
                monitor.on_update(progress, update)
            if progress.updates % frequency == 0:
                self._checkpoint(stop_requested)
        if progress.updates > progress.checkpoint_updates:
            self._checkpoint(stop_requested)
        return reason

    def _batches_to_come(self, batches: Batches) -> Iterator[Batch]:
        """The batches from where the run stands, epoch after epoch without end."""
        while True:
            yield from batches.epoch(self.progress.epoch, start=self.progress.batch)
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    def _reason_to_end(self) -> str:
        """Why training should end now; empty if it should not."""
        settings, progress = self.settings, self.progress
        if 0 < settings.max_num_batches <= progress.updates:
            return f"max_num_batches={settings.max_num_batches} was reached"
        if settings.max_num_epochs is not None:
            reached = progress.epoch >= settings.max_num_epochs
            return f"max_num_epochs={settings.max_num_epochs} was reached" if reached else ""
        if progress.stale >= settings.checkpoint_threshold and progress.epoch >= settings.min_num_epochs:
            patience = f"checkpoint_threshold={settings.checkpoint_threshold} checkpoints"
            return f"{settings.optimized_metric} has not improved for {patience}"
        return ""

    def _update(self, batch: Batch, stop_requested: Callable[[], bool]) -> Update:
        """One step down the gradient of the batch's mean loss per target token."""
        rate = self.schedule.rate(self.progress.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        parts = self._compute_gradients(batch.share(self.group.rank, self.group.size).to(self._device), batch)
        loss = sum((part.objective.detach() for part in parts), torch.zeros((), device=self._device))
        if self.group.size > 1:
            total, stops = self.group.sum(float(loss), stop_requested())
            loss, self._stop_agreed = torch.tensor(total, device=self._device), stops > 0
        add_weight_decay(self.optimizer)
        gradients = [each.grad for each in self.model.parameters() if each.grad is not None]
        norms = torch.stack([loss, *(torch.linalg.vector_norm(each) for each in gradients)]).tolist()
        if self._is_finite(norms):
            for part in parts:
                self._metric.add(part)
            limit = self.settings.clip_gradient
            for gradient, norm in zip(gradients, norms[1:], strict=True):
                if norm > limit >= 0:  # no element is larger than the norm: few tensors need this pass
                    gradient.clamp_(-limit, limit)
            self.optimizer.step()
        return Update(loss, batch.num_pairs, batch.num_tokens, rate)

    def _compute_gradients(self, share: Batch, batch: Batch) -> list[BatchLoss]:
        """Leave the gradient of the batch's mean loss per target token in the parameters, summed over all processes.

        Args:
            share: this process's pairs of the batch, on the device; no pairs if the batch has fewer pairs than there
                are processes.
            batch: the whole batch.

        Returns:
            The losses of the parts in which the share was computed.

        Raises:
            ClientError: a single pair does not fit into the device's memory.
            ShareTooLargeError: the share does not fit, and other processes already wait for its gradient.
        """
        looked_up = [batch.source, batch.target_in]
        if not share.num_pairs:  # the other processes still expect a gradient of this one: zero
            self.optimizer.zero_grad()
            with self._gradient_sums.during_backward(looked_up):
                self._backward(batch.share(0, batch.num_pairs).to(self._device), math.inf)
            return []
        while True:
            try:
                self.optimizer.zero_grad()
                *first, last = share.split(self.accumulate)
                losses = [self._backward(part, batch.num_tokens) for part in first]
                with self._gradient_sums.during_backward(looked_up):
                    return [*losses, self._backward(last, batch.num_tokens)]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                shape = f"{batch.source.shape[1]} source and {batch.target_in.shape[1]} target tokens"
                if self.accumulate >= share.num_pairs:
                    raise ClientError(
                        f"a single pair of {shape} does not fit into memory: lower max_seq_len_source and "
                        "max_seq_len_target, or the model's size"
                    ) from error
                self.accumulate = min(2 * self.accumulate, share.num_pairs)
                if self.group.size > 1:
                    pairs = f"{share.num_pairs} pairs of {shape}"
                    raise ShareTooLargeError(pairs, self.group.rank, self.accumulate) from error
                logger.warning("the batch does not fit into memory: computing it in %d parts", self.accumulate)

    def _backward(self, part: Batch, tokens: float) -> BatchLoss:
        """Add the gradient of the summed loss of a part of a batch, divided by the target tokens of the whole batch."""
        with autocast(self._device, self._precision):
            loss = batch_loss(self.model, part, self.settings.label_smoothing, tokens)
        loss.objective.backward()  # type: ignore[no-untyped-call]
        return loss

    def _is_finite(self, values: Sequence[float]) -> bool:
        """Whether the loss and the norms of the gradients are finite. An update without is counted and skipped.

        Raises:
            ClientError: too many in a row were not; the best model so far is in place.
            AlgorithmError: the same, and there is no model.
        """
        progress, settings = self.progress, self.settings
        if all(map(math.isfinite, values)):
            progress.skipped_in_a_row = 0
            return True
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        where = (
            f"update {progress.updates + 1} (learning rate {self.schedule.rate(progress.updates):.3g}, batch "
            f"{progress.batch + 1} of epoch {progress.epoch})"
        )
        if progress.skipped_in_a_row >= MAX_SKIPPED:
            error = AlgorithmError if progress.best is None else ClientError
            left = "no model had a finite score yet" if progress.best is None else "the best model so far is in place"
            raise error(
                f"loss or gradient was not finite in {MAX_SKIPPED} updates in a row, the last of them {where}: lower "
                f"learning_rate={settings.learning_rate:g}, or look at the data; {left}"
            )
        if self.group.is_main and not self._has_warned:
            logger.warning(
                "%s is skipped: its loss or gradient is not finite; more until the next checkpoint are only counted",
                where,
            )
        self._has_warned = True
        return False

    def _checkpoint(self, stop_requested: Callable[[], bool]) -> None:
        """Validate, find out whether the optimized metric improved, and tell the monitors.

        Raises:
            StopRequested: during validation; nothing was changed.
        """
        progress, metric = self.progress, self.settings.optimized_metric
        started = time.monotonic()
        self.model.eval()
        scores = self._validate(stop_requested)
        if scores is None:
            raise StopRequested
        value = scores.named()[metric]
        best = progress.best
        better = best is None or (value < best if metric == "perplexity" else value > best)
        improved = better and math.isfinite(value)
        if improved:
            progress.best, progress.best_updates = value, progress.updates
        progress.stale = 0 if improved else progress.stale + 1
        progress.checkpoints += 1
        progress.checkpoint_updates = progress.updates
        if self.group.is_main and not math.isfinite(value) and not self._has_warned:
            logger.warning(
                "validation %s is %s after update %d: training diverges; lower learning_rate=%g, or look at the data",
                metric, value, progress.updates, self.settings.learning_rate,
            )  # fmt: skip
        self._has_warned = False
        self.schedule.checkpoint(improved)
        checkpoint = Checkpoint(
            (self._metric.name, self._metric.compute_and_reset()),
            scores,
            improved,
            self.schedule.rate(progress.updates),
            time.monotonic() - started,
        )
        for monitor in self._monitors:
            monitor.on_checkpoint(progress, checkpoint)


class ShareTooLargeError(ClientError):
    """One of several processes has no memory for its share of a batch. All must start again with smaller parts.

    Args:
        pairs: what does not fit.
        rank: the process.
        accumulate: a number of parts that may fit.
    """

    def __init__(self, pairs: str, rank: int, accumulate: int) -> None:
        super().__init__(pairs, rank, accumulate)  # what it is pickled with, to reach the process that started this one
        self.accumulate = accumulate
        self._text = f"{pairs} do not fit into the memory of process {rank}"

    def __str__(self) -> str:
        return f"{self._text}: start again with --accumulate {self.accumulate}"


class TrainingMetric:
    """The training metric over the updates since the last checkpoint, summed on the device.

    Args:
        name: `perplexity` or `accuracy`.
        group: the processes over which it is summed.
    """

    def __init__(self, name: str, group: Group) -> None:
        self.name = name
        self._group = group
        self._sum: Tensor | float = 0.0
        self._tokens = 0

    def add(self, loss: BatchLoss) -> None:
        """Count a batch."""
        self._sum = self._sum + (loss.correct if self.name == "accuracy" else loss.total.double())
        self._tokens += loss.tokens

    def compute_and_reset(self) -> float:
        """The value since the last call; NaN if every update was skipped."""
        total, tokens = self._group.sum(float(self._sum), self._tokens)
        if not tokens:
            return math.nan
        self._sum, self._tokens = 0.0, 0
        return total / tokens if self.name == "accuracy" else perplexity(total, int(tokens))
