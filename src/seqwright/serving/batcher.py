"""Dynamic batching: requests that arrive together are translated together, in fair turns, by all searchers.

A request is answered when its last instance is found, without waiting for the rest of the batch. Instances that ask for
outputs longer than the model was trained for may take a thousand steps: they have a queue of their own, and every
searcher shares its time between a batch of these and one of the others.

Everything here runs on one event loop.
"""

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Sequence

import numpy as np

from seqwright.inference.translator import Translation
from seqwright.serving.codecs import Instance
from seqwright.serving.errors import no_search_process, queue_full, shutting_down
from seqwright.serving.limits import Limits
from seqwright.serving.metrics import Metrics
from seqwright.serving.request_queue import PendingRequest, QueuedInstance, RequestQueue, SearchKey
from seqwright.serving.searcher import SearchBatch, Searcher, SearcherLostError, SearchUpdate

_LOGGER = logging.getLogger(__name__)


class Batcher:
    """Translates the instances of concurrent requests together.

    Args:
        searchers: each searches a batch at a time, and one of long outputs besides.
        limits: how much to take on.
        metrics: where batches are counted.

    Attributes:
        closing: whether requests are no longer accepted.
    """

    def __init__(self, searchers: Sequence[Searcher], limits: Limits, metrics: Metrics) -> None:
        self._metrics = metrics
        self._beam_size = searchers[0].model.settings.beam_size
        self._usual_length = searchers[0].model.settings.max_seq_len_target
        self._queues = [RequestQueue(limits, self._beam_size, len(searchers)) for _ in range(2)]
        self._capacity = limits.backlog * limits.max_batch * len(searchers)
        self._unanswered: set[PendingRequest] = set()
        self.closing = False
        self._running: dict[Searcher, dict[int, Sequence[QueuedInstance]]] = {each: {} for each in searchers}
        self._batch_numbers = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []
        self._watchers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to search, on the running event loop."""
        loop = asyncio.get_running_loop()
        self._watchers = [loop.create_task(each.watch(self._searcher_is_unhealthy)) for each in self._running]
        pairs = itertools.product(self._running, self._queues)
        self._tasks = [loop.create_task(self._search_batches(searcher, queue)) for searcher, queue in pairs]

    @property
    def healthy(self) -> bool:
        """Whether any searcher searches."""
        return any(each.healthy for each in self._running) and not any(task.done() for task in self._tasks)

    def waiting(self) -> int:
        """Instances in the queues."""
        return sum(queue.waiting for queue in self._queues)

    @property
    def full(self) -> bool:
        """Whether so many requests are unanswered that none of a single instance is accepted."""
        return len(self._unanswered) > self._room(1)

    def submit(self, instances: Sequence[Instance]) -> PendingRequest:
        """Accept a request, or refuse it at once; see `Limits.backlog`.

        Instances without tokens have an empty translation.

        Args:
            instances: what to translate.

        Raises:
            RequestError: 503 if the queue is full, the endpoint is shutting down, or no searcher is left.
        """
        places = [self._place_of(each) for each in instances]
        if self.closing:
            raise shutting_down()
        if not self.healthy:
            raise no_search_process()
        ahead = sum(queue.ahead(len(instances)) for queue in {queue for queue, _ in places})
        if len(self._unanswered) + ahead > self._room(len(instances)):
            raise queue_full()
        request = PendingRequest(len(instances), self._on_request_end)
        self._unanswered.add(request)
        grouped: dict[tuple[RequestQueue, SearchKey], list[QueuedInstance]] = {}
        for index, (place, instance) in enumerate(zip(places, instances, strict=True)):
            if instance.ids:
                grouped.setdefault(place, []).append(QueuedInstance(request, index, instance))
            else:
                request.put(index, Translation([], [], 0.0, np.zeros((0, 0), dtype=np.float32)))
        for (queue, key), group in grouped.items():
            group.sort(key=lambda each: -len(each.instance.ids))
            queue.put(key, group)
        return request

    def give_up(self) -> None:
        """Refuse new requests, and answer those accepted with the same error."""
        self.closing = True
        for request in list(self._unanswered):
            request.fail(shutting_down())

    async def close(self) -> None:
        """Refuse new requests, finish those accepted, and stop."""
        self.closing = True
        if self._unanswered:
            await asyncio.wait([request.translations for request in self._unanswered])
        for task in (*self._tasks, *self._watchers):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._watchers, return_exceptions=True)

    def _place_of(self, instance: Instance) -> tuple[RequestQueue, SearchKey]:
        is_long = (instance.configuration.max_output_length or 0) > self._usual_length
        return self._queues[is_long], instance.options.resolved(self._beam_size).batch_key

    def _room(self, size: int) -> float:
        """Instances that may come before a request of `size` instances; see `Limits.backlog`."""
        return max(self._capacity, 2 * size)

    def _on_request_end(self, request: PendingRequest) -> None:
        """Note that a request is answered or cancelled. A cancelled one leaves the queue and the searches."""
        self._unanswered.discard(request)
        if request.cancelled:
            for queue in self._queues:
                queue.remove(request)
            self._send_updates()

    def _searcher_is_unhealthy(self) -> None:
        """Answer what is accepted if nobody is left to search it."""
        if not self.healthy:
            for request in list(self._unanswered):
                request.fail(no_search_process())

    def _send_updates(self, skipped: Searcher | None = None) -> None:
        """Tell all searchers but one which of their instances were cancelled, and whether others search."""
        for searcher, batches in self._running.items():
            if batches and searcher is not skipped:
                searcher.tell(self._update_for(searcher))

    def _update_for(self, searcher: Searcher) -> SearchUpdate:
        cancelled = {
            number: positions
            for number, batch in self._running[searcher].items()
            if (positions := [position for position, each in enumerate(batch) if each.request.cancelled])
        }
        return SearchUpdate(cancelled, alone=sum(map(bool, self._running.values())) == 1)

    async def _search_batches(self, searcher: Searcher, queue: RequestQueue) -> None:
        """Have a searcher search one batch of a queue after another, until cancelled."""
        expected = 1
        while True:
            await searcher.ready.wait()
            key, batch = await queue.take(expected)
            expected = len({id(each.request) for each in batch})
            try:
                if searcher.ready.is_set():
                    await self._search(batch, searcher)
                else:  # lost while it was idle
                    self._put_back(queue, key, batch)
            except SearcherLostError as error:
                self._put_back(queue, key, batch, error)
            except Exception as error:
                _LOGGER.exception("a search failed")
                for each in batch:
                    each.request.fail(error)
            finally:
                queue.finished(batch)

    async def _search(self, batch: Sequence[QueuedInstance], searcher: Searcher) -> None:
        def put(position: int, translation: Translation) -> None:
            batch[position].request.put(batch[position].index, translation)

        loop = asyncio.get_running_loop()
        sources = SearchBatch([each.instance.ids for each in batch], [each.instance.options for each in batch])
        started, number = loop.time(), next(self._batch_numbers)
        self._running[searcher][number] = batch
        self._send_updates(skipped=searcher)
        try:
            await searcher.search(number, sources, self._update_for(searcher), put)
        finally:
            del self._running[searcher][number]
        self._metrics.searched(instances=len(batch), seconds=loop.time() - started)

    def _put_back(
        self, queue: RequestQueue, key: SearchKey, batch: Sequence[QueuedInstance], error: Exception | None = None
    ) -> None:
        """Queue a batch again; with the error of a lost search, only what is lost for the first time."""
        again: dict[PendingRequest, list[QueuedInstance]] = {}
        for each in batch:
            if each.request.has(each.index):
                continue
            if error and each.retried:
                each.request.fail(error)
            else:
                retried = each.retried or error is not None
                again.setdefault(each.request, []).append(dataclasses.replace(each, retried=retried))
        for request, instances in again.items():
            if not request.cancelled:
                queue.put(key, instances, at_front=True)
