"""Beam search against exhaustive enumeration, and its own invariants."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqwright.artifacts import TrainedModel
from seqwright.data.vocabulary import BOS, EOS, PAD, UNK
from seqwright.inference.beam_search import Hypothesis, _largest
from seqwright.inference.beam_search import beam_search as search_by_steps
from seqwright.inference.options import SearchOptions
from seqwright.models.seq2seq import Seq2Seq

Maker = Callable[..., TrainedModel]


def beam_search(
    model: Seq2Seq,
    source: torch.Tensor,
    lengths: torch.Tensor,
    *,
    max_lengths: torch.Tensor,
    cancelled: Callable[[], set[int]] | None = None,
    **options: Any,
) -> dict[int, list[Hypothesis]]:
    """The hypotheses of every sentence by its number."""
    found: dict[int, list[Hypothesis]] = {}
    every = [SearchOptions(**options)] * len(source)
    steps = search_by_steps(model, source, lengths, max_lengths, every, on_found=found.__setitem__, cancelled=cancelled)
    for _ in steps:
        pass
    return found


def score(trained: TrainedModel, source: torch.Tensor, ids: list[int]) -> float:
    """The normalised score of a whole hypothesis under teacher forcing."""
    length = torch.tensor([source.shape[1]])
    with torch.inference_mode():
        hidden = trained.model(source, length, torch.tensor([[BOS, *ids]]))
        log_probabilities = trained.model.log_probabilities(hidden)[0]
    return -float(log_probabilities[range(len(ids) + 1), [*ids, EOS]].sum()) / max(len(ids), 1)


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best_of_all_sequences(seed: int, small_model: Maker) -> None:
    trained = small_model(seed=seed, target_words=2)
    source = torch.tensor([[5, 9, 11, 3]])
    found = beam_search(
        trained.model, source, torch.tensor([4]), beam_size=60, max_lengths=torch.tensor([3]), nbest=60
    )[0]
    words = [UNK, 4, 5]
    every = [list(ids) for n in range(3) for ids in itertools.product(words, repeat=n)]
    expected = sorted((score(trained, source, ids), ids) for ids in every)
    assert [hypothesis.ids for hypothesis in found[: len(every)]] == [ids for _, ids in expected]
    assert [h.score for h in found[: len(every)]] == pytest.approx([value for value, _ in expected], abs=1e-5)


@given(st.lists(st.lists(st.integers(4, 23), min_size=1, max_size=7), min_size=1, max_size=5), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_a_batch_gives_what_its_sentences_give_alone(sources: list[list[int]], beam_size: int) -> None:
    trained = _MODEL
    width = max(map(len, sources))
    padded = torch.tensor([source + [PAD] * (width - len(source)) for source in sources])
    lengths = torch.tensor([len(source) for source in sources])
    limits = lengths * 2 + 3
    together = beam_search(trained.model, padded, lengths, beam_size=beam_size, max_lengths=limits, nbest=beam_size)
    for i, source in enumerate(sources):
        alone = beam_search(
            trained.model,
            torch.tensor([source]),
            lengths[i : i + 1],
            beam_size=beam_size,
            max_lengths=limits[i : i + 1],
            nbest=beam_size,
        )[0]
        assert [h.ids for h in together[i]] == [h.ids for h in alone]
        assert [h.score for h in together[i]] == pytest.approx([h.score for h in alone], abs=1e-4)


@given(st.lists(st.integers(4, 23), min_size=1, max_size=7), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_wanting_fewer_hypotheses_ends_earlier_and_gives_the_first_of_all(source: list[int], beam_size: int) -> None:
    arguments = torch.tensor([source]), torch.tensor([len(source)])
    options: dict[str, Any] = {"beam_size": beam_size, "max_lengths": torch.tensor([12])}
    every = beam_search(_MODEL.model, *arguments, nbest=beam_size, **options)[0]
    for nbest in range(1, beam_size):
        some = beam_search(_MODEL.model, *arguments, nbest=nbest, **options)[0]
        assert [(h.ids, h.score) for h in some] == [(h.ids, h.score) for h in every[:nbest]]


def test_hypotheses_are_distinct_and_hold_no_special_tokens(small_model: Maker) -> None:
    trained = small_model(seed=3)
    found = beam_search(
        trained.model,
        torch.tensor([[5, 9, 11, 3], [6, 3, 0, 0]]),
        torch.tensor([4, 2]),
        beam_size=5,
        max_lengths=torch.tensor([9, 9]),
        nbest=5,
    )
    for hypotheses in found.values():
        ids = [tuple(h.ids) for h in hypotheses]
        assert len(set(ids)) == len(ids) == 5
        assert not {PAD, BOS, EOS} & set(itertools.chain(*ids))


def test_scores_are_those_of_teacher_forcing_and_attention_matches_the_steps(small_model: Maker) -> None:
    trained = small_model(seed=8, weight_init_scale=12.0)
    source = torch.tensor([[5, 9, 11, 3]])
    found = beam_search(
        trained.model, source, torch.tensor([4]), beam_size=4, max_lengths=torch.tensor([30]), nbest=4, attention=True
    )[0]
    ended = [h for h in found if len(h.ids) < 29]
    assert ended
    for hypothesis in ended:
        assert hypothesis.score == pytest.approx(score(trained, source, hypothesis.ids), abs=1e-4)
        state = trained.model.decoder.start(trained.model.encode(source, torch.tensor([4])))
        assert hypothesis.attention is not None
        for token, row in zip([BOS, *hypothesis.ids], hypothesis.attention, strict=False):
            _, weights, state = trained.model.decoder.step(torch.tensor([token]), state)
            torch.testing.assert_close(torch.from_numpy(row), weights[0], atol=1e-5, rtol=0)
        assert hypothesis.attention.shape == (len(hypothesis.ids), 4)


def test_search_ends_at_the_length_limit(small_model: Maker) -> None:
    trained = small_model(seed=2)
    with torch.no_grad():
        trained.model.output_layer.bias[EOS] = -100
    found = beam_search(
        trained.model,
        torch.tensor([[5, 3], [6, 3]]),
        torch.tensor([2, 2]),
        beam_size=3,
        max_lengths=torch.tensor([2, 5]),
    )
    assert [len(hypotheses[0].ids) for hypotheses in found.values()] == [2, 5]


def test_a_hypothesis_that_is_cut_off_keeps_its_whole_score(small_model: Maker) -> None:
    trained = small_model(seed=2)
    with torch.no_grad():
        trained.model.output_layer.bias[EOS] = -100
    source = torch.tensor([[5, 3]])
    found = beam_search(trained.model, source, torch.tensor([2]), beam_size=1, max_lengths=torch.tensor([4]))[0][0]
    with torch.inference_mode():
        hidden = trained.model(source, torch.tensor([2]), torch.tensor([[BOS, *found.ids[:-1]]]))
        log_probabilities = trained.model.log_probabilities(hidden)[0]
    assert len(found.ids) == 4
    assert found.score == pytest.approx(-float(log_probabilities[range(4), found.ids].sum()), abs=1e-4)


def test_a_beam_wider_than_the_vocabulary_gives_what_there_is(small_model: Maker) -> None:
    trained = small_model(target_words=1)
    found = beam_search(
        trained.model, torch.tensor([[5, 3]]), torch.tensor([2]), beam_size=10, max_lengths=torch.tensor([1]), nbest=10
    )[0]
    assert sorted(h.ids for h in found) == [[], [UNK], [4]]


@pytest.mark.parametrize("gone", [{0}, {1, 3}, {0, 1, 2, 3}])
@pytest.mark.parametrize("after", [1, 3])
def test_cancelled_sentences_leave_between_steps_and_change_nothing_for_the_rest(gone: set[int], after: int) -> None:
    sources = torch.tensor([[5, 9, 11, 3], [6, 7, 3, 0], [12, 3, 0, 0], [8, 9, 10, 3]])
    lengths = torch.tensor([4, 3, 2, 4])
    steps = itertools.count(1)
    taken = 0

    def cancelled() -> set[int]:
        nonlocal taken
        taken = next(steps)
        return gone if taken >= after else set()

    options: dict[str, Any] = {"beam_size": 3, "max_lengths": torch.tensor([9, 8, 7, 6]), "nbest": 3}
    expected = beam_search(_MODEL.model, sources, lengths, **options)
    found = beam_search(_MODEL.model, sources, lengths, cancelled=cancelled, **options)
    assert set(found) == {0, 1, 2, 3} - gone
    for i in found:
        assert [h.ids for h in found[i]] == [h.ids for h in expected[i]]
        assert [h.score for h in found[i]] == pytest.approx([h.score for h in expected[i]], abs=1e-4)
    assert taken == (after if len(gone) == 4 else max((9, 8, 7, 6)[i] for i in found))


def _model() -> TrainedModel:
    from seqwright.artifacts import LengthRatio
    from seqwright.hyperparameters import Hyperparameters
    from seqwright.models.seq2seq import build_model, initialize_model
    from tests.conftest import SMALL, vocabulary

    chosen = Hyperparameters.parse(SMALL)
    model = build_model(chosen, 24, 19)
    initialize_model(model, chosen, 4)
    return TrainedModel(model.eval(), chosen, vocabulary(20), vocabulary(15), LengthRatio(mean=1, std=0))


_MODEL = _model()


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**31))
@settings(deadline=None)
def test_the_largest_of_long_rows_are_found_by_groups(rows: int, columns: int, count: int, seed: int) -> None:
    values = torch.randint(-5, 5, (rows, columns), generator=torch.Generator().manual_seed(seed)).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqwright.inference.beam_search._GROUP", 3)
        best, places = _largest(values, count)
    assert torch.equal(best, values.topk(min(count, columns), dim=1).values)
    assert torch.equal(values.gather(1, places), best)
    assert all(len(set(row)) == len(row) for row in places.tolist())
