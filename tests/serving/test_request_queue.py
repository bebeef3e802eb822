"""The request queue by itself; `test_batcher.py` has it with searchers."""

import asyncio
import time

from seqwright.serving.limits import Limits
from seqwright.serving.request_queue import PendingRequest, QueuedInstance, RequestQueue
from tests.serving.bench import instance

KEY = (5, False)


def put(queue: RequestQueue) -> None:
    request = PendingRequest(1, lambda _: None)
    queue.put(KEY, [QueuedInstance(request, 0, instance([5]))])


def test_a_searcher_that_finds_nothing_left_of_what_it_waited_for_does_not_stop_the_loop() -> None:
    async def run() -> float:
        queue = RequestQueue(Limits(max_wait=20), 5, searchers=2)
        put(queue)
        first, second = (asyncio.create_task(queue.take(2)) for _ in range(2))
        await asyncio.sleep(0)
        put(queue)
        started = time.monotonic()
        _, batch = await first
        assert len(batch) == 2
        await asyncio.sleep(0.01)
        took = time.monotonic() - started
        assert not second.done()
        put(queue)
        put(queue)
        _, batch = await second
        assert len(batch) == 2
        return took

    assert asyncio.run(run()) < 2


def test_a_searcher_that_was_cancelled_is_not_woken_instead_of_another() -> None:
    async def run() -> None:
        queue = RequestQueue(Limits(), 5, searchers=2)
        first, second = (asyncio.create_task(queue.take(1)) for _ in range(2))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        put(queue)
        _, batch = await asyncio.wait_for(first, 10)
        assert len(batch) == 1

    asyncio.run(run())
