"""When training checkpoints and ends."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Module

from seqwright.artifacts import TrainedModel
from seqwright.data.batches import Batches
from seqwright.data.corpus import ParallelCorpus
from seqwright.data.sequences import Sequences
from seqwright.errors import AlgorithmError, ClientError
from seqwright.training.optimizers import build_optimizer
from seqwright.training.progress import Checkpoint, Monitor, Progress, Scores, Update
from seqwright.training.schedules import build_schedule
from seqwright.training.trainer import Trainer, Validate

Maker = Callable[..., TrainedModel]


class Recorder(Monitor):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.checkpoints: list[tuple[int, Checkpoint]] = []
        self.reason = ""
        self.interrupted_at: int | None = None

    def on_update(self, progress: Progress, update: Update) -> None:
        self.updates.append(update)

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        self.checkpoints.append((progress.updates, checkpoint))

    def on_interrupt(self, progress: Progress) -> None:
        self.interrupted_at = progress.updates

    def on_end(self, progress: Progress, reason: str) -> None:
        self.reason = reason


def fit(
    make: Maker,
    perplexities: Sequence[float] | Validate,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    accumulate: int = 1,
    change: Callable[[Trainer], object] = lambda _: None,
    **settings: Any,
) -> tuple[Recorder, Trainer]:
    """Train on 20 pairs, 5 batches an epoch; validation reports the given perplexities in turn, then the last."""
    progress = progress or Progress()
    options = {"batch_size": 4, "checkpoint_frequency_num_batches": 2, **settings}
    trained = make(**options)
    generator = torch.Generator().manual_seed(1)
    pairs = [torch.randint(4, 19, (5,), generator=generator).tolist() for _ in range(20)]
    corpus = ParallelCorpus(Sequences.of(pairs), Sequences.of(pairs), digest="")
    batches = Batches(
        corpus,
        batch_size=4,
        max_source_length=100,
        max_target_length=100,
        bucket_width=10,
        bucketing=True,
        seed=1,
    )

    def in_turn(_: Callable[[], bool]) -> Scores:
        return Scores(left.pop(0) if len(left) > 1 else left[0], 0.5, 10.0)

    left = [] if callable(perplexities) else list(perplexities)
    trainer = Trainer(
        trained.model,
        build_optimizer(trained.settings, dict(trained.model.named_parameters())),
        build_schedule(trained.settings),
        trained.settings,
        perplexities if callable(perplexities) else in_turn,
        progress=progress,
        accumulate=accumulate,
    )
    change(trainer)
    recorder = Recorder()
    assert trainer.fit(batches, [recorder], stop or (lambda: False)) == recorder.reason
    return recorder, trainer


@pytest.mark.parametrize(
    ("settings", "perplexities", "updates"),
    [
        ({"max_num_batches": 7}, [9.0], 7),
        ({"max_num_epochs": 3}, [9.0], 15),
        ({"max_num_epochs": 3, "max_num_batches": 7}, [9.0], 7),
        ({"max_num_epochs": 2, "max_num_batches": 30}, [9.0], 10),
        ({"checkpoint_threshold": 2}, [9.0, 8.0, 8.0, 8.5], 8),
        ({"checkpoint_threshold": 2}, [9.0, 8.0, 8.0, 7.0, 7.0, 7.0], 12),
        ({"checkpoint_threshold": 1, "min_num_epochs": 2}, [9.0], 10),
        ({"checkpoint_threshold": 1, "max_num_batches": 3}, [9.0], 3),
        ({"checkpoint_threshold": 1, "max_num_epochs": 2}, [9.0], 10),
        ({"checkpoint_threshold": 1, "min_num_epochs": 2, "max_num_batches": 5}, [9.0], 5),
    ],
)
def test_training_ends_where_its_bounds_say(
    settings: dict[str, Any], perplexities: list[float], updates: int, small_model: Maker
) -> None:
    recorder, trainer = fit(small_model, perplexities, **settings)
    assert len(recorder.updates) == trainer.progress.updates == updates
    assert recorder.checkpoints[-1][0] == updates


def test_a_requested_stop_finishes_the_update_and_does_not_validate(small_model: Maker) -> None:
    answers = iter([False] * 3 + [True])
    recorder, trainer = fit(small_model, [9.0], stop=lambda: next(answers), max_num_batches=7)
    assert trainer.progress.updates == recorder.interrupted_at == 3
    assert [updates for updates, _ in recorder.checkpoints] == [2]
    assert recorder.reason == "a stop was requested"


def test_a_stop_in_a_validation_gives_it_up_and_it_comes_first_when_the_run_goes_on(small_model: Maker) -> None:
    asked: list[bool] = []

    def validate(stop_requested: Callable[[], bool]) -> Scores | None:
        asked.append(stop_requested())
        return None if asked[-1] else Scores(9.0, 0.5, 10.0)

    settings: dict[str, Any] = {"max_num_batches": 6, "checkpoint_frequency_num_batches": 4}
    progress = Progress()
    stopped, _ = fit(small_model, validate, progress=progress, stop=lambda: progress.updates == 4, **settings)
    assert (stopped.interrupted_at, stopped.checkpoints, asked) == (4, [], [True])
    resumed, _ = fit(small_model, validate, progress=progress, **settings)
    assert [updates for updates, _ in resumed.checkpoints] == [4, 6]
    assert len(resumed.updates) == 2


def test_checkpoints_come_at_their_frequency_and_at_the_end(small_model: Maker) -> None:
    recorder, _ = fit(small_model, [9.0], max_num_batches=7)
    assert [updates for updates, _ in recorder.checkpoints] == [2, 4, 6, 7]


@pytest.mark.parametrize(
    ("metric", "improved"), [("perplexity", [True, False, True]), ("accuracy", [True, False, False])]
)
def test_the_optimized_metric_decides_what_improves(metric: str, improved: list[bool], small_model: Maker) -> None:
    recorder, trainer = fit(small_model, [9.0, 9.5, 8.0], max_num_batches=6, optimized_metric=metric)
    assert [checkpoint.improved for _, checkpoint in recorder.checkpoints] == improved
    assert trainer.progress.best_updates == (6 if metric == "perplexity" else 2)


@pytest.mark.parametrize("metric", ["perplexity", "accuracy"])
def test_the_training_metric_covers_the_updates_since_the_last_checkpoint(metric: str, small_model: Maker) -> None:
    recorder, _ = fit(small_model, [9.0], max_num_batches=4, training_metric=metric, rnn_decoder_hidden_dropout=0.0)
    name, value = recorder.checkpoints[-1][1].train
    assert name == metric
    if metric == "perplexity":
        last = recorder.updates[2:]
        mean = sum(u.loss.item() * u.tokens for u in last) / sum(u.tokens for u in last)
        assert value == pytest.approx(math.exp(mean), rel=1e-5)
    else:
        assert 0 <= value <= 1


def test_the_loss_falls(small_model: Maker) -> None:
    recorder, _ = fit(small_model, [9.0], max_num_epochs=40, learning_rate=0.01, plateau_reduce_lr_threshold=1000)
    assert recorder.updates[-1].loss < 0.5 * recorder.updates[0].loss


def test_gradients_are_clipped_by_value_unless_negative(small_model: Maker) -> None:
    moved = {}
    for clip in (1e-6, -1.0):
        _, trainer = fit(
            small_model, [9.0], max_num_batches=1, optimizer_type="sgd", learning_rate=1.0, clip_gradient=clip
        )
        moved[clip] = max(
            float((new - old).abs().max())
            for new, old in zip(
                trainer.model.state_dict().values(), small_model().model.state_dict().values(), strict=True
            )
        )
    assert moved[1e-6] <= 1.1e-6
    assert moved[-1.0] > 1e-3


def weights(trainer: Trainer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


@pytest.mark.parametrize("parts", [2, 3, 4, 9])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(parts: int, small_model: Maker) -> None:
    whole, expected = fit(small_model, [9.0], max_num_batches=1, optimizer_type="sgd", label_smoothing=0.1)
    split, found = fit(
        small_model, [9.0], accumulate=parts, max_num_batches=1, optimizer_type="sgd", label_smoothing=0.1
    )
    assert split.updates[0].loss.item() == pytest.approx(whole.updates[0].loss.item(), rel=1e-6)
    assert split.checkpoints[0][1].train[1] == pytest.approx(whole.checkpoints[0][1].train[1], rel=1e-6)
    for one, other in zip(weights(found), weights(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def holding(pairs: int) -> Callable[[Trainer], object]:
    """Make the device as small as one that can hold so many pairs."""

    def limit(_: Module, arguments: tuple[Tensor, ...]) -> None:
        if len(arguments[0]) > pairs:
            raise torch.OutOfMemoryError("no memory left")

    return lambda trainer: trainer.model.register_forward_pre_hook(limit)


def test_a_batch_that_does_not_fit_is_split_once_and_for_all(
    small_model: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        _, found = fit(small_model, [9.0], max_num_batches=4, optimizer_type="sgd", change=holding(1))
    assert [line for line in caplog.messages if "parts" in line] == [
        "the batch does not fit into memory: computing it in 2 parts",
        "the batch does not fit into memory: computing it in 4 parts",
    ]
    _, expected = fit(small_model, [9.0], max_num_batches=4, optimizer_type="sgd")
    for one, other in zip(weights(found), weights(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_single_pair_that_does_not_fit_ends_training(small_model: Maker) -> None:
    with pytest.raises(ClientError, match="a single pair of 6 source and 6 target tokens does not fit"):
        fit(small_model, [9.0], max_num_batches=4, change=holding(0))


def poisoned(updates: Sequence[int]) -> Callable[[Trainer], object]:
    """Make the model's output infinite in these updates, counted from 0."""

    def change(trainer: Trainer) -> None:
        def poison(_: Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output * math.inf if trainer.progress.updates in updates else output

        trainer.model.register_forward_hook(poison)

    return change


def test_an_update_that_is_not_finite_is_skipped_and_counted(small_model: Maker) -> None:
    seen: list[list[Tensor]] = []

    def change(trainer: Trainer) -> None:
        poisoned([1, 3, 4])(trainer)
        trainer.model.register_forward_pre_hook(lambda *_: seen.append(weights(trainer)))

    recorder, trainer = fit(small_model, [9.0], max_num_batches=6, change=change)
    seen.append(weights(trainer))
    stayed = [
        all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) for before, after in itertools.pairwise(seen)
    ]
    assert stayed == [False, True, False, True, True, False]
    assert (trainer.progress.skipped, trainer.progress.skipped_in_a_row) == (3, 0)
    assert all(math.isfinite(checkpoint.train[1]) for _, checkpoint in recorder.checkpoints[:1])


def test_too_many_skipped_updates_in_a_row_end_training_and_say_where(small_model: Maker) -> None:
    with pytest.raises(
        ClientError, match=r"20 updates in a row, .* update 23 \(learning rate 3\.75e-05, batch 3 of epoch 4"
    ):
        fit(small_model, [9.0], max_num_batches=60, checkpoint_threshold=99, change=poisoned(range(3, 60)))


def test_too_many_skipped_updates_before_any_finite_score_are_an_algorithm_error(small_model: Maker) -> None:
    with pytest.raises(AlgorithmError, match=r"20 updates in a row, .* no model had a finite score yet"):
        fit(small_model, [math.inf], max_num_batches=60, checkpoint_threshold=99, change=poisoned(range(3, 60)))
