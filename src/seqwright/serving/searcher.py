"""What the endpoint needs of a translator, and a translator in a thread beside the event loop."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from seqwright.data.vocabulary import Vocabulary
from seqwright.hyperparameters import Hyperparameters
from seqwright.inference.translator import Translation, Translator

Found = Callable[[int, Translation], None]
"""Told the position of a source in its batch, and its translation."""


@dataclass(frozen=True)
class Batch:
    """What is searched together; see `Translator.translate_batch`.

    Attributes:
        sources: source ids, longest first.
        beam_size: hypotheses kept a sentence.
        nbest: translations wanted, for each source.
        attention: whether attention is wanted.
        max_output_lengths: a limit for each source, None for the usual one.
    """

    sources: Sequence[Sequence[int]]
    beam_size: int
    nbest: Sequence[int]
    attention: bool
    max_output_lengths: Sequence[int | None]

    def translate(self, translator: Translator, found: Found, abandoned: Callable[[], Sequence[int]]) -> None:
        """Have it searched by `translator`."""
        translator.translate_batch(
            self.sources,
            found,
            beam_size=self.beam_size,
            nbest=self.nbest,
            attention=self.attention,
            max_output_lengths=self.max_output_lengths,
            abandoned=abandoned,
        )


@dataclass(frozen=True)
class News:
    """What a search must know while it runs.

    Attributes:
        abandoned: positions that nobody wants any more.
        alone: whether no other search shares the processor.
    """

    abandoned: Sequence[int] = ()
    alone: bool = True


class Searcher(Protocol):
    """Searches one batch at a time, beside the event loop."""

    @property
    def settings(self) -> Hyperparameters:
        """The model's hyperparameters."""

    @property
    def source_vocabulary(self) -> Vocabulary:
        """The model's source tokens and ids."""

    async def search(self, batch: Batch, news: News, found: Found) -> None:
        """Translate a batch; `found` is called on the event loop as soon as each source is done."""

    def tell(self, news: News) -> None:
        """Let the running search know, before its next step or soon after."""


class ThreadSearcher:
    """A translator in a thread of the same process: for models served beside other work, and for tests.

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

    async def search(self, batch: Batch, news: News, found: Found) -> None:
        """As `Searcher.search`; raises what the search raises."""
        self._news = news
        loop = asyncio.get_running_loop()

        def put(position: int, translation: Translation) -> None:
            loop.call_soon_threadsafe(found, position, translation)

        await asyncio.to_thread(batch.translate, self._translator, put, lambda: self._news.abandoned)

    def tell(self, news: News) -> None:
        """As `Searcher.tell`."""
        self._news = news
