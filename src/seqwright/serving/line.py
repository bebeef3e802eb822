"""Instances in line for a search: batches are taken from it in fair turns.

Requests wait in a ring. A batch takes from the request whose turn it is, then from the next, at most `Limits.turn`
instances at a time, until it is full; a request with instances left goes to the end of the ring. So a request of
thousands of instances holds up one of a single instance by little more than a batch.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from seqwright.serving.codecs import Instance
from seqwright.serving.limits import Limits
from seqwright.serving.ticket import Ticket

_SMALL_BATCH = 8
"""Instances that are not worth dividing between searchers."""

SearchKey = tuple[int | None, bool]
"""What all instances of a batch have in common; see `SearchOptions.batch_key`."""


@dataclass(frozen=True)
class Item:
    """One instance on its way."""

    ticket: Ticket
    number: int
    instance: Instance


@dataclass
class _Job:
    """The waiting instances of one request that can be searched together, longest first."""

    ticket: Ticket
    key: SearchKey
    items: deque[Item]


class Line:
    """What waits for searchers, on one event loop.

    Args:
        limits: how much a batch may hold.
        beam_size: the beam that `Limits.max_batch` is for; a batch with a wider one is smaller.
        takers: how many searchers take from the line.

    Attributes:
        waiting: instances in the line.
    """

    def __init__(self, limits: Limits, beam_size: int, takers: int) -> None:
        self.waiting = 0
        self._limits = limits
        self._beam_size = beam_size
        self._takers = takers
        self._ring: deque[_Job] = deque()
        self._taken = 0
        self._gathering: dict[asyncio.Event, int] = {}
        self._came = 0.0  # the last request that a searcher has waited for, by the loop's time
        self._idle: list[asyncio.Future[None]] = []
        self._closing = False

    def put(self, ticket: Ticket, key: SearchKey, items: Iterable[Item]) -> None:
        """Take in what a request asks for that can be searched together, longest first, and wake a searcher."""
        job = _Job(ticket, key, deque(items))
        self.waiting += len(job.items)
        self._ring.append(job)
        if not self._gathering:
            self._wake()
            return
        self._came = asyncio.get_running_loop().time()
        for arrived, company in self._gathering.items():
            if self._is_gathered(company):
                arrived.set()

    def drop(self, ticket: Ticket) -> None:
        """Take a request out of the line."""
        self._ring = deque(job for job in self._ring if job.ticket is not ticket)
        self.waiting = sum(len(job.items) for job in self._ring)

    def ahead(self, size: int) -> int:
        """Instances that fair turns put before the last of a request of so many, besides one of each request."""
        if self.waiting == len(self._ring):
            return 0
        share = math.ceil(size / self._limits.turn) * self._limits.turn
        return sum(min(len(job.items), share) - 1 for job in self._ring)

    def close(self) -> None:
        """Let searchers take what is there without waiting for more, and end."""
        self._closing = True
        for arrived in self._gathering:
            arrived.set()
        while self._idle:
            self._wake()

    async def get(self, company: int) -> tuple[SearchKey, list[Item]] | None:
        """Wait for requests and take a batch from them, to be given back with `finished`; None at the end of all.

        Args:
            company: requests that shared the batch before. They are given a moment to come again; a lone client never
                waits.
        """
        while True:
            if self._ring:
                await self._wait_for_company(company)
                if self._ring:
                    key = self._ring[0].key
                    items = self._take(key)
                    self._taken += len(items)
                    if self._ring:
                        self._wake()
                    return key, items
            elif self._closing:
                return None
            else:
                self._idle.append(asyncio.get_running_loop().create_future())
                await self._idle[-1]

    def finished(self, items: Sequence[Item]) -> None:
        """Take note that a batch was searched."""
        self._taken -= len(items)

    def _wake(self) -> None:
        """Set the searcher to work that was last at work, for it is warm."""
        if self._idle:
            self._idle.pop().set_result(None)

    async def _wait_for_company(self, company: int) -> None:
        """Wait for so many requests, as long as they keep coming: a searcher that waits in vain is lost meanwhile."""
        now = asyncio.get_running_loop().time
        arrived, end = asyncio.Event(), now() + self._limits.max_wait
        self._gathering[arrived], self._came = company, now()
        while not self._is_gathered(company):
            until = min(end, self._came + self._limits.max_pause)
            if now() >= until:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await arrived.wait()
                    arrived.clear()  # another searcher may take them first
        del self._gathering[arrived]

    def _is_gathered(self, company: int) -> bool:
        """Whether a batch need not wait any more for so many requests."""
        return self._closing or len(self._ring) >= company or self.waiting >= self._limits.max_batch

    def _take(self, key: SearchKey) -> list[Item]:
        """A batch in fair turns, longest first, starting with the request at the head of the ring.

        It leaves the other searchers their share of what is there: clients that ask again when they are answered would
        otherwise gather in one searcher's batches, and the others' batches be too small to be worth their steps.
        """
        room = max(1, self._limits.max_batch * self._beam_size // max(self._beam_size, key[0] or 1))
        room = min(room, max(_SMALL_BATCH, math.ceil((self.waiting + self._taken) / self._takers)))
        taken: list[Item] = []
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
        self.waiting -= len(taken)
        return sorted(taken, key=lambda item: -len(item.instance.ids))
