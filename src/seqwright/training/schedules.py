"""Learning-rate schedules, counted in checkpoints as in the original."""

import math
from typing import Protocol

from seqwright.hyperparameters import Hyperparameters


class Schedule(Protocol):
    """The learning rate of each update."""

    def rate(self, updates: int) -> float:
        """The rate of the next update, after `updates` updates."""

    def checkpoint(self, improved: bool) -> None:
        """Count a checkpoint, at which the optimized metric improved or not."""

    def state(self) -> dict[str, float]:
        """The values that a resumed run needs."""

    def restore(self, state: dict[str, float]) -> None:
        """Go on from values that `state` returned."""


class PlateauReduce:
    """Multiplies the rate by `factor` after every `patience` checkpoints in a row without improvement."""

    def __init__(self, base: float, factor: float, patience: int) -> None:
        self._rate = base
        self._factor = factor
        self._patience = patience
        self._stale = 0

    def rate(self, updates: int) -> float:
        """The current rate; it changes only at checkpoints."""
        return self._rate

    def checkpoint(self, improved: bool) -> None:
        """Count a checkpoint."""
        self._stale = 0 if improved else self._stale + 1
        if self._stale == self._patience:
            self._rate *= self._factor
            self._stale = 0

    def state(self) -> dict[str, float]:
        """The rate and the checkpoints since it last changed or the metric last improved."""
        return {"rate": self._rate, "stale": self._stale}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from `state`."""
        self._rate, self._stale = state["rate"], int(state["stale"])


class InverseDecay:
    """`base / (1 + t / h)`, or `base / sqrt(1 + 3 t / h)` with `square_root`: half the base after h updates.

    Args:
        base: the first rate.
        half_life: h, in updates.
        square_root: the slower of the two decays.
    """

    def __init__(self, base: float, half_life: int, square_root: bool) -> None:
        self._base = base
        self._half_life = half_life
        self._square_root = square_root

    def rate(self, updates: int) -> float:
        """The rate after `updates` updates."""
        if self._square_root:
            return self._base / math.sqrt(1 + 3 * updates / self._half_life)
        return self._base / (1 + updates / self._half_life)

    def checkpoint(self, improved: bool) -> None:
        """Nothing: the rate depends only on the updates."""

    def state(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def restore(self, state: dict[str, float]) -> None:
        """Nothing."""


class Cooldown:
    """Another schedule's rate, lowered linearly to 0 over the last updates (Hu et al. 2024).

    Args:
        schedule: the other schedule.
        updates: how many updates the cooldown takes.
        end: updates at the end of training.
    """

    def __init__(self, schedule: Schedule, updates: int, end: int) -> None:
        self._schedule = schedule
        self._updates = updates
        self._end = end
        self.checkpoint = schedule.checkpoint
        self.state = schedule.state
        self.restore = schedule.restore

    def rate(self, updates: int) -> float:
        """The other schedule's rate times the fraction of the cooldown that is left."""
        left = max(0, self._end - updates) / self._updates
        return self._schedule.rate(updates) * min(1.0, left)


def build_schedule(settings: Hyperparameters) -> Schedule:
    """The schedule that the hyperparameters describe, with a cooldown if they ask for one."""
    schedule = _main_schedule(settings)
    if settings.lr_cooldown_num_batches:
        return Cooldown(schedule, settings.lr_cooldown_num_batches, settings.max_num_batches)
    return schedule


def _main_schedule(settings: Hyperparameters) -> Schedule:
    """The schedule that `lr_scheduler_type` names. Half-lives are given in checkpoints."""
    if settings.lr_scheduler_type == "plateau_reduce":
        return PlateauReduce(
            settings.learning_rate, settings.plateau_reduce_lr_factor, settings.plateau_reduce_lr_threshold
        )
    half_life = settings.fixed_rate_lr_half_life * settings.checkpoint_frequency_num_batches
    return InverseDecay(settings.learning_rate, half_life, settings.lr_scheduler_type == "fixed_rate_inv_sqrt_t")
