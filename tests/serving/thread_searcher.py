"""A searcher in threads of the same process, which tests can look into."""

import asyncio
from collections.abc import Callable

from seqwright.inference.translator import Translation, Translator
from seqwright.serving.searcher import ModelDescription, OnFound, SearchBatch, SearchUpdate


class ThreadSearcher:
    """Searches every batch in a thread of its own; see `Searcher`."""

    healthy = True

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._update = SearchUpdate()
        self.model = ModelDescription.of(translator.trained)
        self.ready = asyncio.Event()
        self.ready.set()

    async def watch(self, on_unhealthy: Callable[[], None]) -> None:
        """Do nothing: threads need no care."""

    async def search(self, number: int, batch: SearchBatch, update: SearchUpdate, on_found: OnFound) -> None:
        self._update = update
        loop = asyncio.get_running_loop()

        def put(position: int, translation: Translation) -> None:
            loop.call_soon_threadsafe(on_found, position, translation)

        def run() -> None:
            for _ in batch.steps(self._translator, put, lambda: self._update.cancelled.get(number, ())):
                pass

        await asyncio.to_thread(run)

    def tell(self, update: SearchUpdate) -> None:
        self._update = update
