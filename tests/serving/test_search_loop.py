"""How a search process divides its time, and when it sends what it has found."""

from collections.abc import Iterator

import pytest

from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import Translator
from seqwright.serving import search_loop
from seqwright.serving.search_loop import SearchResult, SearchScheduler
from seqwright.serving.searcher import SearchBatch, SearchUpdate

SOURCES = [[5, 6, 7, 8, 9, 10, 11, 12], [5, 6, 7, 8, 9], [5, 6, 7], [8, 9], [5]]


def batch(*sources: list[int]) -> SearchBatch:
    return SearchBatch(sources, [SearchOptions(beam_size=2)] * len(sources))


def results(scheduler: SearchScheduler) -> Iterator[SearchResult]:
    while scheduler.is_busy:
        if result := scheduler.step():
            yield result


def test_translations_are_sent_together_but_do_not_wait_for_long(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[float, list[SearchResult]] = {}
    for hold in (0.0, 60.0):
        monkeypatch.setattr(search_loop, "_HOLD_SECONDS", hold)
        scheduler = SearchScheduler(translator, 1)
        scheduler.begin(7, batch(*SOURCES), SearchUpdate())
        found[hold] = list(results(scheduler))
    at_once, held = found[0.0], found[60.0]
    assert len(at_once) > 1
    assert [result.is_last for result in at_once] == [False] * (len(at_once) - 1) + [True]
    assert [(result.number, result.is_last, result.failure) for result in held] == [(7, True, None)]
    each = [pair for result in at_once for pair in result.found]
    assert [place for place, _ in each] == [place for place, _ in held[0].found]
    assert sorted(place for place, _ in each) == list(range(len(SOURCES)))
    assert {place: translation.ids for place, translation in each} == dict(
        enumerate(translation.ids for translation in translator.translate_ids(SOURCES, beam_size=2))
    )


def test_a_search_beside_another_sends_at_once(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_loop, "_HOLD_SECONDS", 60.0)
    scheduler = SearchScheduler(translator, 1)
    scheduler.begin(1, batch(*SOURCES), SearchUpdate())
    scheduler.begin(2, batch(*SOURCES), SearchUpdate())
    assert len(list(results(scheduler))) > 2
