"""A batcher whose translators can be held and record their batches; what they search is real."""

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import torch

from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import Translation, Translator
from seqwright.serving.batcher import Batcher
from seqwright.serving.codecs import Instance
from seqwright.serving.limits import Limits
from seqwright.serving.metrics import Metrics
from seqwright.serving.request_queue import PendingRequest
from seqwright.serving.schemas import Configuration
from tests.serving.conftest import random_model
from tests.serving.thread_searcher import ThreadSearcher

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds that a test waits for what must happen, before it fails."""


class WatchedTranslator(Translator):
    """A translator that records the sources and options of every batch, and searches none while it is held."""

    def __init__(self) -> None:
        super().__init__(random_model(), torch.device("cpu"))
        self.batches: list[tuple[list[list[int]], int | None, bool]] = []
        self.steps = 0
        self.started = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()

    def translate_batch(
        self,
        sources: Sequence[Sequence[int]],
        options: Sequence[SearchOptions],
        on_found: Callable[[int, Translation], None],
        *,
        cancelled: Callable[[], Collection[int]] | None = None,
    ) -> Iterator[None]:
        def counted() -> Collection[int]:
            self.steps += 1
            return cancelled() if cancelled is not None else ()

        self.batches.append(([list(source) for source in sources], *options[0].resolved(5).batch_key))
        self.started.release()
        assert self.go.wait(PATIENCE)
        return super().translate_batch(sources, options, on_found, cancelled=counted)


@dataclass
class Submitted:
    """A request that was accepted, as the thread of the test sees it."""

    request: PendingRequest
    translations: Future[list[Translation]]


class Bench:
    """A batcher that works on an event loop of its own, and its translators."""

    def __init__(self, limits: Limits, searchers: int = 1) -> None:
        self.translators = [WatchedTranslator() for _ in range(searchers)]
        self.translator = self.translators[0]
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.batcher = Batcher([ThreadSearcher(each) for each in self.translators], limits, Metrics())
        self.on_loop(self.batcher.start)

    def on_loop(self, call: Callable[[], T]) -> T:
        """The result of a function that must be called on the event loop."""

        async def wrapped() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(PATIENCE)

    def submit(self, instances: Sequence[Instance]) -> Submitted:
        request = self.on_loop(lambda: self.batcher.submit(instances))

        async def wait() -> list[Translation]:
            return await request.translations

        return Submitted(request, asyncio.run_coroutine_threadsafe(wait(), self._loop))

    def cancel(self, submitted: Submitted) -> None:
        self.on_loop(submitted.request.cancel)

    def waiting(self) -> int:
        return self.on_loop(self.batcher.waiting)

    def begin_to_close(self) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(self.batcher.close(), self._loop)

    def close(self) -> None:
        """Close the batcher, and end the loop."""
        self.begin_to_close().result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._runner.close()

    def hold(self) -> Submitted:
        """Occupy the searcher with a request of one instance, until `release`."""
        self.translator.go.clear()
        submitted = self.submit([instance([5])])
        assert self.translator.started.acquire(timeout=PATIENCE)
        return submitted

    def release(self) -> None:
        for translator in self.translators:
            translator.go.set()

    def batches(self) -> list[list[list[int]]]:
        """The sources of every batch since the searcher was first held."""
        return [sources for sources, _, _ in self.translator.batches[1:]]


def instance(ids: list[int], **configuration: object) -> Instance:
    words = [f"w{index}" for index in ids]
    return Instance(ids, words, Configuration.model_validate(configuration), truncated=False)


def result(submitted: Submitted) -> list[Translation]:
    return submitted.translations.result(PATIENCE)
