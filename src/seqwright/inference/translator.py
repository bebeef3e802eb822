"""Tokens or ids in, translations with scores and attention out."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqwright.artifacts import TrainedModel
from seqwright.data.vocabulary import EOS, PAD, SPECIAL_TOKENS, UNK, Vocabulary
from seqwright.devices import Precision, choose_device, choose_precision, is_out_of_memory
from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters
from seqwright.inference.beam_search import Hypothesis, beam_search
from seqwright.inference.input_report import InputReport, unknown_tokens
from seqwright.inference.options import SearchOptions, search_options
from seqwright.model_sources import load_any_model
from seqwright.models.prepared import prepare_model
from seqwright.models.protocols import SearchModel

BATCH_SIZE = 64
"""Sequences searched together by default."""

MAX_BATCH_SIZE = 1_000_000

BATCHES_PER_BLOCK = 16
"""Batches of a file that are read together, sorted by length and written together."""


@dataclass(frozen=True)
class Translation:
    """The translation of one source sequence.

    Attributes:
        tokens: target tokens.
        ids: their ids.
        score: negative log probability over the number of tokens, lower is better; see `Hypothesis`.
        attention: weights, one row for each target token and one column for each source token, `[T, S]`; None if not
            asked for. The model may also look at the end of the source: a row then sums to less than 1.
        alternatives: the next best translations, where more than one was asked for.
        unknown_tokens: source tokens that the model does not know, in order; it read `<unk>` in their place.
    """

    tokens: list[str]
    ids: list[int]
    score: float
    attention: NDArray[np.float32] | None = None
    alternatives: list["Translation"] = field(default_factory=list)
    unknown_tokens: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The tokens joined by spaces."""
        return " ".join(self.tokens)

    def rounded_attention(self) -> NDArray[np.float64]:
        """The attention weights to six places, for output; `[0, 0]` if none.

        An attention matrix is most of a JSON answer, and its digits most of the matrix. In fp32 the rounded numbers
        would be written with more digits again.
        """
        weights = np.zeros((0, 0)) if self.attention is None else self.attention
        return weights.astype(np.float64).round(6)


class Translator:
    """A model that is ready to translate. Its parameters must not change while this is in use.

    Args:
        trained: the model and what belongs to it.
        device: where it runs.
        precision: the arithmetic it runs in.
    """

    def __init__(self, trained: TrainedModel, device: torch.device, precision: Precision = "fp32") -> None:
        self.trained = trained
        self.device = device
        self.precision: Precision = precision
        self._model: SearchModel = prepare_model(trained.model.to(device), precision)

    def __repr__(self) -> str:
        sizes = f"{len(self.source_vocabulary):,} source and {len(self.trained.target_vocabulary):,} target tokens"
        return f"<Translator of {sizes}, {self.precision} on {self.device}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model as it was trained: the prepared one is made again."""
        return type(self), (self.trained, self.device, self.precision)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", precision: str = "auto", number: int | None = None) -> Self:
        """Load a model folder or a `model.tar.gz`, of seqwright or of the original's engine.

        Args:
            path: the model.
            device: `auto`, `cpu` or `cuda`.
            precision: `auto`, `fp32` or `bf16`.
            number: which GPU; the current one if not given.

        Raises:
            ClientError: the model is missing or damaged, or the device or precision is not available.
        """
        chosen = choose_device(device, number)
        return cls(load_any_model(path, chosen), chosen, choose_precision(precision, chosen))

    @property
    def settings(self) -> Hyperparameters:
        """The hyperparameters that the model was built from."""
        return self.trained.settings

    @property
    def source_vocabulary(self) -> Vocabulary:
        """Source tokens and ids."""
        return self.trained.source_vocabulary

    @overload  # a text is a sequence of texts too, but this comes first
    def translate(  # type: ignore[overload-overlap]
        self, sources: str, options: SearchOptions | None = None, *, batch_size: int = BATCH_SIZE, **named: object
    ) -> Translation: ...

    @overload
    def translate(
        self,
        sources: Iterable[str | Sequence[str]],
        options: SearchOptions | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        **named: object,
    ) -> list[Translation]: ...

    def translate(
        self,
        sources: str | Iterable[str | Sequence[str]],
        options: SearchOptions | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        **named: object,
    ) -> Translation | list[Translation]:
        """Translate one text, or a list of texts or token sequences.

        Args:
            sources: a text, which is split at white space; or several, each a text or a sequence of tokens. Unknown
                tokens become `<unk>`, and a sequence longer than the model's `max_seq_len_source` is cut to it; both
                are logged as a warning. An empty sequence gives an empty translation.
            options: how to search.
            batch_size: sequences searched together.
            named: single search options by name, such as `beam_size=10` or `attention=True`; see `SearchOptions`.

        Returns:
            For a text its translation; for several a list of translations, in order.

        Raises:
            ClientError: an option is unknown or not valid, or there is not enough memory.
        """
        if isinstance(sources, str):
            return self.translate([sources], options, batch_size=batch_size, **named)[0]
        if isinstance(sources, bytes) or not isinstance(sources, Iterable):
            kind = type(sources).__name__
            raise ClientError(f"translate takes a text, or a list of texts or of lists of tokens, not {kind}")
        chosen, vocabulary = search_options(options, named), self.source_vocabulary
        tokens = [source.split() if isinstance(source, str) else list(source) for source in sources]
        ids = [vocabulary.ids(each) for each in tokens]
        report = InputReport.of_source("translate", self.settings, unit="sequence", start=0)
        for words, numbers in zip(tokens, ids, strict=True):
            report.add(words, numbers)
        report.warn()
        translations = self.translate_ids(ids, chosen, batch_size=batch_size)
        for translation, words, numbers in zip(translations, tokens, ids, strict=True):
            translation.unknown_tokens[:] = unknown_tokens(words, numbers)
        return translations

    def translate_ids(
        self,
        sources: Sequence[Sequence[int]],
        options: SearchOptions | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        stop_requested: Callable[[], bool] = lambda: False,
        **named: object,
    ) -> list[Translation]:
        """Translate sequences of source ids, without BOS or EOS; otherwise as `translate`, without its warnings.

        `stop_requested` is asked after every step; once it says yes, what is not translated yet stays empty.
        """
        chosen = search_options(options, named)
        check_batch_size(batch_size)
        limit = self.settings.max_seq_len_source
        cut = [list(source[:limit]) for source in sources]
        nothing = np.zeros((0, 0), dtype=np.float32) if chosen.attention else None
        results = [Translation([], [], 0.0, nothing) for _ in cut]
        for indices in by_length(cut, batch_size):
            batch = [index for index in indices if cut[index]]
            if stop_requested() or not batch:
                break

            def put(position: int, translation: Translation, batch: list[int] = batch) -> None:
                results[batch[position]] = translation

            for _ in self.translate_batch([cut[index] for index in batch], [chosen] * len(batch), put):
                if stop_requested():
                    break
        return results

    def translate_blocks(
        self, blocks: Iterable[Sequence[Sequence[int]]], options: SearchOptions, batch_size: int = BATCH_SIZE
    ) -> Iterator[list[Translation]]:
        """`translate_ids` of one block of sequences after another, each when it is asked for."""
        for block in blocks:
            yield self.translate_ids(block, options, batch_size=batch_size)

    def translate_batch(
        self,
        sources: Sequence[Sequence[int]],
        options: Sequence[SearchOptions],
        on_found: Callable[[int, Translation], None],
        *,
        cancelled: Callable[[], Collection[int]] | None = None,
    ) -> Iterator[None]:
        """Translate one batch, all of it searched together, for callers that make up batches themselves.

        A generator: the search takes one step for each `next`; see `beam_search`.

        Args:
            sources: source ids without BOS or EOS, none empty or longer than `max_seq_len_source`.
            options: the options of each source, with the same `batch_key` once they are `resolved`.
            on_found: called with each source's position and translation as soon as its search ends.
            cancelled: called after every step for the positions in `sources` that are no longer wanted: they are
                dropped, and `on_found` is not called for them.

        Raises:
            ClientError: there is not enough memory.
        """
        resolved = [each.resolved(self.settings.beam_size) for each in options]
        batch, lengths = self._pad(sources)
        try:
            yield from beam_search(
                self._model,
                batch,
                lengths,
                self._max_lengths(lengths, resolved),
                resolved,
                on_found=lambda i, best: on_found(i, self._assemble(sources[i], best, resolved[i].max_output_length)),
                cancelled=cancelled,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ClientError(
                f"a search of {len(sources)} sequences of up to {batch.shape[1]} tokens with {resolved[0].beam_size} "
                "hypotheses each does not fit into memory: make the batch size or the beam size smaller"
            ) from error

    def _pad(self, sources: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The sources as one padded batch `[B, S]` with its lengths `[B]`, EOS where the model expects it."""
        ended = [[*source, EOS] if self.trained.source_eos else list(source) for source in sources]
        width = max(len(source) for source in ended)
        batch = torch.tensor([source + [PAD] * (width - len(source)) for source in ended])
        lengths = torch.tensor([len(source) for source in ended])
        return batch.to(self.device), lengths.to(self.device)

    def _max_lengths(self, lengths: Tensor, options: Sequence[SearchOptions]) -> Tensor:
        """Steps that a search may take, EOS counted, by source length `[B]`."""
        ratio, width = self.trained.length_ratio, self.settings.bucket_width
        pairs = zip(lengths.tolist(), options, strict=True)
        return torch.tensor(
            [each.max_output_length + 1 if each.max_output_length else ratio.max_steps(n, width) for n, each in pairs]
        )

    def _assemble(self, source: Sequence[int], hypotheses: list[Hypothesis], limit: int | None) -> Translation:
        """The translation with its alternatives.

        A search that did not end has one token more than `limit`, which is cut off here. Of hypotheses that differ in
        that token alone the best stays.
        """
        distinct: dict[tuple[int, ...], Hypothesis] = {}
        for each in hypotheses:
            distinct.setdefault(tuple(each.ids[:limit]), each)
        found = [
            Translation(
                self.trained.target_vocabulary.words(hypothesis.ids[:limit]),
                hypothesis.ids[:limit],
                hypothesis.score,
                None if hypothesis.attention is None else hypothesis.attention[:limit, : len(source)],
            )
            for hypothesis in distinct.values()
        ]
        found[0].alternatives.extend(found[1:])
        found[0].unknown_tokens.extend([SPECIAL_TOKENS[UNK]] * list(source).count(UNK))
        return found[0]


def check_batch_size(batch_size: int) -> None:
    """Check the number of sequences to search together.

    Raises:
        ClientError: it is not a whole number from 1 to `MAX_BATCH_SIZE`.
    """
    if not isinstance(batch_size, int) or not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise ClientError(f"batch_size must be a whole number from 1 to {MAX_BATCH_SIZE:,}, not {batch_size!r}")


def by_length(sources: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Positions of the sources, longest first, in batches."""
    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
