"""What the endpoint needs of a translator, and a translator in threads beside the event loop."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from seqwright.data.vocabulary import Vocabulary
from seqwright.hyperparameters import Hyperparameters
from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import Translation, Translator

Found = Callable[[int, Translation], None]
"""Told the position of a source in its batch, and its translation."""


@dataclass(frozen=True)
class Batch:
    """What is searched together; see `Translator.translate_batch`.

    Attributes:
        sources: source ids, longest first.
        options: the search options of each source.
    """

    sources: Sequence[Sequence[int]]
    options: Sequence[SearchOptions]

    def steps(self, translator: Translator, found: Found, abandoned: Callable[[], Sequence[int]]) -> Iterator[None]:
        """Its search by `translator`, a step at a time."""
        return translator.translate_batch(self.sources, self.options, found, cancelled=abandoned)


@dataclass(frozen=True)
class News:
    """What a searcher must know while it searches.

    Attributes:
        abandoned: positions that nobody wants any more, by the number of their batch.
        alone: whether no other searcher shares the processor.
    """

    abandoned: Mapping[int, Sequence[int]] = field(default_factory=dict)
    alone: bool = True


class Searcher(Protocol):
    """Searches batches beside the event loop: one at a time mostly, a few in turns where some take long."""

    @property
    def settings(self) -> Hyperparameters:
        """The model's hyperparameters."""

    @property
    def source_vocabulary(self) -> Vocabulary:
        """The model's source tokens and ids."""

    async def search(self, number: int, batch: Batch, news: News, found: Found) -> None:
        """Translate a batch, which `News` name by its number; `found` is called on the event loop as soon as each
        source is done."""

    def tell(self, news: News) -> None:
        """Let the running searches know, before their next steps or soon after."""


class ThreadSearcher:
    """A translator in threads of the same process: for models served beside other work, and for tests.

    Args:
        translator: the translator.
    """

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._news = News()

    @property
    def settings(self) -> Hyperparameters:
        """The model's hyperparameters."""
        return self._translator.settings

    @property
    def source_vocabulary(self) -> Vocabulary:
        """The model's source tokens and ids."""
        return self._translator.source_vocabulary

    async def search(self, number: int, batch: Batch, news: News, found: Found) -> None:
        """As `Searcher.search`, in a thread of its own; raises what the search raises."""
        self._news = news
        loop = asyncio.get_running_loop()

        def put(position: int, translation: Translation) -> None:
            loop.call_soon_threadsafe(found, position, translation)

        def run() -> None:
            for _ in batch.steps(self._translator, put, lambda: self._news.abandoned.get(number, ())):
                pass

        await asyncio.to_thread(run)

    def tell(self, news: News) -> None:
        """As `Searcher.tell`."""
        self._news = news
