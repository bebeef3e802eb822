"""How requests are batched, refused, cancelled and finished."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqwright.serving.errors import RequestError
from seqwright.serving.limits import Limits
from tests.serving.bench import PATIENCE, Bench, instance, result
from tests.serving.conftest import ENDLESS

Make = Callable[..., Bench]


@pytest.fixture
def bench() -> Iterator[Make]:
    made: list[Bench] = []

    def make(searchers: int = 1, **limits: float) -> Bench:
        made.append(Bench(Limits(**limits), searchers))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.release()
        each.close()


wanted = st.fixed_dictionaries(
    {},
    optional={
        "beam_size": st.integers(1, 4),
        "nbest": st.integers(1, 6),
        "max_output_length": st.integers(1, 9),
        "attention_matrix": st.booleans(),
    },
)
requests = st.lists(st.tuples(st.lists(st.integers(4, 23), min_size=1, max_size=12), wanted), min_size=1, max_size=9)


@given(st.lists(requests, min_size=1, max_size=6))
@example([[([4], {"beam_size": 1, "nbest": 3}), ([4], {"beam_size": 3, "nbest": 2, "max_output_length": 1})]])
@settings(max_examples=12, deadline=None)
def test_answers_under_batching_are_those_without(
    shared_bench: Bench, asked: list[list[tuple[list[int], dict[str, int]]]]
) -> None:
    first = shared_bench.hold()
    requests_made = [shared_bench.submit([instance(ids, **more) for ids, more in each]) for each in asked]
    shared_bench.release()
    result(first)
    for each, submitted in zip(asked, requests_made, strict=True):
        for (ids, more), found in zip(each, result(submitted), strict=True):
            attention = bool(more.get("attention_matrix"))
            nbest = more.get("nbest", 1)
            alone = shared_bench.translator.translate_ids(
                [ids],
                beam_size=max(more.get("beam_size") or 5, nbest),
                nbest=nbest,
                max_output_length=more.get("max_output_length"),
                attention=attention,
            )[0]
            assert [found.ids, *(other.ids for other in found.alternatives)] == [
                alone.ids,
                *(other.ids for other in alone.alternatives),
            ]
            assert found.score == pytest.approx(alone.score, abs=1e-4)
            assert (found.attention is not None) == attention


@pytest.fixture(scope="module")
def shared_bench() -> Iterator[Bench]:
    made = Bench(Limits(max_batch=8, backlog=100))
    yield made
    made.close()


def test_requests_that_arrive_together_are_searched_together_longest_first(bench: Make) -> None:
    made = bench()
    made.hold()
    requests_made = [made.submit([instance([5] * length)]) for length in (2, 7, 1, 4)]
    made.release()
    for each in requests_made:
        result(each)
    assert [list(map(len, sources)) for sources in made.batches()] == [[7, 4, 2, 1]]


def test_a_searcher_leaves_the_others_their_share_of_what_waits(bench: Make) -> None:
    made = bench(searchers=2)
    for translator in made.translators:
        translator.go.clear()
    held = [made.submit([instance([5])]) for _ in made.translators]
    for translator in made.translators:
        assert translator.started.acquire(timeout=PATIENCE)
    waiting = [made.submit([instance([6])]) for _ in range(31)]
    first, second = made.translators
    first.go.set()
    for _ in range(2):
        assert first.started.acquire(timeout=PATIENCE)
    assert [len(sources) for sources, _, _ in first.batches[:3]] == [1, 16, 8]
    assert len(second.batches) == 1
    made.release()
    for each in (*held, *waiting):
        result(each)


def test_batches_are_bounded_in_instances_tokens_and_hypotheses(bench: Make) -> None:
    made = bench(max_batch=8, max_batch_tokens=40)
    result(made.submit([instance([5] * (1 + i % 12)) for i in range(50)]))
    result(made.submit([instance([5], beam_size=20) for _ in range(10)]))
    result(made.submit([instance([5], beam_size=64)]))
    for sources, beam_size, _ in made.translator.batches:
        assert len(sources) <= max(1, 8 * 5 // max(5, beam_size or 5))
        assert len(sources) * max(map(len, sources)) <= 40
    assert sum(len(sources) for sources, _, _ in made.translator.batches) == 61


def test_instances_with_other_options_are_searched_apart(bench: Make) -> None:
    made = bench()
    settings: list[dict[str, object]] = [
        {},
        {"beam_size": 2},
        {"attention_matrix": "true"},
        {"tokens": True},
        {"nbest": 9},
        {"nbest": 3},
    ]
    found = result(made.submit([instance([5, 6], **each) for each in settings]))
    seen = sorted((beam_size, attention, len(sources)) for sources, beam_size, attention in made.translator.batches)
    assert seen == [(2, False, 1), (5, False, 2), (5, True, 2), (9, False, 1)]
    assert [each.attention is not None for each in found] == [False, False, True, True, False, False]
    assert [len(each.alternatives) for each in found] == [0, 0, 0, 0, 8, 2]


def test_a_huge_request_does_not_hold_up_the_others(bench: Make) -> None:
    made = bench(max_batch=16, max_batch_tokens=10_000, backlog=1)
    made.hold()
    huge = made.submit([instance([5] * 3) for _ in range(200)])
    small = [made.submit([instance([6] * 2)]) for _ in range(3)]
    wide = made.submit([instance([7] * 4, beam_size=2)])
    made.release()
    for submitted in (*small, wide, huge):
        result(submitted)
    first = [sorted({source[0] for source in sources}) for sources in made.batches()[:2]]
    assert first == [[5, 6], [7]]
    assert sum(source[0] == 6 for source in made.batches()[0]) == 3
    assert len(made.batches()[0]) == 16


def test_searches_of_long_outputs_share_their_searcher_with_the_others(bench: Make) -> None:
    made = bench(backlog=10)
    long = [made.submit([instance([5], **ENDLESS) for _ in range(20)]) for _ in range(3)]
    assert made.translator.started.acquire(timeout=PATIENCE)
    for _ in range(3):
        assert len(result(made.submit([instance([6, 7]) for _ in range(70)]))) == 70
    assert not any(each.translations.done() for each in long)
    for each in long:
        made.cancel(each)


def test_long_and_usual_outputs_of_one_request_are_answered_together(bench: Make) -> None:
    made = bench()
    found = result(made.submit([instance([5, 6], max_output_length=limit) for limit in (2, 300, None)]))
    assert [len(each.ids) for each in found[:2]] == [2, 300]
    assert [len(sources) for sources, _, _ in made.translator.batches] == [2, 1]


def test_a_lone_client_never_waits_for_others(bench: Make) -> None:
    made = bench(max_wait=10 * PATIENCE)
    for _ in range(5):
        result(made.submit([instance([5])]))
    result(made.submit([instance([5]) for _ in range(200)]))


def test_requests_that_came_together_are_waited_for_and_no_longer(bench: Make) -> None:
    made = bench(max_wait=10 * PATIENCE)
    made.hold()
    requests_made = [made.submit([instance([5])]) for _ in range(3)]
    made.release()
    for _ in range(4):
        for each in requests_made:
            result(each)
        requests_made = [made.submit([instance([5])]) for _ in range(3)]
    for each in requests_made:
        result(each)
    assert [len(sources) for sources in made.batches()[1:]] == [3] * 4


def test_requests_that_do_not_come_are_waited_for_until_max_wait(bench: Make) -> None:
    made = bench(max_wait=0.5)
    made.hold()
    requests_made = [made.submit([instance([5])]) for _ in range(3)]
    made.release()
    for request in requests_made:
        result(request)
    assert len(result(made.submit([instance([5])]))) == 1
    assert [len(sources) for sources in made.batches()] == [3, 1]


def test_instances_without_tokens_are_answered_without_a_search(bench: Make) -> None:
    made = bench()
    made.hold()
    assert [each.ids for each in result(made.submit([instance([]), instance([], attention_matrix=True)]))] == [[], []]
    mixed = made.submit([instance([]), instance([5]), instance([])])
    made.release()
    assert [bool(each.ids) for each in result(mixed)] == [False, True, False]
    assert [len(sources) for sources in made.batches()] == [1]


def test_by_default_128_single_requests_are_accepted_and_searched_in_full_batches(bench: Make) -> None:
    made = bench()
    made.hold()
    requests_made = [made.submit([instance([5, 6])]) for _ in range(128)]
    made.release()
    for request in requests_made:
        result(request)
    assert [len(sources) for sources in made.batches()] == [64, 64]


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room(bench: Make) -> None:
    made = bench(max_batch=8, backlog=1)
    made.hold()
    accepted = [made.submit([instance([5])]) for _ in range(8)]
    with pytest.raises(RequestError) as caught:
        made.submit([instance([5])])
    assert (caught.value.status, caught.value.code) == (503, "queue_full")
    assert caught.value.headers["Retry-After"] == "1"
    assert made.waiting() == 8
    made.cancel(accepted[0])
    accepted.append(made.submit([instance([5])]))
    made.release()
    for submitted in accepted[1:]:
        result(submitted)
    result(made.submit([instance([5])]))


def test_the_queue_counts_a_huge_request_by_its_turn_for_small_ones_and_in_full_for_its_like(bench: Make) -> None:
    made = bench(max_batch=8, backlog=1)
    made.hold()
    for _ in range(2):
        made.submit([instance([5]) for _ in range(100)])
    with pytest.raises(RequestError, match="limit"):
        made.submit([instance([5]) for _ in range(100)])
    made.submit([instance([5])])


def test_a_request_given_up_is_not_computed_for(bench: Make) -> None:
    made = bench(max_batch=8)
    made.hold()
    first, second = (made.submit([instance([5 + i]) for _ in range(20)]) for i in (1, 2))
    made.cancel(first)
    assert made.waiting() == 20
    made.release()
    result(second)
    assert {source[0] for sources in made.batches() for source in sources} == {7}


def test_a_running_search_drops_what_is_given_up_and_goes_on_with_the_rest(bench: Make) -> None:
    made = bench()
    alone = made.translator.translate_ids([[8, 9]], beam_size=64, max_output_length=150)[0]
    held = made.hold()
    endless = made.submit([instance([6], **ENDLESS) for _ in range(2)])
    other = made.submit([instance([8, 9], beam_size=64, max_output_length=150)])
    made.release()
    result(held)
    assert made.translator.started.acquire(timeout=PATIENCE)
    made.cancel(endless)
    assert result(other)[0].ids == alone.ids
    result(made.submit([instance([5])]))
    assert made.translator.steps < 900
    assert not endless.translations.done()


def test_a_search_that_breaks_fails_its_requests_and_no_others(bench: Make) -> None:
    made = bench()
    made.hold()
    broken = made.submit([instance([5]), instance([10_000])])
    made.release()
    with pytest.raises(IndexError):
        result(broken)
    assert len(result(made.submit([instance([5])]))) == 1
    assert made.batcher.healthy


def test_closing_finishes_what_was_accepted_and_refuses_the_rest(bench: Make) -> None:
    made = bench(max_batch=4, backlog=2)
    requests_made = [made.hold(), *(made.submit([instance([5])]) for _ in range(5))]
    closing = made.begin_to_close()
    while not made.batcher.closing:
        pass
    with pytest.raises(RequestError) as caught:
        made.submit([instance([5])])
    assert (caught.value.status, caught.value.code) == (503, "shutting_down")
    assert not closing.done()
    made.release()
    closing.result(PATIENCE)
    assert [len(result(each)) for each in requests_made] == [1] * 6
