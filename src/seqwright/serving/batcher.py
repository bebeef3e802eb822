"""Dynamic batching: what arrives together is translated together, in fair turns, by as many searchers as there are.

A request is answered when its last instance is found, without waiting for the rest of the batch. Instances that ask for
outputs longer than the model was trained for may take a thousand steps: they stand in a line of their own, and every
searcher shares its time between a batch of these and one of the others.

Everything here runs on one event loop.
"""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from seqwright.inference.translator import Translation
from seqwright.serving.codecs import Instance
from seqwright.serving.errors import late, queue_full, shutting_down
from seqwright.serving.limits import Limits
from seqwright.serving.line import Item, Line, SearchKey
from seqwright.serving.metrics import Metrics
from seqwright.serving.searcher import Batch, News, Searcher
from seqwright.serving.ticket import Ticket

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Worker:
    """A searcher, and what it searches now, by the numbers of the batches."""

    searcher: Searcher
    searches: dict[int, Sequence[Item]] = field(default_factory=dict)


class Batcher:
    """Translates the instances of concurrent requests together.

    Args:
        searchers: the model, once or more: so many batches are searched at a time, and as many of long outputs.
        limits: how much to take on.
        metrics: where batches are counted.
    """

    def __init__(self, searchers: Sequence[Searcher], limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._beam_size = searchers[0].settings.beam_size
        self._usual_length = searchers[0].settings.max_seq_len_target
        self._usual, self._long = self._lines = [Line(limits, self._beam_size, len(searchers)) for _ in range(2)]
        self._unanswered: set[Ticket] = set()
        self._next_look = math.inf
        self._looking: asyncio.TimerHandle | None = None
        self._closing = False
        self._workers = [_Worker(searcher) for searcher in searchers]
        self._numbers = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to search, on the running event loop."""
        loop = asyncio.get_running_loop()
        pairs = itertools.product(self._workers, self._lines)
        self._tasks = [loop.create_task(self._work(worker, line)) for worker, line in pairs]

    @property
    def ready(self) -> bool:
        """Whether requests are accepted and worked on."""
        return not self._closing and not any(task.done() for task in self._tasks)

    def waiting(self) -> int:
        """Instances in the queue."""
        return sum(line.waiting for line in self._lines)

    @property
    def full(self) -> bool:
        """Whether so many requests are unanswered that none of a single instance is accepted; costs nothing to ask."""
        return len(self._unanswered) > self._room(1)

    def submit(self, instances: Sequence[Instance], started: float | None = None) -> Ticket:
        """Accept a request, or refuse it at once where it would wait too long; see `Limits.backlog`.

        Args:
            instances: what to translate.
            started: when the request came, by `time.monotonic`, for its deadline; now if not given.

        Raises:
            RequestError: 503 where the queue is full, or the endpoint is shutting down.
        """
        places = [(self._line(each), self._key(each)) for each in instances]
        self._check_room(len(instances), {line for line, _ in places})
        expires = (time.monotonic() if started is None else started) + self._limits.deadline
        ticket = Ticket(len(instances), expires, self._end)
        self._unanswered.add(ticket)
        self._look_at(expires)
        alike: dict[tuple[Line, SearchKey], list[Item]] = {}
        for number, (place, instance) in enumerate(zip(places, instances, strict=True)):
            alike.setdefault(place, []).append(Item(ticket, number, instance))
        for (line, key), items in alike.items():
            items.sort(key=lambda item: -len(item.instance.ids))
            line.put(ticket, key, items)
        return ticket

    def give_up(self) -> None:
        """Refuse new requests, and answer those accepted with the same."""
        self._closing = True
        for ticket in list(self._unanswered):
            ticket.fail(shutting_down())

    async def close(self) -> None:
        """Refuse new requests, finish those accepted, and stop."""
        self._closing = True
        for line in self._lines:
            line.close()
        await asyncio.gather(*self._tasks)

    def _key(self, instance: Instance) -> SearchKey:
        return instance.options.resolved(self._beam_size).batch_key

    def _line(self, instance: Instance) -> Line:
        """Where an instance waits."""
        is_long = (instance.configuration.max_output_length or 0) > self._usual_length
        return self._long if is_long else self._usual

    def _check_room(self, size: int, lines: Iterable[Line]) -> None:
        if self._closing:
            raise shutting_down()
        if len(self._unanswered) + sum(line.ahead(size) for line in lines) > self._room(size):
            raise queue_full()

    def _room(self, size: int) -> float:
        """What may come before a request of so many instances; see `Limits.backlog`."""
        return max(self._limits.backlog * self._limits.max_batch, 2 * size)

    def _end(self, ticket: Ticket) -> None:
        """Take note of a request that has its answer or was given up: the latter leaves the queue and the searches."""
        self._unanswered.discard(ticket)
        if ticket.given_up:
            for line in self._lines:
                line.drop(ticket)
            self._tell()

    def _look_at(self, moment: float) -> None:
        """See to it that requests past their deadline are looked for no later than at `moment`."""
        if moment < self._next_look:
            if self._looking:
                self._looking.cancel()
            self._next_look = moment
            self._looking = asyncio.get_running_loop().call_later(moment - time.monotonic(), self._look)

    def _look(self) -> None:
        """Answer the requests that are past their deadline, and look again when the next one will be."""
        now = self._next_look
        self._next_look = math.inf
        for ticket in [each for each in self._unanswered if each.expires <= now]:
            ticket.fail(late(self._limits.deadline))
        self._look_at(min((each.expires for each in self._unanswered), default=math.inf))

    def _tell(self, besides: _Worker | None = None) -> None:
        """Tell the running searches what they must know of each other and of requests given up."""
        for worker in self._workers:
            if worker.searches and worker is not besides:
                worker.searcher.tell(self._news(worker))

    def _news(self, worker: _Worker) -> News:
        gone = {
            number: positions
            for number, items in worker.searches.items()
            if (positions := [position for position, item in enumerate(items) if item.ticket.given_up])
        }
        return News(gone, alone=sum(bool(each.searches) for each in self._workers) == 1)

    async def _work(self, worker: _Worker, line: Line) -> None:
        """Have a searcher search one batch of a line after another, until the end."""
        company = 1
        while batch := await line.get(company):
            _, items = batch
            company = len({id(item.ticket) for item in items})
            try:
                await self._translate(items, worker)
            except Exception as error:
                _LOGGER.exception("a search failed")
                for item in items:
                    item.ticket.fail(error)
            line.finished(items)

    async def _translate(self, items: Sequence[Item], worker: _Worker) -> None:
        def found(position: int, translation: Translation) -> None:
            items[position].ticket.put(items[position].number, translation)

        loop = asyncio.get_running_loop()
        batch = Batch([item.instance.ids for item in items], [item.instance.options for item in items])
        started, number = loop.time(), next(self._numbers)
        worker.searches[number] = items
        self._tell(besides=worker)
        try:
            await worker.searcher.search(number, batch, self._news(worker), found)
        finally:
            del worker.searches[number]
        self._metrics.searched(items=len(items), seconds=loop.time() - started)
