"""Instances that wait for a search: batches are taken from them in fair turns.

Requests wait in a ring. A batch takes at most `Limits.turn` instances of the request at the front, then of the next,
until it is full; a request with instances left goes to the end of the ring. So a request of thousands of instances
delays one of a single instance by little more than a batch.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from seqwright.inference.translator import Translation
from seqwright.serving.codecs import Instance
from seqwright.serving.limits import Limits

_SMALL_BATCH = 8  # instances that are not divided between searchers

SearchKey = tuple[int | None, bool]  # what all instances of a batch have in common: `SearchOptions.batch_key`


class PendingRequest:
    """A request that was accepted, and its translations as they are found.

    Args:
        size: instances of the request.
        on_end: called with this object once, when the request is complete or cancelled.

    Attributes:
        translations: a future of one translation for each instance, in order, or of the error that is the answer.
        cancelled: whether nobody wants the translations any more.
    """

    def __init__(self, size: int, on_end: Callable[["PendingRequest"], None]) -> None:
        self.translations: asyncio.Future[list[Translation]] = asyncio.get_running_loop().create_future()
        self.cancelled = False
        self._on_end = on_end
        self._found: list[Translation | None] = [None] * size
        self._missing = size

    def cancel(self) -> None:
        """Search no more for this request: it leaves the queue now, and a running search after its next step."""
        if not self.cancelled and self._missing:
            self.cancelled = True
            self._on_end(self)

    def has(self, index: int) -> bool:
        """Whether the translation of an instance was found."""
        return self._found[index] is not None

    def put(self, index: int, translation: Translation) -> None:
        """Store the translation of an instance. The last one completes the request."""
        self._found[index] = translation
        self._missing -= 1
        if not self._missing and not self.cancelled:
            self._on_end(self)
            if not self.translations.done():
                self.translations.set_result([each for each in self._found if each is not None])

    def fail(self, error: BaseException) -> None:
        """Answer the request with an error, and cancel it."""
        if not self.translations.done():
            self.translations.set_exception(error)
        self.cancel()


@dataclass(frozen=True)
class QueuedInstance:
    """An instance of a request that waits or is searched."""

    request: PendingRequest
    index: int  # of the instance in the request
    instance: Instance
    retried: bool = False  # whether a search of it was lost before


@dataclass
class _Entry:
    """The waiting instances of one request that can be searched together, longest first."""

    request: PendingRequest
    key: SearchKey
    instances: deque[QueuedInstance]


class RequestQueue:
    """Requests that wait for searchers, on one event loop.

    Args:
        limits: how much a batch may hold.
        beam_size: the beam that `Limits.max_batch` is for; a batch with a wider one is smaller.
        searchers: how many searchers take batches.

    Attributes:
        waiting: instances in the queue.
    """

    def __init__(self, limits: Limits, beam_size: int, searchers: int) -> None:
        self.waiting = 0
        self._limits = limits
        self._beam_size = beam_size
        self._searchers = searchers
        self._ring: deque[_Entry] = deque()
        self._in_search = 0
        self._idle: list[asyncio.Future[None]] = []
        self._gathering = 0  # searchers that wait for the rest of a batch
        self._arrived = asyncio.Event()

    def put(self, key: SearchKey, instances: Iterable[QueuedInstance], *, at_front: bool = False) -> None:
        """Add instances of one request that can be searched together, longest first, and wake a searcher."""
        entry = _Entry((every := deque(instances))[0].request, key, every)
        self.waiting += len(every)
        if at_front:
            self._ring.appendleft(entry)
        else:
            self._ring.append(entry)
        if self._gathering:
            self._arrived.set()
        else:
            self._wake()

    def remove(self, request: PendingRequest) -> None:
        """Remove a request."""
        self._ring = deque(entry for entry in self._ring if entry.request is not request)
        self.waiting = sum(len(entry.instances) for entry in self._ring)

    def ahead(self, size: int) -> int:
        """Queued instances that are searched before the last of a request of `size`, besides one of each request."""
        if self.waiting == len(self._ring):
            return 0
        share = math.ceil(size / self._limits.turn) * self._limits.turn
        return sum(min(len(entry.instances), share) - 1 for entry in self._ring)

    async def take(self, expected: int) -> tuple[SearchKey, list[QueuedInstance]]:
        """Wait for requests and take a batch of them; `finished` must be called after its search.

        A batch waits at most `Limits.max_wait` until it has as many requests as are expected.

        Args:
            expected: requests of the searcher's last batch, for their clients are likely to ask again. A lone client
                never waits.

        Returns:
            What the instances have in common, and the instances, longest first.
        """
        while True:
            if self._ring:
                await self._gather(expected)
                if self._ring:  # another searcher may have taken them
                    key = self._ring[0].key
                    batch = self._take(key)
                    self._in_search += len(batch)
                    if self._ring:
                        self._wake()
                    return key, batch
            else:
                self._idle.append(asyncio.get_running_loop().create_future())
                await self._idle[-1]

    def finished(self, batch: Sequence[QueuedInstance]) -> None:
        """Note that a batch is no longer searched."""
        self._in_search -= len(batch)

    def _wake(self) -> None:
        """Wake the idle searcher that worked last: its caches are warm."""
        while self._idle:
            if not (idle := self._idle.pop()).done():
                idle.set_result(None)
                return

    async def _gather(self, expected: int) -> None:
        """Wait until a batch has as many requests as are expected, or is full, but not longer than `max_wait`."""
        if self._is_gathered(expected):
            return
        self._gathering += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.max_wait):
                    while not self._is_gathered(expected):
                        self._arrived.clear()
                        await self._arrived.wait()
        finally:
            self._gathering -= 1

    def _is_gathered(self, expected: int) -> bool:
        return len(self._ring) >= expected or self.waiting >= self._limits.max_batch

    def _take(self, key: SearchKey) -> list[QueuedInstance]:
        """A batch in fair turns, longest first, starting with the request at the front.

        It leaves the other searchers their share. Otherwise clients that ask again as soon as they are answered would
        gather in the batches of one searcher.
        """
        room = max(1, self._limits.max_batch * self._beam_size // max(self._beam_size, key[0] or 1))
        room = min(room, max(_SMALL_BATCH, math.ceil((self.waiting + self._in_search) / self._searchers)))
        batch: list[QueuedInstance] = []
        longest, others, full = 0, list[_Entry](), False
        while self._ring and not full:
            entry = self._ring.popleft()
            if entry.key != key:
                others.append(entry)
                continue
            before = len(batch)
            for _ in range(min(self._limits.turn, len(entry.instances))):
                longest = max(longest, len(entry.instances[0].instance.ids))
                full = len(batch) == room or longest * (len(batch) + 1) > self._limits.max_batch_tokens
                if batch and full:
                    break
                batch.append(entry.instances.popleft())
            if len(batch) == before:
                self._ring.appendleft(entry)
            elif entry.instances:
                self._ring.append(entry)
        self._ring.extendleft(reversed(others))
        self.waiting -= len(batch)
        return sorted(batch, key=lambda each: -len(each.instance.ids))
