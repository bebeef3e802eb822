"""Settings and small models that many tests share."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from seqwright.artifacts import LengthRatio, TrainedModel
from seqwright.console import ConsoleHandler
from seqwright.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from seqwright.hyperparameters import Hyperparameters
from seqwright.models.seq2seq import build_model, initialize_model

SHARED = Path(__file__).parents[2] / "shared"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes make no readable test id; their argument's name (and pytest's counter) does."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and the tests themselves run in parallel."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_logging_left() -> Iterator[None]:
    """Commands that a test runs in this process set up logging for the whole process: undo that."""
    yield
    for handler in [each for each in logging.getLogger().handlers if isinstance(each, ConsoleHandler)]:
        logging.getLogger().removeHandler(handler)
    logging.getLogger("seqwright").setLevel(logging.NOTSET)


@pytest.fixture
def shared() -> Path:
    """The folder of larger reference material; tests that need it are skipped where it is not there."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared reference material beside the checkout")
    return SHARED


SMALL: dict[str, object] = {
    "rnn_num_hidden": 12,
    "num_embed_source": 8,
    "num_embed_target": 6,
    "batch_size": 4,
    "weight_init_scale": 6.0,
}


def vocabulary(words: int) -> Vocabulary:
    """The special tokens and words `w4`, `w5`, …"""
    return Vocabulary([*SPECIAL_TOKENS, *(f"w{i}" for i in range(4, 4 + words))])


@pytest.fixture(scope="session")
def small_model() -> Callable[..., TrainedModel]:
    """A maker of tiny models with random weights."""

    def make(seed: int = 1, source_words: int = 20, target_words: int = 15, **settings: object) -> TrainedModel:
        chosen = Hyperparameters.parse({**SMALL, **settings})
        source, target = vocabulary(source_words), vocabulary(target_words)
        model = build_model(chosen, len(source), len(target))
        initialize_model(model, chosen, seed)
        return TrainedModel(model.eval(), chosen, source, target, LengthRatio(mean=1.0, std=0.2))

    return make
