"""What the endpoint needs to search, and a searcher that works in threads beside the event loop."""

import asyncio
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from seqwright.artifacts import LengthRatio, TrainedModel
from seqwright.data.vocabulary import Vocabulary
from seqwright.errors import AlgorithmError
from seqwright.hyperparameters import Hyperparameters
from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import Translation, Translator

OnFound = Callable[[int, Translation], None]
"""Called with the position of a source in its batch, and its translation."""


class SearcherLostError(AlgorithmError):
    """The searcher ended during a search, which another may do again."""


@dataclass(frozen=True)
class ModelDescription:
    """What the endpoint must know of a model besides its translations.

    Attributes:
        settings: its hyperparameters.
        source_vocabulary: its source tokens and ids.
        length_ratio: how long its outputs are.
        target_token_bytes: the mean size of a target token in JSON, with the space that follows.
    """

    settings: Hyperparameters
    source_vocabulary: Vocabulary
    length_ratio: LengthRatio
    target_token_bytes: float

    @classmethod
    def of(cls, trained: TrainedModel) -> Self:
        """Describe a model."""
        vocabulary = trained.target_vocabulary
        words = vocabulary.words(range(len(vocabulary)))
        size = len(json.dumps(" ".join(words), ensure_ascii=False).encode()) / len(words)
        return cls(trained.settings, trained.source_vocabulary, trained.length_ratio, size)

    def max_output_length(self, source_length: int, options: SearchOptions) -> int:
        """Tokens of the longest translation of a source of so many tokens: the rule of `Translator`."""
        if options.max_output_length is not None:
            return options.max_output_length
        width = self.settings.bucket_width
        bucket = math.ceil((source_length + 1) / width) * width
        return math.ceil((self.length_ratio.mean + 2 * self.length_ratio.std) * bucket) + 1


@dataclass(frozen=True)
class SearchBatch:
    """Sources that are searched together; see `Translator.translate_batch`.

    Attributes:
        sources: source ids, longest first.
        options: the search options of each source.
    """

    sources: Sequence[Sequence[int]]
    options: Sequence[SearchOptions]

    def steps(
        self, translator: Translator, on_found: OnFound, cancelled: Callable[[], Sequence[int]]
    ) -> Iterator[None]:
        """Search with `translator`, one step for each `next`.

        Attention matrices of all but the best translations are dropped: no answer has them, and they are large.
        """

        def put(position: int, translation: Translation) -> None:
            if translation.attention is not None:
                others = [dataclasses.replace(each, attention=None) for each in translation.alternatives]
                translation = dataclasses.replace(translation, alternatives=others)
            on_found(position, translation)

        return translator.translate_batch(self.sources, self.options, put, cancelled=cancelled)


@dataclass(frozen=True)
class SearchUpdate:
    """What a searcher must know while it searches.

    Attributes:
        cancelled: positions that are no longer wanted, by the number of their batch.
        alone: whether no other searcher shares the processor.
    """

    cancelled: Mapping[int, Sequence[int]] = field(default_factory=dict)
    alone: bool = True


class Searcher(Protocol):
    """Searches batches beside the event loop, a few at a time."""

    @property
    def model(self) -> ModelDescription:
        """The model that it searches with, always the same."""

    @property
    def healthy(self) -> bool:
        """Whether it searches, or will soon do so again."""

    async def watch(self, on_unhealthy: Callable[[], None]) -> None:
        """Keep it able to search, until cancelled.

        Args:
            on_unhealthy: called whenever it has failed to make itself able to search again.
        """

    async def wait_until_ready(self) -> None:
        """Wait until it can search."""

    async def search(self, number: int, batch: SearchBatch, update: SearchUpdate, on_found: OnFound) -> None:
        """Translate a batch.

        Args:
            number: the number by which updates name the batch.
            batch: what to translate.
            update: the state of all batches at the start.
            on_found: called on the event loop as soon as the translation of a source is found.

        Raises:
            SearcherLostError: it ended meanwhile.
        """

    def tell(self, update: SearchUpdate) -> None:
        """Send the running searches an update, which they take into account after their next steps."""


class ThreadSearcher:
    """A translator in threads of the same process: for models served beside other work, and for tests.

    Args:
        translator: the translator.
    """

    healthy = True

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._update = SearchUpdate()
        self.model = ModelDescription.of(translator.trained)

    async def watch(self, on_unhealthy: Callable[[], None]) -> None:
        """As `Searcher.watch`: threads need no care."""

    async def wait_until_ready(self) -> None:
        """As `Searcher.wait_until_ready`."""

    async def search(self, number: int, batch: SearchBatch, update: SearchUpdate, on_found: OnFound) -> None:
        """As `Searcher.search`, in a thread of its own; raises what the search raises."""
        self._update = update
        loop = asyncio.get_running_loop()

        def put(position: int, translation: Translation) -> None:
            loop.call_soon_threadsafe(on_found, position, translation)

        def run() -> None:
            for _ in batch.steps(self._translator, put, lambda: self._update.cancelled.get(number, ())):
                pass

        await asyncio.to_thread(run)

    def tell(self, update: SearchUpdate) -> None:
        """As `Searcher.tell`."""
        self._update = update
