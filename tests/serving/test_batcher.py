"""The batcher with a translator that can be held and that writes down its batches; what it searches is real."""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import Translation, Translator
from seqwright.serving.batcher import Batcher
from seqwright.serving.codecs import Instance
from seqwright.serving.errors import RequestError
from seqwright.serving.limits import Limits
from seqwright.serving.metrics import Metrics
from seqwright.serving.schemas import Configuration
from seqwright.serving.searcher import ThreadSearcher
from seqwright.serving.ticket import Ticket
from tests.serving.conftest import ENDLESS, random_model

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds that a test waits for what must happen, before it fails."""


class Watched(Translator):
    """Notes the sources and beam of every batch, and waits before it searches one while it is held."""

    def __init__(self) -> None:
        super().__init__(random_model(), torch.device("cpu"))
        self.batches: list[tuple[list[list[int]], int | None, bool]] = []
        self.steps = 0
        self.started = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()

    def translate_batch(
        self,
        sources: Sequence[Sequence[int]],
        options: Sequence[SearchOptions],
        on_found: Callable[[int, Translation], None],
        *,
        cancelled: Callable[[], Collection[int]] | None = None,
    ) -> Iterator[None]:
        def counted() -> Collection[int]:
            self.steps += 1
            return cancelled() if cancelled is not None else ()

        self.batches.append(([list(source) for source in sources], *options[0].resolved(5).batch_key))
        self.started.release()
        assert self.go.wait(PATIENCE)
        return super().translate_batch(sources, options, on_found, cancelled=counted)


@dataclass
class Asked:
    """A request that was accepted, seen from the test's thread."""

    ticket: Ticket
    translations: Future[list[Translation]]


class Bench:
    """A batcher at work on an event loop of its own, and its translators: the first, where there is one alone."""

    def __init__(self, limits: Limits, searchers: int = 1) -> None:
        self.translators = [Watched() for _ in range(searchers)]
        self.translator = self.translators[0]
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.batcher = Batcher([ThreadSearcher(each) for each in self.translators], limits, Metrics())
        self.on_loop(self.batcher.start)

    def on_loop(self, call: Callable[[], T]) -> T:
        """What a function gives that must be called on the event loop."""

        async def wrapped() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(PATIENCE)

    def submit(self, instances: Sequence[Instance]) -> Asked:
        ticket = self.on_loop(lambda: self.batcher.submit(instances))

        async def wait() -> list[Translation]:
            return await ticket.translations

        return Asked(ticket, asyncio.run_coroutine_threadsafe(wait(), self._loop))

    def give_up(self, asked: Asked) -> None:
        self.on_loop(asked.ticket.give_up)

    def waiting(self) -> int:
        return self.on_loop(self.batcher.waiting)

    def begin_to_close(self) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(self.batcher.close(), self._loop)

    def close(self) -> None:
        """Close the batcher, and end the loop."""
        self.begin_to_close().result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._runner.close()

    def hold(self) -> Asked:
        """Occupy the searcher with a request of one instance until `release`."""
        self.translator.go.clear()
        asked = self.submit([instance([5])])
        assert self.translator.started.acquire(timeout=PATIENCE)
        return asked

    def release(self) -> None:
        for translator in self.translators:
            translator.go.set()

    def batches(self) -> list[list[list[int]]]:
        """The sources of every batch since the searcher was first held."""
        return [sources for sources, _, _ in self.translator.batches[1:]]


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


def instance(ids: list[int], **configuration: object) -> Instance:
    words = [f"w{index}" for index in ids]
    return Instance(ids, words, Configuration.model_validate(configuration), truncated=False)


def result(ticket: Asked) -> list[Translation]:
    return ticket.translations.result(PATIENCE)


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
    tickets = [shared_bench.submit([instance(ids, **more) for ids, more in each]) for each in asked]
    shared_bench.release()
    result(first)
    for each, ticket in zip(asked, tickets, strict=True):
        for (ids, more), found in zip(each, result(ticket), strict=True):
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
    tickets = [made.submit([instance([5] * length)]) for length in (2, 7, 1, 4)]
    made.release()
    for ticket in tickets:
        result(ticket)
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
    for ticket in (*small, wide, huge):
        result(ticket)
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
        made.give_up(each)


def test_long_and_usual_outputs_of_one_request_are_answered_together(bench: Make) -> None:
    made = bench()
    found = result(made.submit([instance([5, 6], max_output_length=limit) for limit in (2, 300, None)]))
    assert [len(each.ids) for each in found[:2]] == [2, 300]
    assert [len(sources) for sources, _, _ in made.translator.batches] == [2, 1]


def test_a_lone_client_never_waits_for_company(bench: Make) -> None:
    made = bench(max_wait=10 * PATIENCE)
    for _ in range(5):
        result(made.submit([instance([5])]))
    result(made.submit([instance([5]) for _ in range(200)]))


def test_requests_that_came_together_are_waited_for_and_no_longer(bench: Make) -> None:
    made = bench(max_wait=10 * PATIENCE)
    made.hold()
    tickets = [made.submit([instance([5])]) for _ in range(3)]
    made.release()
    for _ in range(4):
        for ticket in tickets:
            result(ticket)
        tickets = [made.submit([instance([5])]) for _ in range(3)]
    for ticket in tickets:
        result(ticket)
    assert [len(sources) for sources in made.batches()[1:]] == [3] * 4


def test_requests_that_do_not_come_are_not_waited_for_to_the_end(bench: Make) -> None:
    made = bench(max_wait=10)
    made.hold()
    tickets = [made.submit([instance([5])]) for _ in range(3)]
    made.release()
    for ticket in tickets:
        result(ticket)
    started = time.monotonic()
    result(made.submit([instance([5])]))
    assert 1 < time.monotonic() - started < 10


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room(bench: Make) -> None:
    made = bench(max_batch=8, backlog=1)
    made.hold()
    accepted = [made.submit([instance([5])]) for _ in range(8)]
    with pytest.raises(RequestError) as caught:
        made.submit([instance([5])])
    assert (caught.value.status, caught.value.code) == (503, "queue_full")
    assert caught.value.headers["Retry-After"] == "1"
    assert made.waiting() == 8
    made.give_up(accepted[0])
    accepted.append(made.submit([instance([5])]))
    made.release()
    for ticket in accepted[1:]:
        result(ticket)
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
    made.give_up(first)
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
    made.give_up(endless)
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
    assert made.batcher.ready


def test_closing_finishes_what_was_accepted_and_refuses_the_rest(bench: Make) -> None:
    made = bench(max_batch=4, backlog=2)
    tickets = [made.hold(), *(made.submit([instance([5])]) for _ in range(5))]
    closing = made.begin_to_close()
    while made.batcher.ready:
        pass
    with pytest.raises(RequestError) as caught:
        made.submit([instance([5])])
    assert (caught.value.status, caught.value.code) == (503, "shutting_down")
    assert not closing.done()
    made.release()
    closing.result(PATIENCE)
    assert [len(result(ticket)) for ticket in tickets] == [1] * 6
