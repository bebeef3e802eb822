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
from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters
from seqwright.metrics import perplexity
from seqwright.models.loss import BatchLoss, batch_loss
from seqwright.models.seq2seq import Seq2Seq
from seqwright.training.optimizers import add_weight_decay
from seqwright.training.parallel import GradientSums, Group
from seqwright.training.progress import Checkpoint, Monitor, Progress, Scores, Update
from seqwright.training.schedules import Schedule

logger = logging.getLogger(__name__)

MAX_SKIPPED = 20
"""Updates without a finite loss and gradient that end training when they come one after the other."""

Validate = Callable[[Callable[[], bool]], Scores | None]
"""Scores the model; given how to ask whether to stop, and None where it was."""

INTERRUPTED = "a stop was requested"
"""The reason that `Trainer.fit` gives when it was asked to stop."""


class Trainer:
    """Trains one model on one device.

    Args:
        model: the model, on its device.
        optimizer: updates the model's parameters.
        schedule: sets the optimizer's learning rate.
        settings: hyperparameters.
        validate: scores the model at a checkpoint; asked to stop, it gives up, in all processes alike.
        precision: arithmetic of the matrix products; parameters stay fp32.
        progress: where to go on; the beginning if not given.
        accumulate: parts that a batch is computed in, one after the other, for the same gradient in less memory. Where
            a batch still does not fit, there come to be more.
        group: the processes that train together; every one has its own trainer, and they do the same.
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
        self._sums = GradientSums(self.group, model.parameters(), tables)
        self._stopping = False
        self._validate = validate
        self._monitors: list[Monitor] = []
        self._precision = precision
        self._device = next(model.parameters()).device
        self._seen = _Seen(settings.training_metric, self.group)

    def fit(
        self,
        batches: Batches,
        monitors: Iterable[Monitor] = (),
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> str:
        """Train until a bound is reached or the metric has stopped improving; returns why it ended.

        Args:
            batches: the training data.
            monitors: what watches, told in this order.
            stop_requested: asked after every update, and all the time in a validation, whether to stop now, to go on
                another time; among several processes any may say so, and all stop after the next update.
        """
        self._monitors = list(monitors)
        self.group.align(self.model.parameters())
        progress, frequency = self.progress, self.settings.checkpoint_frequency_num_batches
        for monitor in self._monitors:
            monitor.on_start(progress)
        is_due = progress.updates % frequency == 0 and progress.updates > progress.checkpoint_updates
        is_asked = is_due and not self._checkpoint(stop_requested)  # what an interrupted run was in
        for batch in self._stream(batches):
            if not is_asked:
                is_asked = stop_requested() if self.group.size == 1 else self._stopping
            reason = self._reason_to_stop() or (INTERRUPTED if is_asked else "")
            if reason:
                break
            update = self._update(batch, stop_requested)
            progress.batch += 1
            progress.updates += 1
            for monitor in self._monitors:
                monitor.on_update(progress, update)
            is_asked = progress.updates % frequency == 0 and not self._checkpoint(stop_requested)
        is_last_due = reason != INTERRUPTED and progress.updates > progress.checkpoint_updates
        if is_last_due and not self._checkpoint(stop_requested):
            reason = INTERRUPTED
        if reason == INTERRUPTED:
            for monitor in self._monitors:
                monitor.on_interrupt(progress)
        for monitor in self._monitors:
            monitor.on_end(progress, reason)
        return reason

    def _stream(self, batches: Batches) -> Iterator[Batch]:
        """The batches from where the run stands, epoch after epoch without end."""
        while True:
            yield from batches.epoch(self.progress.epoch, start=self.progress.batch)
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    def _update(self, batch: Batch, stop_requested: Callable[[], bool]) -> Update:
        """One step down the gradient of the batch's mean loss a token."""
        rate = self.schedule.rate(self.progress.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        parts = self._gradient(batch.share(self.group.rank, self.group.size).to(self._device), batch)
        loss = sum((part.objective.detach() for part in parts), torch.zeros((), device=self._device))
        if self.group.size > 1:
            summed, stopping = self.group.sum(float(loss), stop_requested())
            loss, self._stopping = torch.tensor(summed, device=self._device), stopping > 0
        add_weight_decay(self.optimizer)
        gradients = [each.grad for each in self.model.parameters() if each.grad is not None]
        norms = torch.stack([loss, *torch._foreach_norm(gradients)]).tolist()
        if self._is_finite(norms):
            for part in parts:
                self._seen.add(part)
            limit = self.settings.clip_gradient
            for gradient, norm in zip(gradients, norms[1:], strict=True):
                if norm > limit >= 0:  # no element is larger than the norm of all: few tensors need this pass
                    gradient.clamp_(-limit, limit)
            self.optimizer.step()
        return Update(loss, batch.num_pairs, batch.num_tokens, rate)

    def _gradient(self, share: Batch, batch: Batch) -> list[BatchLoss]:
        """Leave the gradient of the batch's mean loss a token; split what won't fit.

        Args:
            share: this process's pairs of the batch, on the device; none where the batch has fewer than there are
                processes.
            batch: the whole batch.

        Returns:
            The losses of the parts that the share was computed in.

        Raises:
            ClientError: a single pair does not fit into the device's memory.
            NoRoomError: the share does not, and there are other processes, which cannot be told any more.
        """
        looked_up = [batch.source, batch.target_in]
        if not share.num_pairs:
            self.optimizer.zero_grad()
            with self._sums.of_backward(looked_up):
                self._backward(batch.share(0, batch.num_pairs).to(self._device), math.inf)
            return []
        while True:
            try:
                self.optimizer.zero_grad()
                *first, last = share.split(self.accumulate)
                losses = [self._backward(part, batch.num_tokens) for part in first]
                with self._sums.of_backward(looked_up):
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
                    raise NoRoomError(pairs, self.group.rank, self.accumulate) from error
                logger.warning("the batch does not fit into memory: computing it in %d parts", self.accumulate)

    def _backward(self, part: Batch, tokens: float) -> BatchLoss:
        """Add the gradient of a part of a batch of so many target tokens, the part's share of their mean."""
        with autocast(self._device, self._precision):
            scored = batch_loss(self.model, part, self.settings.label_smoothing, tokens)
        scored.objective.backward()  # type: ignore[no-untyped-call]
        return scored

    def _is_finite(self, values: Sequence[float]) -> bool:
        """Whether an update's loss and gradients are; counts those that are not.

        Args:
            values: the loss and the norms of the gradients.

        Raises:
            ClientError: too many in a row were not.
        """
        progress, settings = self.progress, self.settings
        if all(map(math.isfinite, values)):
            progress.skipped_in_a_row = 0
            return True
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row >= MAX_SKIPPED:
            left = "no model was validated yet" if progress.best is None else "the best model so far is in place"
            raise ClientError(
                f"loss or gradient was not finite in {MAX_SKIPPED} updates in a row, the last of them update "
                f"{progress.updates + 1} (learning rate {self.schedule.rate(progress.updates):.3g}, batch "
                f"{progress.batch + 1} of epoch {progress.epoch}): lower learning_rate={settings.learning_rate:g}, or "
                f"look at the data; {left}"
            )
        return False

    def _checkpoint(self, stop_requested: Callable[[], bool]) -> bool:
        """Validate, note whether the optimized metric improved, and tell the monitors; False where it was given up."""
        progress, metric = self.progress, self.settings.optimized_metric
        started = time.monotonic()
        self.model.eval()
        scores = self._validate(stop_requested)
        if scores is None:
            return False
        value = scores.named()[metric]
        best = progress.best
        better = best is None or (value < best if metric == "perplexity" else value > best)
        improved = better and math.isfinite(value)
        if improved:
            progress.best, progress.best_updates = value, progress.updates
        progress.stale = 0 if improved else progress.stale + 1
        progress.checkpoints += 1
        progress.checkpoint_updates = progress.updates
        self.schedule.checkpoint(improved)
        checkpoint = Checkpoint(
            (self._seen.metric, self._seen.take()),
            scores,
            improved,
            self.schedule.rate(progress.updates),
            time.monotonic() - started,
        )
        for monitor in self._monitors:
            monitor.on_checkpoint(progress, checkpoint)
        return True

    def _reason_to_stop(self) -> str:
        """Why training should end now, empty if it should not."""
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


class NoRoomError(ClientError):
    """One of several processes has no memory for its share of a batch; all must start again with smaller parts.

    Args:
        pairs: what did not fit.
        rank: the process.
        accumulate: parts that may fit.
    """

    def __init__(self, pairs: str, rank: int, accumulate: int) -> None:
        super().__init__(pairs, rank, accumulate)
        self.accumulate = accumulate
        self._text = f"{pairs} do not fit into the memory of process {rank}"

    def __str__(self) -> str:
        return f"{self._text}: start again with --accumulate {self.accumulate}"


class _Seen:
    """The training metric over the updates since the last checkpoint, summed on the device."""

    def __init__(self, metric: str, group: Group) -> None:
        self.metric = metric
        self._group = group
        self._sum: Tensor | float = 0.0
        self._tokens = 0

    def add(self, scored: BatchLoss) -> None:
        """Count a batch."""
        self._sum = self._sum + (scored.correct if self.metric == "accuracy" else scored.total.double())
        self._tokens += scored.tokens

    def take(self) -> float:
        """The metric's value, and a fresh start; not a number where every update was skipped."""
        total, tokens = self._group.sum(float(self._sum), self._tokens)
        if not tokens:
            return math.nan
        self._sum, self._tokens = 0.0, 0
        return total / tokens if self.metric == "accuracy" else perplexity(total, int(tokens))
