"""Learning rates over a run."""

import pytest

from seqwright.hyperparameters import Hyperparameters
from seqwright.training.schedules import build_schedule


def test_plateau_reduce_halves_after_the_threshold_and_starts_counting_anew() -> None:
    schedule = build_schedule(
        Hyperparameters.parse({"learning_rate": 0.8, "plateau_reduce_lr_threshold": 2, "plateau_reduce_lr_factor": 0.5})
    )
    rates = []
    for improved in (True, False, True, False, False, False, False, True):
        schedule.checkpoint(improved)
        rates.append(schedule.rate(0))
    assert rates == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2])


@pytest.mark.parametrize(("kind", "after_two"), [("fixed_rate_inv_t", 1 / 3), ("fixed_rate_inv_sqrt_t", 7**-0.5)])
def test_fixed_rates_halve_at_the_half_life_in_checkpoints(kind: str, after_two: float) -> None:
    schedule = build_schedule(
        Hyperparameters.parse(
            {
                "learning_rate": 1.0,
                "lr_scheduler_type": kind,
                "fixed_rate_lr_half_life": 10,
                "checkpoint_frequency_num_batches": 50,
            }
        )
    )
    assert [schedule.rate(n) for n in (0, 500, 1000)] == pytest.approx([1.0, 0.5, after_two])


def test_a_cooldown_brings_the_rate_down_to_the_end() -> None:
    settings = {"learning_rate": 0.8, "lr_cooldown_num_batches": 4, "max_num_batches": 10}
    schedule = build_schedule(Hyperparameters.parse(settings))
    assert [schedule.rate(n) for n in (0, 6, 7, 8, 9, 10)] == pytest.approx([0.8, 0.8, 0.6, 0.4, 0.2, 0.0])
    for _ in range(3):
        schedule.checkpoint(False)
    assert schedule.rate(8) == pytest.approx(0.2)


def test_a_plateau_schedule_goes_on_from_its_state() -> None:
    settings = Hyperparameters.parse({"learning_rate": 0.8, "plateau_reduce_lr_threshold": 2})
    first, second = build_schedule(settings), build_schedule(settings)
    first.checkpoint(False)
    second.restore(first.state())
    second.checkpoint(False)
    assert second.rate(0) == pytest.approx(0.4)
