"""seqwright: sequence-to-sequence models in the formats of Amazon SageMaker's Seq2Seq, trained and served anywhere.

Functions:
    prepare: turns parallel text into training data.
    train: trains a model and leaves the best one in a folder.
    evaluate: scores a model on parallel text.

Classes:
    Translator: a loaded model that translates.
    Translation: one translation, with its tokens, score and attention.
    SearchOptions: how translations are searched for: beam size, n-best, attention, longest output.
    Hyperparameters: a checked set of hyperparameters.
    Channels: the folders of training data.
    Start: a model or word vectors that training starts from.

Errors:
    ClientError: the input, the options or the machine are at fault; the message says what to do.
    AlgorithmError: seqwright itself failed.

The same from a shell: `seqwright --help`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqwright.data.prepare import prepare
    from seqwright.errors import AlgorithmError, ClientError
    from seqwright.hyperparameters import Hyperparameters
    from seqwright.inference.evaluation import evaluate
    from seqwright.inference.options import SearchOptions
    from seqwright.inference.translator import Translation, Translator
    from seqwright.training.job import Channels, train
    from seqwright.training.warm_start import Start

__version__ = "0.1.0"

__all__ = [
    "AlgorithmError",
    "Channels",
    "ClientError",
    "Hyperparameters",
    "SearchOptions",
    "Start",
    "Translation",
    "Translator",
    "evaluate",
    "prepare",
    "train",
]

_MODULES = {
    "AlgorithmError": "seqwright.errors",
    "Channels": "seqwright.training.job",
    "ClientError": "seqwright.errors",
    "Hyperparameters": "seqwright.hyperparameters",
    "SearchOptions": "seqwright.inference.options",
    "Start": "seqwright.training.warm_start",
    "Translation": "seqwright.inference.translator",
    "Translator": "seqwright.inference.translator",
    "evaluate": "seqwright.inference.evaluation",
    "prepare": "seqwright.data.prepare",
    "train": "seqwright.training.job",
}
"""The modules that the public names are imported from when they are first used, so that commands start fast."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
