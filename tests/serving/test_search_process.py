"""What a search process sends, and when; `test_server.py` has the process itself."""

from collections.abc import Iterator

import pytest

from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import Translator
from seqwright.serving import search_process
from seqwright.serving.search_process import _Answer, _Worker
from seqwright.serving.searcher import Batch, News

SOURCES = [[5, 6, 7, 8, 9, 10, 11, 12], [5, 6, 7, 8, 9], [5, 6, 7], [8, 9], [5]]


def batch(*sources: list[int]) -> Batch:
    return Batch(sources, [SearchOptions(beam_size=2)] * len(sources))


def answers(worker: _Worker) -> Iterator[_Answer]:
    while worker.is_busy:
        if answer := worker.step():
            yield answer


def test_translations_are_sent_together_but_do_not_wait_for_long(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[float, list[_Answer]] = {}
    for hold in (0.0, 60.0):
        monkeypatch.setattr(search_process, "_HOLD_SECONDS", hold)
        worker = _Worker(translator, 1)
        worker.begin(7, batch(*SOURCES), News())
        found[hold] = list(answers(worker))
    at_once, held = found[0.0], found[60.0]
    assert len(at_once) > 1
    assert [answer.is_last for answer in at_once] == [False] * (len(at_once) - 1) + [True]
    assert [(answer.number, answer.is_last, answer.failure) for answer in held] == [(7, True, None)]
    each = [pair for answer in at_once for pair in answer.found]
    assert [place for place, _ in each] == [place for place, _ in held[0].found]
    assert sorted(place for place, _ in each) == list(range(len(SOURCES)))
    assert {place: translation.ids for place, translation in each} == dict(
        enumerate(translation.ids for translation in translator.translate_ids(SOURCES, beam_size=2))
    )


def test_a_search_beside_another_sends_at_once(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_process, "_HOLD_SECONDS", 60.0)
    worker = _Worker(translator, 1)
    worker.begin(1, batch(*SOURCES), News())
    worker.begin(2, batch(*SOURCES), News())
    assert len(list(answers(worker))) > 2
