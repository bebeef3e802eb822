"""Tokens or ids in, translations with scores and attention out."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqwright.artifacts import TrainedModel, load_model
from seqwright.data.vocabulary import EOS, PAD, Vocabulary
from seqwright.devices import Precision, choose_device, choose_precision, is_out_of_memory
from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters
from seqwright.inference.beam_search import Hypothesis, beam_search
from seqwright.models.prepared import PreparedModel, SearchModel


@dataclass(frozen=True)
class Translation:
    """The translation of one source sequence.

    Attributes:
        tokens: target tokens.
        ids: their ids.
        score: negative log probability over the number of tokens, lower is better; see `Hypothesis`.
        attention: weights, one row a target token and one column a source token, `[T, S]`; None if not asked for.
            The model may also look at the end of the source: a row then sums to less than 1.
        alternatives: the next best translations, where more than one was asked for.
    """

    tokens: list[str]
    ids: list[int]
    score: float
    attention: NDArray[np.float32] | None = None
    alternatives: list["Translation"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The tokens joined by spaces."""
        return " ".join(self.tokens)

    def rounded_attention(self) -> NDArray[np.float64]:
        """The attention weights to six places, for output: in fp32 they would get more digits again; `[0, 0]` if none.

        An attention matrix is most of a JSON answer, and its digits most of the matrix.
        """
        weights = np.zeros((0, 0)) if self.attention is None else self.attention
        return weights.astype(np.float64).round(6)


class Translator:
    """A model ready to translate. Its parameters must not change while this is in use.

    Args:
        trained: the model and what belongs to it.
        device: where it runs.
        precision: the arithmetic it runs in.
    """

    def __init__(self, trained: TrainedModel, device: torch.device, precision: Precision = "fp32") -> None:
        self.trained = trained
        self.device = device
        self.precision: Precision = precision
        model = trained.model.to(device).eval()
        self._model: SearchModel = PreparedModel(model, precision)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", precision: str = "auto", number: int | None = None) -> Self:
        """Load a model folder or a `model.tar.gz`.

        Args:
            path: the model.
            device: `auto`, `cpu` or `cuda`.
            precision: `auto`, `fp32` or `bf16`.
            number: which GPU; the current one if not given.

        Raises:
            ClientError: the model is missing or damaged, or the device or precision is not to be had.
        """
        chosen = choose_device(device, number)
        return cls(load_model(Path(path), chosen), chosen, choose_precision(precision, chosen))

    @property
    def settings(self) -> Hyperparameters:
        """The hyperparameters that the model was built from."""
        return self.trained.settings

    @property
    def source_vocabulary(self) -> Vocabulary:
        """Source tokens and ids."""
        return self.trained.source_vocabulary

    def translate(
        self,
        sources: Sequence[str | Sequence[str]],
        *,
        beam_size: int | None = None,
        nbest: int = 1,
        attention: bool = False,
        batch_size: int = 64,
        max_output_length: int | None = None,
    ) -> list[Translation]:
        """Translate token sequences; a plain string is split on white space.

        Args:
            sources: what to translate. Unknown tokens map to `<unk>`; a sequence longer than the model's
                `max_seq_len_source` is cut to it; an empty one gives an empty translation.
            beam_size: hypotheses kept in search, `nbest` at least; the model's `beam_size` if not given.
            nbest: translations to return for each source, fewer where the search finds no more.
            attention: whether to return attention matrices.
            batch_size: sequences searched together.
            max_output_length: tokens after which a translation is cut off; by default a limit that goes with the
                source's length.

        Returns:
            One translation for each source, in order.
        """
        vocabulary = self.trained.source_vocabulary
        ids = [vocabulary.ids(source.split() if isinstance(source, str) else source) for source in sources]
        return self.translate_ids(
            ids,
            beam_size=beam_size,
            nbest=nbest,
            attention=attention,
            batch_size=batch_size,
            max_output_length=max_output_length,
        )

    def translate_ids(
        self,
        sources: Sequence[Sequence[int]],
        *,
        beam_size: int | None = None,
        nbest: int = 1,
        attention: bool = False,
        batch_size: int = 64,
        max_output_length: int | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> list[Translation]:
        """Translate sequences of source ids, without BOS or EOS; otherwise as `translate`.

        `stop_requested` is asked after every step; once it says yes, what is not translated yet stays empty.
        """
        limit = self.trained.settings.max_seq_len_source
        cut = [list(source[:limit]) for source in sources]
        nothing = np.zeros((0, 0), dtype=np.float32) if attention else None
        results = [Translation([], [], 0.0, nothing) for _ in cut]
        for places in by_length(cut, batch_size):
            chunk = [place for place in places if cut[place]]
            if stop_requested() or not chunk:
                break

            def put(position: int, translation: Translation, chunk: list[int] = chunk) -> None:
                results[chunk[position]] = translation

            steps = self.translate_batch(
                [cut[index] for index in chunk],
                put,
                beam_size=beam_size,
                nbest=[nbest] * len(chunk),
                attention=attention,
                max_output_lengths=[max_output_length] * len(chunk),
            )
            for _ in steps:
                if stop_requested():
                    break
        return results

    def translate_blocks(
        self,
        blocks: Iterable[Sequence[Sequence[int]]],
        *,
        beam_size: int | None = None,
        nbest: int = 1,
        attention: bool = False,
        batch_size: int = 64,
    ) -> Iterator[list[Translation]]:
        """Translate one block of sequences after another, when the next is asked for; otherwise as `translate_ids`."""
        for block in blocks:
            yield self.translate_ids(
                block, beam_size=beam_size, nbest=nbest, attention=attention, batch_size=batch_size
            )

    def translate_batch(
        self,
        sources: Sequence[Sequence[int]],
        found: Callable[[int, Translation], None],
        *,
        beam_size: int | None = None,
        nbest: Sequence[int] | None = None,
        attention: bool = False,
        max_output_lengths: Sequence[int | None] | None = None,
        abandoned: Callable[[], Collection[int]] | None = None,
    ) -> Iterator[None]:
        """Translate one batch, all of it searched together, for callers that make up batches themselves.

        The search takes a step whenever the next is asked for, and none before; see `beam_search`.

        Args:
            sources: source ids without BOS or EOS, none empty or longer than `max_seq_len_source`.
            found: told each source's position and translation as soon as its search ends, shorter ones mostly first.
            beam_size: as in `translate`.
            nbest: `nbest` of every source; 1 if not given.
            attention: as in `translate`.
            max_output_lengths: `max_output_length` of every source.
            abandoned: asked after every step of the search for the positions in `sources` that nobody wants any more:
                they are dropped, and `found` is not told of them.

        Raises:
            ClientError: there is not enough memory.
        """
        wanted = nbest or [1] * len(sources)
        limits = max_output_lengths or [None] * len(sources)
        batch, lengths = self._pad(sources)
        width = max(beam_size or self.trained.settings.beam_size, *wanted)
        try:
            yield from beam_search(
                self._model,
                batch,
                lengths,
                beam_size=width,
                max_lengths=self._max_lengths(lengths, limits),
                nbest=max(wanted),
                attention=attention,
                found=lambda i, best: found(i, self._assemble(best[: wanted[i]], len(sources[i]), limits[i])),
                abandoned=abandoned,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ClientError(
                f"a search of {len(sources)} sequences of up to {batch.shape[1]} tokens with {width} hypotheses each "
                "does not fit into memory: make the batch size or the beam size smaller"
            ) from error

    def _pad(self, sources: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The sources as one padded batch `[B, S]` with its lengths `[B]`, EOS where the model expects it."""
        ended = [[*source, EOS] if self.trained.source_eos else list(source) for source in sources]
        width = max(len(source) for source in ended)
        batch = torch.tensor([source + [PAD] * (width - len(source)) for source in ended])
        lengths = torch.tensor([len(source) for source in ended])
        return batch.to(self.device), lengths.to(self.device)

    def _max_lengths(self, lengths: Tensor, limits: Sequence[int | None]) -> Tensor:
        """Steps that a search may take, EOS counted, by source length `[B]`.

        The original's rule where no other limit is given: two standard deviations above the mean length ratio, of the
        source's length rounded up to its bucket.
        """
        ratio, width = self.trained.length_ratio, self.trained.settings.bucket_width
        buckets = torch.ceil(lengths / width) * width
        steps: Tensor = torch.ceil((ratio.mean + 2 * ratio.std) * buckets).long() + 1
        given = torch.tensor([0 if limit is None else limit + 1 for limit in limits], device=steps.device)
        return torch.where(given > 0, given, steps)

    def _assemble(self, hypotheses: list[Hypothesis], source_length: int, limit: int | None) -> Translation:
        """The translation with its alternatives; `limit` cuts the one token more of a search that did not end.

        Of hypotheses that differ in that token alone the best stays.
        """
        if limit is not None:
            distinct: dict[tuple[int, ...], Hypothesis] = {}
            for each in hypotheses:
                distinct.setdefault(tuple(each.ids[:limit]), each)
            hypotheses = list(distinct.values())
        found = [
            Translation(
                self.trained.target_vocabulary.words(hypothesis.ids[:limit]),
                hypothesis.ids[:limit],
                hypothesis.score,
                None if hypothesis.attention is None else hypothesis.attention[:limit, :source_length],
            )
            for hypothesis in hypotheses
        ]
        found[0].alternatives.extend(found[1:])
        return found[0]


def by_length(sources: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Positions of the sources, longest first, in batches."""
    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
