from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqwright.data.batches import Batch, Batches
from seqwright.data.corpus import ParallelCorpus
from seqwright.data.sequences import Sequences
from seqwright.data.vocabulary import BOS, EOS, PAD


def corpus_of(lengths: Sequence[tuple[int, int]]) -> ParallelCorpus:
    """Pairs of given lengths, each with ids of its own."""
    source = Sequences.of([[4 + 2 * index] * size for index, (size, _) in enumerate(lengths)])
    target = Sequences.of([[5 + 2 * index] * size for index, (_, size) in enumerate(lengths)])
    return ParallelCorpus(source, target, digest="")


def batches_of(corpus: ParallelCorpus, **options: Any) -> Batches:
    defaults = {"batch_size": 4, "max_source_length": 12, "max_target_length": 10, "bucket_width": 3, "seed": 1}
    return Batches(corpus, **{**defaults, "bucketing": True, **options})


def random_corpus(size: int = 300, seed: int = 0) -> ParallelCorpus:
    rng = np.random.default_rng(seed)
    return corpus_of(list(zip(rng.integers(1, 15, size).tolist(), rng.integers(1, 15, size).tolist(), strict=True)))


def same(left: Batch, right: Batch) -> bool:
    names = ("source", "source_lengths", "target_in", "target_out", "target_lengths")
    return np.array_equal(left.indices, right.indices) and all(
        torch.equal(getattr(left, name), getattr(right, name)) for name in names
    )


lengths = st.lists(st.tuples(st.integers(1, 15), st.integers(1, 15)), min_size=1, max_size=40)


@settings(deadline=None)
@given(
    lengths,
    st.integers(1, 7),
    st.integers(1, 20),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
    st.sampled_from(["epoch", "in_order"]),
)
def test_every_pair_is_in_one_batch_with_the_right_ids(
    sizes: list[tuple[int, int]], batch_size: int, width: int, bucketing: bool, eos: bool, seed: int, way: str
) -> None:
    corpus = corpus_of(sizes)
    batches = batches_of(
        corpus, batch_size=batch_size, bucket_width=width, bucketing=bucketing, source_eos=eos, seed=seed
    )
    made = list(batches.epoch(3) if way == "epoch" else batches.in_order())
    assert len(made) == batches.batches_per_epoch
    assert sorted(np.concatenate([batch.indices for batch in made]).tolist()) == list(range(len(sizes)))
    for batch in made:
        assert 1 <= batch.num_pairs <= batch_size
        assert batch.source.dtype == batch.source_lengths.dtype == torch.int64
        assert batch.target_in.dtype == batch.target_out.dtype == batch.target_lengths.dtype == torch.int64
        assert batch.num_tokens == int((batch.target_out != PAD).sum()) == int(batch.target_lengths.sum())
        if bucketing or way == "in_order":
            assert batch.source.shape[1] == int(batch.source_lengths.max())
            assert batch.target_in.shape[1] == int(batch.target_lengths.max())
        else:
            assert batch.source.shape[1] == 12 + eos
            assert batch.target_in.shape[1] == 11
        for row, index in enumerate(batch.indices.tolist()):
            source = corpus.source[index].tolist()[:12] + [EOS] * eos
            target = corpus.target[index].tolist()[:10]
            for tensor, expected in (
                (batch.source, source),
                (batch.target_in, [BOS, *target]),
                (batch.target_out, [*target, EOS]),
            ):
                assert tensor[row].tolist() == expected + [PAD] * (tensor.shape[1] - len(expected))
            assert int(batch.source_lengths[row]) == len(source)
            assert int(batch.target_lengths[row]) == len(target) + 1


@pytest.mark.parametrize("bucketing", [True, False])
def test_the_order_depends_only_on_seed_and_epoch(bucketing: bool) -> None:
    corpus = random_corpus()
    first = list(batches_of(corpus, bucketing=bucketing).epoch(2))
    other = batches_of(corpus, bucketing=bucketing)
    list(other.epoch(0))
    again = list(other.epoch(2))
    assert all(same(left, right) for left, right in zip(first, again, strict=True))

    def order(made: list[Batch]) -> list[int]:
        return [index for batch in made for index in batch.indices.tolist()]

    assert order(first) != order(list(other.epoch(3)))
    assert order(first) != order(list(batches_of(corpus, bucketing=bucketing, seed=2).epoch(2)))


@pytest.mark.parametrize("start", [0, 1, 30, 10_000])
def test_an_epoch_started_at_a_later_batch_gives_the_rest(start: int) -> None:
    batches = batches_of(random_corpus())
    rest = list(batches.epoch(1, start))
    expected = list(batches.epoch(1))[start:]
    assert all(same(left, right) for left, right in zip(rest, expected, strict=True))


def test_batches_of_equal_lengths_are_mixed_anew_in_every_epoch() -> None:
    corpus = corpus_of([(5, 5)] * 40)
    batches = batches_of(corpus)
    first, second = ({frozenset(batch.indices.tolist()) for batch in batches.epoch(number)} for number in (0, 1))
    assert first != second


def test_buckets_leave_less_than_a_tenth_of_padding() -> None:
    corpus = random_corpus(5000)
    batches = batches_of(corpus, batch_size=16)
    slots = sum(batch.source.numel() + batch.target_out.numel() for batch in batches.epoch(0))
    filled = sum(int(batch.source_lengths.sum()) + batch.num_tokens for batch in batches.epoch(0))
    assert filled / slots > 0.9


def test_buckets_follow_the_ratio_of_lengths() -> None:
    """Targets are twice as long: steps of 10 on their side, of 5 on the other."""
    corpus = corpus_of([(5, 10)] * 3 + [(6, 10)] * 3 + [(4, 11)] * 3 + [(10, 20)] * 3 + [(1, 1)] * 3 + [(12, 24)])
    assert corpus.target.lengths.sum() / corpus.source.lengths.sum() == 2
    batches = batches_of(corpus, batch_size=100, bucket_width=10, max_source_length=50, max_target_length=50)
    members = sorted(sorted(batch.indices.tolist()) for batch in batches.epoch(0))
    assert members == [[0, 1, 2, 12, 13, 14], [3, 4, 5, 6, 7, 8, 9, 10, 11], [15]]


def test_in_order_is_by_length_and_ties_by_position() -> None:
    corpus = random_corpus()
    batches = batches_of(corpus, bucket_width=100)
    made = list(batches.in_order())
    keys = [
        (min(len(corpus.target[index]), 10), min(len(corpus.source[index]), 12), index)
        for batch in made
        for index in batch.indices.tolist()
    ]
    assert all(left < right for left, right in pairwise(keys))
    assert all(same(left, right) for left, right in zip(made, batches.in_order(), strict=True))


def test_without_buckets_only_the_last_batch_is_small() -> None:
    batches = batches_of(random_corpus(30), bucketing=False)
    assert sorted(batch.num_pairs for batch in batches.epoch(0)) == [2, *[4] * 7]


def test_very_different_lengths_need_little_memory() -> None:
    rng = np.random.default_rng(0)
    sizes = [(1, 1)] * 50 + [(40_000, 3), (2, 50_000), *((int(size), 1) for size in rng.integers(1, 9, 50))]
    batches = batches_of(corpus_of(sizes), max_source_length=100_000, max_target_length=100_000)
    assert sum(batch.num_pairs for batch in batches.epoch(0)) == len(sizes)


def test_to_moves_tensors_and_keeps_indices_and_counts() -> None:
    batch = next(batches_of(random_corpus()).epoch(0))
    moved = batch.to("meta")
    assert moved.source.device.type == moved.target_lengths.device.type == "meta"
    assert moved.num_tokens == batch.num_tokens
    assert np.array_equal(moved.indices, batch.indices)


@settings(deadline=None)
@given(lengths, st.integers(1, 5))
def test_shares_hold_every_pair_once_and_have_about_equal_work(sizes: list[tuple[int, int]], size: int) -> None:
    batch = next(batches_of(corpus_of(sizes), batch_size=100, bucket_width=100).epoch(0))
    shares = [batch.share(rank, size) for rank in range(size)]
    assert sorted(np.concatenate([share.indices for share in shares])) == sorted(batch.indices)
    pairs, tokens = ([getattr(share, name) for share in shares] for name in ("num_pairs", "num_tokens"))
    assert max(pairs) - min(pairs) <= 1
    if batch.num_pairs % size == 0:
        assert max(tokens) - min(tokens) <= int(batch.target_lengths.max())
    for share in shares:
        assert share.source.shape[1] == batch.source.shape[1]
        assert share.num_tokens == int((share.target_out != PAD).sum())


def test_limits_larger_than_any_corpus_do_not_bound() -> None:
    corpus = random_corpus(50)
    vast = {"batch_size": 1 << 70, "max_source_length": 1 << 70, "max_target_length": 1 << 70}
    batches = list(batches_of(corpus, **vast).epoch(0))
    assert sum(batch.num_pairs for batch in batches) == 50
    assert max(batch.source.shape[1] for batch in batches) == int(corpus.source.lengths.max()) + 1


def test_padding_ids_within_a_target_are_not_counted() -> None:
    corpus = ParallelCorpus(Sequences.of([[4, 5]]), Sequences.of([[4, PAD, 5, PAD]]), digest="")
    (batch,) = batches_of(corpus).epoch(0)
    assert batch.num_tokens == 3
    assert batch.split(1)[0].num_tokens == 3
