"""What the endpoint needs of a translator, and a translator in a process of its own.

Search is a long chain of small tensor operations, each of which lets go of Python's interpreter lock and must get it
back. Beside the work of HTTP in the same process that costs half of the throughput; apart, they run on two cores.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import torch

from seqwright.data.vocabulary import UNK, Vocabulary
from seqwright.errors import AlgorithmError, ClientError
from seqwright.hyperparameters import Hyperparameters
from seqwright.inference.translator import Translation, Translator

_LOGGER = logging.getLogger(__name__)

_FEW = 2
"""Sentences of a batch that is likely to be the only one, and so has the whole processor."""

_NICENESS = 5
"""By how much search yields to HTTP, whose work is short and holds up everyone."""

_GLANCE = 0.01
"""Seconds between two looks at who has gone away during a search."""


class Searcher(Protocol):
    """Searches batches: a `Translator`, or a `SearchProcess`."""

    @property
    def settings(self) -> Hyperparameters:
        """The model's hyperparameters."""

    @property
    def source_vocabulary(self) -> Vocabulary:
        """The model's source tokens and ids."""

    def translate_batch(
        self,
        sources: Sequence[Sequence[int]],
        *,
        beam_size: int | None = None,
        nbest: int = 1,
        attention: bool = False,
        max_output_lengths: Sequence[int | None] | None = None,
        abandoned: Callable[[], Collection[int]] | None = None,
    ) -> list[Translation]:
        """Translate one batch; see `Translator.translate_batch`."""


@dataclass(frozen=True)
class _Model:
    """What the process says of its model when it is ready."""

    settings: Hyperparameters
    source_vocabulary: Vocabulary
    device: str


@dataclass(frozen=True)
class _Batch:
    """The arguments of `translate_batch`. While it is searched, lists of abandoned positions may follow."""

    sources: Sequence[Sequence[int]]
    options: dict[str, Any]


class SearchProcess:
    """A translator in a process of its own, used by one thread at a time. A process that dies is started again.

    Args:
        model: a model folder or `model.tar.gz`.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`.
        share: processes that share the processor: batches of more than a few sentences take one such part of its
            threads.

    Raises:
        ClientError: the model is missing or damaged, or the device or precision is not to be had.
    """

    def __init__(self, model: Path, device: str = "auto", precision: str = "auto", share: int = 1) -> None:
        self._arguments = (model, device, precision, share)
        self._connection, self._process, self._model = self._start()

    @property
    def settings(self) -> Hyperparameters:
        """The model's hyperparameters."""
        return self._model.settings

    @property
    def source_vocabulary(self) -> Vocabulary:
        """The model's source tokens and ids."""
        return self._model.source_vocabulary

    @property
    def device(self) -> str:
        """Where the model runs."""
        return self._model.device

    def translate_batch(
        self,
        sources: Sequence[Sequence[int]],
        *,
        beam_size: int | None = None,
        nbest: int = 1,
        attention: bool = False,
        max_output_lengths: Sequence[int | None] | None = None,
        abandoned: Callable[[], Collection[int]] | None = None,
    ) -> list[Translation]:
        """Translate one batch; see `Translator.translate_batch`.

        Raises:
            AlgorithmError: the search failed, or its process died.
        """
        options = {
            "beam_size": beam_size,
            "nbest": nbest,
            "attention": attention,
            "max_output_lengths": max_output_lengths,
        }
        try:
            self._connection.send(_Batch(sources, options))
            told: Collection[int] = []
            while not self._connection.poll(_GLANCE):
                if abandoned is not None and len(gone := abandoned()) > len(told):
                    told = gone
                    self._connection.send(list(gone))
            found: list[Translation] | str = self._connection.recv()
        except (EOFError, OSError) as error:
            self.close()
            _LOGGER.error("the search process ended (exit code %s): starting another", self._process.exitcode)
            self._connection, self._process, self._model = self._start()
            raise AlgorithmError("the search process ended, for want of memory perhaps") from error
        if isinstance(found, str):
            raise AlgorithmError(f"the search failed:\n{found}")
        return found

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def _start(self) -> tuple[Connection, BaseProcess, _Model]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *self._arguments), name="seqwright-search", daemon=True)
        process.start()
        theirs.close()
        try:
            model: _Model | ClientError = ours.recv()
        except EOFError as error:
            raise AlgorithmError("the search process ended while it loaded the model") from error
        if isinstance(model, ClientError):
            process.join()
            raise model
        return ours, process, model


def _serve(connection: Connection, model: Path, device: str, precision: str, share: int) -> None:
    """The process: load, translate once so that the first request is not slow, and search until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICENESS)
    threads = torch.get_num_threads()
    try:
        translator = Translator.load(model, device, precision)
    except ClientError as error:
        connection.send(error)
        return
    translator.translate_batch([[UNK]])
    with contextlib.suppress(EOFError, OSError):
        connection.send(_Model(translator.settings, translator.source_vocabulary, str(translator.device)))
        while True:
            message = connection.recv()
            if isinstance(message, _Batch):
                torch.set_num_threads(threads if len(message.sources) <= _FEW else max(1, threads // share))
                connection.send(_search(translator, message, connection))


def _search(translator: Translator, batch: _Batch, connection: Connection) -> list[Translation] | str:
    """The translations, or what went wrong."""
    gone: set[int] = set()

    def abandoned() -> set[int]:
        while connection.poll():
            gone.update(connection.recv())
        return gone

    try:
        return translator.translate_batch(batch.sources, abandoned=abandoned, **batch.options)
    except (EOFError, OSError):
        raise
    except Exception:
        return traceback.format_exc()
