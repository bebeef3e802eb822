"""A searcher in a process of its own, which is replaced when it dies or stops.

Search is a long chain of small tensor operations, each of which releases Python's interpreter lock and must get it
back. Beside the work of HTTP in the same process that costs half of the throughput; apart, they run on two cores.

The endpoint keeps a copy of the model. Every process gets it from there, so that all that ever search have the same
model, whatever happens to its files.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from seqwright.errors import AlgorithmError, SeqwrightError
from seqwright.processes import ChildProcess
from seqwright.serving.search_loop import SearchResult, run_searches
from seqwright.serving.searcher import ModelDescription, OnFound, SearchBatch, SearcherLostError, SearchUpdate

_LOGGER = logging.getLogger(__name__)

_START_SECONDS = 300.0  # that a process may take to start, on a machine that is busy
_CHECK_SECONDS = 1.0  # from one check for a sign of life to the next; a process gives one as often
_MAX_SILENT_CHECKS = 10  # checks without a sign of life after which a process is replaced
_MAX_RESTART_SECONDS = 30.0  # between two attempts to start a process; the first pause is a second, the next two


class SearchProcess:
    """A searcher in a process of its own; see `Searcher`.

    A process that dies, or gives no sign of life for ten seconds, is killed and another is started. Its searches raise
    `SearcherLostError`.

    Args:
        model: what the endpoint must know of the model.
        pickled: the model, a pickled `TrainedModel`.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`.
        processes: how many processes share the processor, this one included.

    Attributes:
        healthy: false if the last attempt to start a process failed.
        device: where the model runs.

    Raises:
        ClientError: the device or precision is not available.
    """

    def __init__(
        self, model: ModelDescription, pickled: bytes, device: str = "auto", precision: str = "auto", processes: int = 1
    ) -> None:
        self.model = model
        self.healthy = True
        self.device = ""
        self._pickled = pickled
        self._arguments = (device, precision, processes)
        self.ready = asyncio.Event()
        self._searches: dict[int, tuple[asyncio.Future[None], OnFound]] = {}  # by the numbers of the batches
        self._last_update: SearchUpdate | None = None
        self._heard = False  # a sign of life since the last check
        self._closed = False
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="seqwright-send")  # a full pipe makes it wait
        self._starting = threading.Lock()  # held while a process is started, so that `close` misses none
        self._start()

    async def watch(self, on_unhealthy: Callable[[], None]) -> None:
        """As `Searcher.watch`."""
        while not self._closed:
            self.ready.set()
            reason = await self._listen()
            self.ready.clear()
            _LOGGER.error("%s: starting another", reason)
            for ended, _ in self._searches.values():
                if not ended.done():
                    ended.set_exception(SearcherLostError(reason))
            await self._restart(on_unhealthy)

    async def search(self, number: int, batch: SearchBatch, update: SearchUpdate, on_found: OnFound) -> None:
        """As `Searcher.search`; raises `AlgorithmError` if the search failed."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._searches[number] = ended, on_found
        self._last_update = update
        self._send((number, batch, update))
        try:
            await ended
        finally:
            del self._searches[number]

    def tell(self, update: SearchUpdate) -> None:
        """As `Searcher.tell`."""
        if self.ready.is_set() and update != self._last_update:
            self._last_update = update
            self._send(update)

    def close(self) -> None:
        """End the process."""
        with self._starting:
            self._closed = True
            self._child.kill()  # before its connection is closed: a thread may read from that
        self._sender.shutdown()

    def _start(self) -> None:
        """Start a process and wait until it has loaded the model."""
        with self._starting:
            if self._closed:
                return
            self._child = child = ChildProcess(run_searches, *self._arguments, name="the search process")
        try:
            child.send(self._pickled)
            if not child.connection.poll(_START_SECONDS):
                raise AlgorithmError(f"the search process did not start within {_START_SECONDS:g} seconds")
            self.device = child.receive()
        except BaseException:
            child.close()
            raise

    async def _start_in_thread(self) -> Exception | None:
        """Start a process in a thread that the end of the endpoint does not wait for; the error if that fails."""
        loop = asyncio.get_running_loop()
        started: asyncio.Future[Exception | None] = loop.create_future()

        def start() -> None:
            error: Exception | None = None
            try:
                self._start()
            except (SeqwrightError, OSError) as caught:
                error = caught
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(started.set_result, error)

        threading.Thread(target=start, daemon=True).start()
        return await asyncio.shield(started)

    async def _restart(self, on_unhealthy: Callable[[], None]) -> None:
        """Start another process, with growing pauses until that succeeds."""
        pause = 1.0
        while not self._closed:
            error = await self._start_in_thread()
            if error is None:
                self.healthy = True
                return
            if not self._closed:
                _LOGGER.error("cannot start another search process, trying again in %g seconds: %s", pause, error)
                self.healthy = False
                on_unhealthy()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_RESTART_SECONDS)

    async def _listen(self) -> str:
        """Receive messages until the process ends; kill it if it gives no sign of life. Returns why it ended."""
        loop, child = asyncio.get_running_loop(), self._child
        ended: asyncio.Future[str] = loop.create_future()

        def read() -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                try:
                    while True:
                        loop.call_soon_threadsafe(self._receive, child.receive())
                except SeqwrightError as error:
                    loop.call_soon_threadsafe(ended.set_result, str(error))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        silent = 0
        while not ended.done():
            await asyncio.wait([ended], timeout=_CHECK_SECONDS)
            silent = 0 if self._heard else silent + 1
            self._heard = False
            if silent == _MAX_SILENT_CHECKS and not ended.done():
                _LOGGER.error("the search process gives no sign of life")
                await asyncio.to_thread(child.kill)
        await asyncio.to_thread(reader.join)
        child.close()
        return ended.result()

    def _receive(self, result: SearchResult | None) -> None:
        """Take in a message of the process."""
        self._heard = True
        if result is None or result.number not in self._searches:
            return
        ended, on_found = self._searches[result.number]
        if ended.done():
            return
        if result.failure is not None:
            ended.set_exception(AlgorithmError(f"the search failed:\n{result.failure}"))
        elif result.is_last:
            ended.set_result(None)
        for position, translation in result.found:
            on_found(position, translation)

    def _send(self, message: object) -> None:
        """Send a message to the process without waiting; one that has ended gets nothing."""
        connection = self._child.connection

        def send() -> None:
            with contextlib.suppress(OSError):
                connection.send(message)

        self._sender.submit(send)
