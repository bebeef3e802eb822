"""The line by itself; `test_batcher.py` has it with searchers."""

import asyncio
import time

from seqwright.serving.limits import Limits
from seqwright.serving.line import Item, Line
from seqwright.serving.ticket import Ticket
from tests.serving.test_batcher import instance

KEY = (5, False)


def put(line: Line) -> None:
    ticket = Ticket(1, 0.0, lambda _: None)
    line.put(ticket, KEY, [Item(ticket, 0, instance([5]))])


def test_a_searcher_that_finds_nothing_left_of_what_it_waited_for_does_not_stop_the_loop() -> None:
    async def run() -> float:
        line = Line(Limits(max_wait=20), 5, takers=2)
        put(line)
        first, second = (asyncio.create_task(line.get(2)) for _ in range(2))
        await asyncio.sleep(0)
        put(line)
        started = time.monotonic()
        batch = await first
        assert batch is not None
        assert len(batch[1]) == 2
        await asyncio.sleep(0.01)
        took = time.monotonic() - started
        assert not second.done()
        put(line)
        put(line)
        assert await second is not None
        return took

    assert asyncio.run(run()) < 2
