"""What the endpoint and its searchers tell each other."""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from seqwright.artifacts import LengthRatio, TrainedModel
from seqwright.data.vocabulary import Vocabulary
from seqwright.errors import AlgorithmError
from seqwright.hyperparameters import Hyperparameters
from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import Translation, Translator

OnFound = Callable[[int, Translation], None]  # called with a position in the batch, and its translation


class SearcherLostError(AlgorithmError):
    """The searcher ended during a search, which another may do again."""


@dataclass(frozen=True)
class ModelDescription:
    """What the endpoint must know of a model besides its translations."""

    settings: Hyperparameters
    source_vocabulary: Vocabulary
    length_ratio: LengthRatio
    target_token_bytes: float  # the mean size of a target token in JSON, with the space that follows

    @classmethod
    def of(cls, trained: TrainedModel) -> Self:
        """Describe a model."""
        tokens = trained.target_vocabulary.tokens
        size = len(json.dumps(" ".join(tokens), ensure_ascii=False).encode()) / len(tokens)
        return cls(trained.settings, trained.source_vocabulary, trained.length_ratio, size)

    def max_output_length(self, source_length: int, options: SearchOptions) -> int:
        """Tokens of the longest translation of a source of so many tokens."""
        if options.max_output_length is not None:
            return options.max_output_length
        return self.length_ratio.max_steps(source_length + 1, self.settings.bucket_width)


@dataclass(frozen=True)
class SearchBatch:
    """Sources that are searched together; see `Translator.translate_batch`."""

    sources: Sequence[Sequence[int]]  # source ids, longest first
    options: Sequence[SearchOptions]  # of each source

    def steps(
        self, translator: Translator, on_found: OnFound, cancelled: Callable[[], Sequence[int]]
    ) -> Iterator[None]:
        """Search with `translator`, one step for each `next`."""

        def put(position: int, translation: Translation) -> None:
            if translation.attention is not None:  # no answer has the large matrices of the alternatives
                others = [dataclasses.replace(each, attention=None) for each in translation.alternatives]
                translation = dataclasses.replace(translation, alternatives=others)
            on_found(position, translation)

        return translator.translate_batch(self.sources, self.options, put, cancelled=cancelled)


@dataclass(frozen=True)
class SearchUpdate:
    """What a searcher must know while it searches."""

    cancelled: Mapping[int, Sequence[int]] = field(default_factory=dict)  # positions by the number of their batch
    alone: bool = True  # whether no other searcher shares the processor


class Searcher(Protocol):
    """Searches batches beside the event loop, a few at a time, always with the same model."""

    model: ModelDescription
    ready: asyncio.Event  # set while it can search
    healthy: bool  # whether it can search, or will soon be able to again

    async def watch(self, on_unhealthy: Callable[[], None]) -> None:
        """Keep it able to search, until cancelled; `on_unhealthy` is called whenever that has failed."""

    async def search(self, number: int, batch: SearchBatch, update: SearchUpdate, on_found: OnFound) -> None:
        """Translate a batch, which updates name by its number.

        `on_found` is called on the event loop as soon as the translation of a source is found.

        Raises:
            SearcherLostError: it ended meanwhile.
        """

    def tell(self, update: SearchUpdate) -> None:
        """Send an update, which the running searches take into account after their next steps."""
