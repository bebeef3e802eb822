"""seqwright: sequence-to-sequence models in the formats of Amazon SageMaker's Seq2Seq, trained and served anywhere."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqwright.data.prepare import prepare
    from seqwright.errors import AlgorithmError, ClientError
    from seqwright.hyperparameters import Hyperparameters
    from seqwright.inference.translator import Translation, Translator
    from seqwright.training.job import Channels, train
    from seqwright.training.warm_start import Start

__version__ = "0.1.0"

__all__ = [
    "AlgorithmError",
    "Channels",
    "ClientError",
    "Hyperparameters",
    "Start",
    "Translation",
    "Translator",
    "prepare",
    "train",
]

_HOMES = {
    "AlgorithmError": "seqwright.errors",
    "Channels": "seqwright.training.job",
    "ClientError": "seqwright.errors",
    "Hyperparameters": "seqwright.hyperparameters",
    "Start": "seqwright.training.warm_start",
    "Translation": "seqwright.inference.translator",
    "Translator": "seqwright.inference.translator",
    "prepare": "seqwright.data.prepare",
    "train": "seqwright.training.job",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name; imported on first use, so that commands start fast
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
