"""What a search process does: it searches the batches that it is sent, a step of one at a time."""

import contextlib
import gc
import os
import pickle
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from seqwright.artifacts import TrainedModel
from seqwright.data.vocabulary import UNK
from seqwright.devices import choose_device, choose_precision
from seqwright.inference.translator import Translation, Translator
from seqwright.serving.searcher import SearchBatch, SearchUpdate

_HOLD_SECONDS = 0.003
"""From the step that found a translation, how long it waits for others of its batch, to be sent with them: each message
takes time from the searches, and so do clients that ask again one by one. After a longer step it does not wait."""

_SMALL_SEARCH = 2  # sentences of a search that gains by all cores, while nobody else searches
_NICENESS = 5  # by how much search yields to HTTP, whose work is short and delays everyone
_HEARTBEAT_SECONDS = 1.0  # from one sign of life to the next
_END = object()


@dataclass(frozen=True)
class SearchResult:
    """What the process sends of a batch.

    The end of a batch is said with its last translations, so that a client that asks again as soon as it is answered
    finds this process free.
    """

    number: int  # of the batch
    found: list[tuple[int, Translation]]  # with their positions in the batch
    is_last: bool = False
    failure: str | None = None  # the traceback, if the search failed


def run_searches(connection: Connection, device: str, precision: str, processes: int) -> None:
    """Receive a pickled `TrainedModel`, send the name of its device, and search until the connection is closed.

    Each second None is sent as a sign of life.

    Args:
        connection: to the endpoint.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`.
        processes: how many processes share the processor.

    Raises:
        ClientError: the device or precision is not available.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICENESS)
    trained: TrainedModel = pickle.loads(connection.recv())  # noqa: S301 - of the process that started this one
    chosen = choose_device(device)
    translator = Translator(trained, chosen, choose_precision(precision, chosen))
    translator.translate_ids([[UNK]])  # the first search of a process is slow
    scheduler = SearchScheduler(translator, processes)
    gc.freeze()
    sending = threading.Lock()

    def send(message: object) -> None:
        with sending:
            connection.send(message)

    def give_signs_of_life() -> None:
        with contextlib.suppress(OSError):
            while True:
                time.sleep(_HEARTBEAT_SECONDS)
                send(None)

    send(str(translator.device))
    threading.Thread(target=give_signs_of_life, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            while not scheduler.is_busy or connection.poll():
                message: tuple[int, SearchBatch, SearchUpdate] | SearchUpdate = connection.recv()
                if isinstance(message, tuple):
                    scheduler.begin(*message)
                else:
                    scheduler.update(message)
            if result := scheduler.step():
                send(result)


@dataclass
class _Search:
    """A search that runs."""

    number: int  # of the batch
    size: int  # sources
    found: list[tuple[int, Translation]]  # not sent yet
    steps: Iterator[None]
    used: float  # seconds of its steps, plus those of the search that had used the least when this one began
    due: float = 0.0  # when `found` is sent, by `time.perf_counter`, unless the search ends before


class SearchScheduler:
    """Divides the time of a process between searches: equal shares, whatever a step of each takes.

    A small search has all threads while no other runs, any other search an equal part of them: processes that use every
    core do not take turns, each spins while it waits for its own preempted threads.

    Args:
        translator: the translator.
        processes: how many processes share the processor.
    """

    def __init__(self, translator: Translator, processes: int) -> None:
        self._translator = translator
        self._threads = torch.get_num_threads()
        self._share = max(1, self._threads // processes)
        self._update = SearchUpdate()
        self._running: list[_Search] = []

    @property
    def is_busy(self) -> bool:
        """Whether a search runs."""
        return bool(self._running)

    def begin(self, number: int, batch: SearchBatch, update: SearchUpdate) -> None:
        """Begin to search a batch. Its first step comes before any other's."""
        found: list[tuple[int, Translation]] = []

        def put(position: int, translation: Translation) -> None:
            found.append((position, translation))

        steps = batch.steps(self._translator, put, lambda: self._update.cancelled.get(number, ()))
        used = min((each.used for each in self._running), default=0.0)
        self._running.insert(0, _Search(number, len(batch.sources), found, steps, used))
        self.update(update)

    def update(self, update: SearchUpdate) -> None:
        """Take an update into account."""
        self._update = update
        is_small = sum(each.size for each in self._running) <= _SMALL_SEARCH
        torch.set_num_threads(self._threads if update.alone and is_small else self._share)

    def step(self) -> SearchResult | None:
        """Take one step of the search that has used the least time, and return what is to be sent."""
        search = min(self._running, key=lambda each: each.used)
        started = time.perf_counter()
        if not search.found:
            search.due = started + _HOLD_SECONDS
        is_last, failure = False, None
        try:
            is_last = next(search.steps, _END) is _END
        except Exception:
            is_last, failure = True, traceback.format_exc()
        now = time.perf_counter()
        search.used += now - started
        if is_last:
            self._running.remove(search)
        is_held = now < search.due and len(self._running) == 1
        if not is_last and (is_held or not search.found):
            return None
        result = SearchResult(search.number, search.found.copy(), is_last, failure)
        search.found.clear()
        return result
