"""Sort a corpus into length buckets and padded batches, in a seeded order.

A `Plan` says which pairs make which batch of an epoch. It depends on the corpus, the seed and the number of the epoch
alone, and takes a few arrays over the corpus. Tensors are made when their batch is needed.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqwright.data.corpus import ParallelCorpus
from seqwright.data.sequences import Sequences
from seqwright.data.vocabulary import BOS, EOS, PAD

Ints = NDArray[np.int64]

_MAX_LENGTH = (1 << 31) - 1
"""Ids of the longest sequence that a corpus can hold."""


@dataclass(frozen=True)
class Batch:
    """B pairs as int64 tensors, padded with `PAD` to the lengths S and T.

    Attributes:
        source: `[B, S]`.
        source_lengths: ids of every source without padding, EOS counted if there is one, `[B]`.
        target_in: BOS and the ids, the input of the decoder, `[B, T]`.
        target_out: the ids and EOS, what the decoder should predict, `[B, T]`.
        target_lengths: ids of every target without padding, `[B]`.
        indices: which pairs of the corpus these are, `[B]`; always on the CPU.
        num_tokens: target tokens to predict, EOS counted; `PAD` is not counted, not even inside a sequence.
    """

    source: Tensor
    source_lengths: Tensor
    target_in: Tensor
    target_out: Tensor
    target_lengths: Tensor
    indices: Ints
    num_tokens: int

    @property
    def num_pairs(self) -> int:
        """B."""
        return len(self.indices)

    def split(self, parts: int) -> list["Batch"]:
        """Split into at most `parts` batches of nearly equal numbers of pairs, in order."""
        bounds = np.linspace(0, self.num_pairs, min(parts, self.num_pairs) + 1).astype(int)
        return [self._rows(torch.arange(start, end)) for start, end in itertools.pairwise(bounds)]

    def share(self, rank: int, size: int) -> "Batch":
        """One of `size` parts that take about equal work; a part may have no pairs.

        Tensors keep their width, so that all parts are padded alike. Pairs are dealt out by falling target length,
        first to the ranks 0 to `size - 1` and then back, so that all parts have about as many target tokens, each of
        which costs a row of the output layer.
        """
        longest_first = self.target_lengths.argsort(descending=True, stable=True)
        turn = torch.arange(self.num_pairs) % (2 * size)  # size = 3: 0 1 2 3 4 5 stand for the ranks 0 1 2 2 1 0
        return self._rows(longest_first[(turn == rank) | (turn == 2 * size - 1 - rank)].sort().values)

    def _rows(self, rows: Tensor) -> "Batch":
        target_out = self.target_out[rows]
        return Batch(
            self.source[rows],
            self.source_lengths[rows],
            self.target_in[rows],
            target_out,
            self.target_lengths[rows],
            self.indices[rows.numpy()],
            int((target_out != PAD).sum()),
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            source=self.source.to(device, non_blocking=True),
            source_lengths=self.source_lengths.to(device, non_blocking=True),
            target_in=self.target_in.to(device, non_blocking=True),
            target_out=self.target_out.to(device, non_blocking=True),
            target_lengths=self.target_lengths.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Plan:
    """Which pairs make which batch of an epoch.

    Attributes:
        order: the indices of all N pairs, those of a batch next to each other, int32 `[N]`.
        starts: where every batch starts in `order`, `[batches]`.
        ends: where every batch ends in `order`, `[batches]`.
    """

    order: NDArray[np.int32]
    starts: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Ints:
        """The indices of the pairs of batch `index`, `[B]`."""
        return self.order[self.starts[index] : self.ends[index]].astype(np.int64)


class Batches:
    """A corpus in batches, every pair once an epoch.

    With `bucketing`, a batch holds pairs of nearly the same lengths and is padded to the longest of them. Bucket `k`
    has the pairs that fit into `k + 1` steps on both sides and into no smaller bucket. A step is `bucket_width` on the
    side that is longer on average, and less on the other in proportion. Within a bucket, pairs are sorted by target
    length, then source length, then at random, and cut into batches; the last batch of a bucket may be small. The
    order of the batches is random.

    Without `bucketing`, pairs come in random order and every batch has the same shape, that of the longest sequences
    allowed.

    Args:
        corpus: the pairs.
        batch_size: pairs in a batch.
        max_source_length: source ids kept of a pair, EOS not counted; longer sequences are cut.
        max_target_length: target ids kept of a pair, EOS not counted.
        bucket_width: the step from one bucket to the next, in ids.
        bucketing: whether to sort pairs by length.
        seed: of the random order, together with the number of the epoch; 0 or more.
        source_eos: whether EOS ends the source.

    Attributes:
        batches_per_epoch: the same in every epoch.
    """

    def __init__(
        self,
        corpus: ParallelCorpus,
        *,
        batch_size: int,
        max_source_length: int,
        max_target_length: int,
        bucket_width: int,
        bucketing: bool,
        seed: int,
        source_eos: bool = True,
    ) -> None:
        self._corpus = corpus
        self._max_source_length = min(max_source_length, _MAX_LENGTH)
        self._max_target_length = min(max_target_length, _MAX_LENGTH)
        self._bucketing = bucketing
        self._seed = seed
        self._source_eos = source_eos
        source = _lengths(corpus.source, self._max_source_length)
        target = _lengths(corpus.target, self._max_target_length)
        self._ranks, sizes = _rank_pairs(source, target, bucket_width if bucketing else math.inf)
        self._starts, self._ends = _batch_bounds(sizes, min(batch_size, len(self._ranks)))
        self.batches_per_epoch = len(self._starts)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Make the batches of an epoch.

        Args:
            number: the epoch, counted from 0; all runs with the same seed have the same order.
            start: batches to skip at the beginning; skipping makes no tensors.
        """
        plan = self.plan(number)
        width = None if self._bucketing else (self._max_source_length, self._max_target_length)
        for index in range(start, len(plan)):
            yield self._assemble(plan[index], width)

    def in_order(self) -> Iterator[Batch]:
        """Make batches of all pairs in a fixed order, by length, each padded to its longest sequences."""
        order = np.argsort(self._ranks, kind="stable").astype(np.int32)
        plan = Plan(order, self._starts, self._ends)
        for index in range(len(plan)):
            yield self._assemble(plan[index], None)

    def plan(self, number: int) -> Plan:
        """The batches of epoch `number`, counted from 0."""
        random = np.random.default_rng((self._seed, number))
        order = random.permutation(np.arange(len(self._ranks), dtype=np.int32))
        if self._bucketing:
            order = order[np.argsort(self._ranks[order], kind="stable")]
        shuffled = random.permutation(len(self._starts))
        return Plan(order, self._starts[shuffled], self._ends[shuffled])

    def _assemble(self, indices: Ints, width: tuple[int, int] | None) -> Batch:
        """Make the tensors of a batch.

        Args:
            indices: its pairs, `[B]`.
            width: ids of every source and every target, EOS not counted; None for those of the longest sequences.
        """
        source, source_lengths = _gather(self._corpus.source, indices, self._max_source_length, width and width[0])
        target, target_lengths = _gather(self._corpus.target, indices, self._max_target_length, width and width[1])
        rows = np.arange(len(indices))
        target_in = np.full(target.shape, PAD, dtype=np.int64)  # [B, T], as `target` with its room for EOS
        target_in[:, 0] = BOS
        target_in[:, 1:] = target[:, :-1]
        target[rows, target_lengths] = EOS
        if self._source_eos:
            source[rows, source_lengths] = EOS
            source_lengths += 1
        else:
            source = source[:, :-1]
        return Batch(
            source=torch.from_numpy(source).contiguous(),
            source_lengths=torch.from_numpy(source_lengths),
            target_in=torch.from_numpy(target_in),
            target_out=torch.from_numpy(target),
            target_lengths=torch.from_numpy(target_lengths + 1),
            indices=indices,
            num_tokens=int((target != PAD).sum()),
        )


def _lengths(sequences: Sequences, limit: int) -> NDArray[np.int32]:
    """The lengths of all sequences after they are cut to `limit`, `[N]`."""
    lengths = np.empty(len(sequences), dtype=np.int32)
    np.subtract(sequences.offsets[1:], sequences.offsets[:-1], out=lengths, casting="unsafe")
    return np.minimum(lengths, limit, out=lengths)


def _rank_pairs(
    source: NDArray[np.int32], target: NDArray[np.int32], width: float
) -> tuple[NDArray[np.unsignedinteger], Ints]:
    """Rank pairs by bucket, target length and source length.

    Args:
        source: source lengths, `[N]`.
        target: target lengths, `[N]`.
        width: the step from one bucket to the next on the longer side.

    Returns:
        The rank of every pair, `[N]`, where pairs of the same lengths have the same rank; and the number of pairs in
        every bucket that is not empty, by rising bucket.
    """
    ratio = float(np.divide(target, source, dtype=np.float32).mean(dtype=np.float64))
    source_step, target_step = width / max(ratio, 1.0), width * min(ratio, 1.0)
    # One number for each combination of a source length and a target length that occurs.
    source_lengths, source_kinds = _distinct(source)
    target_lengths, target_kinds = _distinct(target)
    combination = target_kinds.astype(np.int64)
    combination *= len(source_lengths)
    combination += source_kinds
    counts = np.bincount(combination)
    present = np.flatnonzero(counts)
    sources, targets = source_lengths[present % len(source_lengths)], target_lengths[present // len(source_lengths)]
    buckets = np.maximum(np.ceil(sources / source_step), np.ceil(targets / target_step))
    by_rank = np.lexsort((sources, targets, buckets))
    ranks = np.zeros(len(counts), dtype=np.min_scalar_type(len(present)))
    ranks[present[by_rank]] = np.arange(len(present))
    _, bucket_of = np.unique(buckets, return_inverse=True)
    sizes = np.bincount(bucket_of, weights=counts[present]).astype(np.int64)
    return ranks[combination], sizes


def _distinct(lengths: NDArray[np.int32]) -> tuple[Ints, NDArray[np.int32]]:
    """The distinct lengths, rising, and for every sequence the index of its length among them, `[N]`."""
    is_present = np.bincount(lengths) > 0
    return np.flatnonzero(is_present), (np.cumsum(is_present, dtype=np.int32) - 1)[lengths]


def _batch_bounds(sizes: Ints, batch_size: int) -> tuple[Ints, Ints]:
    """Cut consecutive buckets of `sizes` pairs into batches of `batch_size`; the last of a bucket may be smaller.

    Returns:
        Where every batch starts, and where it ends, `[batches]` each.
    """
    bucket_ends = np.cumsum(sizes)
    batches = -(-sizes // batch_size)
    first = np.cumsum(batches) - batches
    inside = np.arange(batches.sum()) - np.repeat(first, batches)
    starts = np.repeat(bucket_ends - sizes, batches) + inside * batch_size
    return starts, np.minimum(starts + batch_size, np.repeat(bucket_ends, batches))


def _gather(sequences: Sequences, indices: Ints, limit: int, width: int | None) -> tuple[Ints, Ints]:
    """Collect the first `limit` ids of the sequences `indices` `[B]` as rows.

    Returns:
        The rows padded with `PAD`, `[B, width + 1]`, where the width is that of the longest row if it is None; and
        their lengths, `[B]`.
    """
    starts = sequences.offsets[indices]
    lengths = np.minimum(sequences.offsets[indices + 1] - starts, limit)
    columns = np.arange((int(lengths.max()) if width is None else width) + 1)
    filled = columns < lengths[:, None]
    rows = np.full(filled.shape, PAD, dtype=np.int64)
    rows[filled] = sequences.values[(starts[:, None] + columns)[filled]]
    return rows, lengths
