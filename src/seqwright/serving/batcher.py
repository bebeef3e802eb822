"""Dynamic batching: what arrives together is translated together, in fair turns, by as many searchers as there are.

Requests wait in a ring. A batch takes from the request whose turn it is, then from the next, at most `Limits.turn`
instances at a time, until it is full; a request with instances left goes to the end of the ring. So a request of
thousands of instances holds up one of a single instance by little more than a batch. A request is answered when its
last instance is found, without waiting for the rest of the batch.

Everything here runs on one event loop.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from seqwright.inference.translator import Translation
from seqwright.serving.codecs import Instance
from seqwright.serving.errors import late, queue_full, unavailable
from seqwright.serving.limits import Limits
from seqwright.serving.metrics import Metrics
from seqwright.serving.searcher import Batch, News, Searcher

_LOGGER = logging.getLogger(__name__)

_SMALL_BATCH = 8
"""Instances that are not worth dividing between searchers."""

SearchKey = tuple[int, bool]
"""What all instances of a batch have in common: the beam size, and whether attention is wanted."""


class Ticket:
    """A request that was accepted.

    Args:
        size: its instances.
        expires: when it must have its answer, by `time.monotonic`.
        on_end: told of this ticket when it has its answer, or nobody wants one any more.

    Attributes:
        translations: done when all instances are: one translation for each, in order. Its exception is whatever broke
            the search.
        given_up: whether nobody wants the answer any more; set by `give_up`.
    """

    def __init__(self, size: int, expires: float, on_end: Callable[["Ticket"], None]) -> None:
        self.translations: asyncio.Future[list[Translation]] = asyncio.get_running_loop().create_future()
        self.expires = expires
        self.given_up = False
        self._on_end = on_end
        self._found: list[Translation | None] = [None] * size
        self._missing = size

    def give_up(self) -> None:
        """Compute no more for this request: leave the queue now, and a running search after its next step."""
        if not self.given_up and self._missing:
            self.given_up = True
            self._on_end(self)

    def leave(self) -> None:
        """As `give_up`, and `translations` are cancelled, for nobody is there to read them."""
        self.translations.cancel()
        self.give_up()

    def put(self, number: int, translation: Translation) -> None:
        """Take in the translation of an instance."""
        self._found[number] = translation
        self._missing -= 1
        if not self._missing and not self.given_up:
            self._on_end(self)
            if not self.translations.done():
                self.translations.set_result([each for each in self._found if each is not None])

    def fail(self, error: BaseException) -> None:
        """Answer the request with an error and compute no more for it."""
        if not self.translations.done():
            self.translations.set_exception(error)
        self.give_up()


@dataclass(frozen=True)
class _Item:
    """One instance on its way."""

    ticket: Ticket
    number: int
    instance: Instance


@dataclass
class _Job:
    """The waiting instances of one request that can be searched together, longest first."""

    ticket: Ticket
    key: SearchKey
    items: deque[_Item] = field(default_factory=deque)


@dataclass
class _Worker:
    """A searcher.

    Attributes:
        company: requests that shared its last batch.
        items: what it searches now.
    """

    searcher: Searcher
    company: int = 1
    items: Sequence[_Item] = ()


class Batcher:
    """Translates the instances of concurrent requests together.

    Args:
        searchers: the model, once or more: so many batches are searched at a time.
        limits: how much to take on.
        metrics: where batches are counted.
    """

    def __init__(self, searchers: Sequence[Searcher], limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._beam_size = searchers[0].settings.beam_size
        self._ring: deque[_Job] = deque()
        self._waiting = 0
        self._unanswered: set[Ticket] = set()
        self._next_look = math.inf
        self._looking: asyncio.TimerHandle | None = None
        self._gathering: dict[asyncio.Event, int] = {}
        self._closing = False
        self._idle: list[asyncio.Future[None]] = []
        self._workers = [_Worker(searcher) for searcher in searchers]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to search, on the running event loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._work(worker)) for worker in self._workers]

    @property
    def ready(self) -> bool:
        """Whether requests are accepted and worked on."""
        return not self._closing and not any(task.done() for task in self._tasks)

    def waiting(self) -> int:
        """Instances in the queue."""
        return self._waiting

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
        self._check_room(len(instances))
        expires = (time.monotonic() if started is None else started) + self._limits.deadline
        ticket = Ticket(len(instances), expires, self._end)
        self._unanswered.add(ticket)
        self._look_at(expires)
        jobs: dict[SearchKey, _Job] = {}
        by_length = sorted(enumerate(instances), key=lambda pair: -len(pair[1].ids))
        for number, instance in by_length:
            key = self._key(instance)
            jobs.setdefault(key, _Job(ticket, key)).items.append(_Item(ticket, number, instance))
        self._ring.extend(jobs.values())
        self._waiting += len(instances)
        for arrived, company in self._gathering.items():
            if self._is_gathered(company):
                arrived.set()
        if not self._gathering:
            self._wake()
        return ticket

    async def close(self) -> None:
        """Refuse new requests, finish those accepted, and stop."""
        self._closing = True
        for arrived in self._gathering:
            arrived.set()
        while self._idle:
            self._wake()
        await asyncio.gather(*self._tasks)

    def _key(self, instance: Instance) -> SearchKey:
        wanted = instance.configuration
        return max(wanted.beam_size or self._beam_size, wanted.nbest or 1), instance.wants_attention

    def _check_room(self, size: int) -> None:
        if self._closing:
            raise unavailable("shutting_down", "the endpoint is shutting down: try another or try again")
        share = math.ceil(size / self._limits.turn) * self._limits.turn
        ahead = len(self._unanswered) + sum(min(len(job.items), share) - 1 for job in self._ring)
        if ahead > self._room(size):
            raise queue_full()

    def _room(self, size: int) -> float:
        """What may come before a request of so many instances; see `Limits.backlog`."""
        return max(self._limits.backlog * self._limits.max_batch, 2 * size)

    def _wake(self) -> None:
        """Set the searcher to work that was last at work, for it is warm."""
        if self._idle:
            self._idle.pop().set_result(None)

    def _end(self, ticket: Ticket) -> None:
        """Take note of a request that has its answer or was given up: the latter leaves the queue and the searches."""
        self._unanswered.discard(ticket)
        if ticket.given_up:
            self._ring = deque(job for job in self._ring if job.ticket is not ticket)
            self._waiting = sum(len(job.items) for job in self._ring)
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
            if worker.items and worker is not besides:
                worker.searcher.tell(self._news(worker))

    def _news(self, worker: _Worker) -> News:
        gone = [position for position, item in enumerate(worker.items) if item.ticket.given_up]
        return News(gone, alone=sum(bool(each.items) for each in self._workers) == 1)

    async def _work(self, worker: _Worker) -> None:
        """What a searcher does until the end."""
        while items := await self._next_batch(worker):
            try:
                await self._translate(items, worker)
            except Exception as error:
                _LOGGER.exception("a search failed")
                for item in items:
                    item.ticket.fail(error)

    async def _next_batch(self, worker: _Worker) -> list[_Item]:
        """Wait for requests and take a batch from them; none when all is done and the batcher closes."""
        while True:
            if self._ring:
                await self._wait_for_company(worker.company)
                if items := self._take():
                    worker.company = len({id(item.ticket) for item in items})
                    if self._ring:
                        self._wake()
                    return items
            elif self._closing:
                return []
            else:
                self._idle.append(asyncio.get_running_loop().create_future())
                await self._idle[-1]

    async def _wait_for_company(self, company: int) -> None:
        """Give as many requests as shared the last batch a moment to come again; a lone client never waits."""
        arrived = asyncio.Event()
        self._gathering[arrived] = company
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.max_wait):
                if not self._is_gathered(company):
                    await arrived.wait()
        del self._gathering[arrived]

    def _is_gathered(self, company: int) -> bool:
        """Whether a batch need not wait any more for so many requests."""
        return self._closing or len(self._ring) >= company or self._waiting >= self._limits.max_batch

    def _take(self) -> list[_Item]:
        """A batch in fair turns, starting with the request at the head of the ring.

        It leaves the other searchers their share of what is there: clients that ask again when they are answered would
        otherwise gather in one searcher's batches, and the others' batches be too small to be worth their steps.
        """
        if not self._ring:
            return []
        key = self._ring[0].key
        room = max(1, self._limits.max_batch * self._beam_size // max(self._beam_size, key[0]))
        there = self._waiting + sum(len(worker.items) for worker in self._workers)
        room = min(room, max(_SMALL_BATCH, math.ceil(there / len(self._workers))))
        taken: list[_Item] = []
        longest, passed, full = 0, list[_Job](), False
        while self._ring and not full:
            job = self._ring.popleft()
            if job.key != key:
                passed.append(job)
                continue
            before = len(taken)
            for _ in range(min(self._limits.turn, len(job.items))):
                longest = max(longest, len(job.items[0].instance.ids))
                full = len(taken) == room or longest * (len(taken) + 1) > self._limits.max_batch_tokens
                if taken and full:
                    break
                taken.append(job.items.popleft())
            if len(taken) == before:
                self._ring.appendleft(job)
            elif job.items:
                self._ring.append(job)
        self._ring.extendleft(reversed(passed))
        self._waiting -= len(taken)
        return sorted(taken, key=lambda item: -len(item.instance.ids))

    async def _translate(self, items: Sequence[_Item], worker: _Worker) -> None:
        def found(position: int, translation: Translation) -> None:
            items[position].ticket.put(items[position].number, translation)

        loop = asyncio.get_running_loop()
        beam_size, attention = self._key(items[0].instance)
        wanted = [item.instance.configuration for item in items]
        batch = Batch(
            [item.instance.ids for item in items],
            beam_size=beam_size,
            nbest=[each.nbest or 1 for each in wanted],
            attention=attention,
            max_output_lengths=[each.max_output_length for each in wanted],
        )
        started = loop.time()
        worker.items = items
        self._tell(besides=worker)
        try:
            await worker.searcher.search(batch, self._news(worker), found)
        finally:
            worker.items = ()
        self._metrics.searched(items=len(items), seconds=loop.time() - started)
