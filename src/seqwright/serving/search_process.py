"""A translator in a process of its own.

Search is a long chain of small tensor operations, each of which lets go of Python's interpreter lock and must get it
back. Beside the work of HTTP in the same process that costs half of the throughput; apart, they run on two cores.
"""

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import pickle
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch

from seqwright.data.vocabulary import UNK, Vocabulary
from seqwright.errors import AlgorithmError, ClientError
from seqwright.hyperparameters import Hyperparameters
from seqwright.inference.translator import Translation, Translator
from seqwright.processes import starting
from seqwright.serving.searcher import Batch, Found, News

_LOGGER = logging.getLogger(__name__)

_FEW = 2
"""Sentences of a batch that gains by the whole processor, while nobody else searches."""

_LEAVE_SECONDS = 5.0
"""Seconds that a process has to end by itself, a step of its search included."""

_HOLD_SECONDS = 0.003
"""From the step that found a translation, how long it waits for others of its batch, to be sent with them: each message
takes time from the searches, and so do clients that ask again one by one. After a longer step it does not wait."""

_NICENESS = 5
"""By how much search yields to HTTP, whose work is short and holds up everyone."""


@dataclass(frozen=True)
class _Model:
    """What the process says of its model when it is ready."""

    settings: Hyperparameters
    source_vocabulary: Vocabulary
    device: str


@dataclass(frozen=True)
class _Answer:
    """What the process sends.

    Attributes:
        number: the batch's.
        found: the positions and translations of the searches that a step ended.
        is_last: whether that was the end of the batch: said with its last translations, for a client that asks again
            as soon as it has its answer is to find this process free.
        failure: what went wrong.
    """

    number: int
    found: list[tuple[int, Translation]]
    is_last: bool = False
    failure: str | None = None


class SearchProcess:
    """A translator in a process of its own. A process that dies is started again.

    Args:
        model: a model folder or `model.tar.gz`.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`.
        share: processes that share the processor. A search of one or two sentences has all of its threads while no
            other runs, any other search one such part of them: two that use every core do not take turns, each spins
            while it waits for its own preempted threads.

    Raises:
        ClientError: the model is missing or damaged, or the device or precision is not to be had.
    """

    def __init__(self, model: Path, device: str = "auto", precision: str = "auto", share: int = 1) -> None:
        self._arguments = (model, device, precision, share)
        self._link: _Link | None = None
        self._linking = asyncio.Lock()
        self._receivers: dict[int, Callable[[_Answer], None]] = {}
        self._told: News | None = None
        self._socket, self._process, self._model = self._start()

    @property
    def settings(self) -> Hyperparameters:
        """The model's hyperparameters."""
        return self._model.settings

    @property
    def source_vocabulary(self) -> Vocabulary:
        """The model's source tokens and ids."""
        return self._model.source_vocabulary

    @property
    def device(self) -> str:
        """Where the model runs."""
        return self._model.device

    async def search(self, number: int, batch: Batch, news: News, found: Found) -> None:
        """As `Searcher.search`.

        Raises:
            AlgorithmError: the search failed, or its process died.
        """
        link = await self._linked()
        ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        def receive(answer: _Answer) -> None:
            if answer.is_last:
                ended.set_result(answer.failure)
            for position, translation in answer.found:
                found(position, translation)

        def lose(_: asyncio.Future[None]) -> None:
            if not ended.done():
                ended.set_exception(AlgorithmError("the search process ended, for want of memory perhaps"))

        self._receivers[number] = receive
        self._told = news
        link.send((number, batch, news))
        link.lost.add_done_callback(lose)
        try:
            failure = await ended
        except AlgorithmError:
            await self._linked()
            raise
        finally:
            del self._receivers[number]
            link.lost.remove_done_callback(lose)
        if failure is not None:
            raise AlgorithmError(f"the search failed:\n{failure}")

    def tell(self, news: News) -> None:
        """As `Searcher.tell`."""
        if self._link and news != self._told:
            self._told = news
            self._link.send(news)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):  # it is not connected where the process has ended
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._process.join(_LEAVE_SECONDS)
        self._process.kill()
        self._process.join()

    async def _linked(self) -> "_Link":
        """The way to a process that is there, on the running event loop: to another in the place of one that ended."""
        if self._link and not self._link.lost.done():
            return self._link
        async with self._linking:
            if self._link and self._link.lost.done():
                self.close()
                self._link = None
                _LOGGER.error("the search process ended (exit code %s): starting another", self._process.exitcode)
                self._socket, self._process, self._model = await asyncio.to_thread(self._start)
            if self._link is None:
                loop = asyncio.get_running_loop()
                _, self._link = await loop.create_unix_connection(_Link, sock=self._socket.dup())
                self._link.receive = lambda answer: self._receivers[answer.number](answer)
            return self._link

    def _start(self) -> tuple[socket.socket, BaseProcess, _Model]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *self._arguments), name="seqwright-search", daemon=True)
        with starting():
            process.start()
        theirs.close()
        with ours:
            try:
                model: _Model | ClientError = ours.recv()
            except EOFError as error:
                raise AlgorithmError("the search process ended while it loaded the model") from error
            except BaseException:
                process.kill()
                raise
            if isinstance(model, ClientError):
                process.join()
                raise model
            return socket.socket(fileno=os.dup(ours.fileno())), process, model


class _Link(asyncio.Protocol):
    """The event loop's end of a `multiprocessing.Connection`: reads and writes without waiting, however much it is.

    A message is its length in four bytes, or -1 and its length in eight, and a pickle.

    Attributes:
        receive: told of every message that comes.
        lost: done when the other side has closed.
    """

    def __init__(self) -> None:
        self.receive: Callable[[Any], None] = lambda _: None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to write."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Hand on the messages that are complete."""
        self._buffer += data
        while (message := self._next()) is not None:
            self.receive(pickle.loads(message))  # noqa: S301 - of a process of our own

    def send(self, message: object) -> None:
        """Send a message; to one that has ended, nothing."""
        assert self._transport is not None  # noqa: S101 - asyncio calls `connection_made` first
        content = pickle.dumps(message)
        head = _SHORT.pack(len(content)) if len(content) <= _LONGEST else _SHORT.pack(-1) + _LONG.pack(len(content))
        self._transport.write(head + content)

    def _next(self) -> bytes | None:
        """The message at the head of the buffer, taken from it; None while it is not complete."""
        start = _SHORT.size
        if len(self._buffer) < start:
            return None
        (size,) = _SHORT.unpack_from(self._buffer)
        if size < 0:
            start += _LONG.size
            if len(self._buffer) < start:
                return None
            (size,) = _LONG.unpack_from(self._buffer, _SHORT.size)
        if len(self._buffer) < start + size:
            return None
        message = bytes(memoryview(self._buffer)[start : start + size])
        del self._buffer[: start + size]
        return message


_SHORT, _LONG, _LONGEST = struct.Struct("!i"), struct.Struct("!Q"), (1 << 31) - 1


def _serve(connection: Connection, model: Path, device: str, precision: str, share: int) -> None:
    """The process: load, translate once so that the first request is not slow, and search until the pipe closes."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICENESS)
    try:
        translator = Translator.load(model, device, precision)
        translator.translate_ids([[UNK]])
    except ClientError as error:
        connection.send(error)
        return
    worker = _Worker(translator, share)
    gc.freeze()
    with contextlib.suppress(EOFError, OSError):
        connection.send(_Model(translator.settings, translator.source_vocabulary, str(translator.device)))
        while True:
            while not worker.is_busy or connection.poll():
                message: tuple[int, Batch, News] | News = connection.recv()
                if isinstance(message, tuple):
                    worker.begin(*message)
                else:
                    worker.hear(message)
            if answer := worker.step():
                connection.send(answer)


@dataclass
class _Search:
    """A search that runs.

    Attributes:
        number: its batch's.
        size: sources.
        found: what was found and not yet sent.
        due: when that is sent, by `time.perf_counter`, unless the search ends before.
        steps: takes a step when asked for the next.
        used: seconds of its steps, and what the one had used that had used the least when this one began.
    """

    number: int
    size: int
    found: list[tuple[int, Translation]]
    steps: Iterator[None]
    used: float
    due: float = 0.0


class _Worker:
    """The process at work. Searches that run at once have equal shares of its time, whatever their steps cost."""

    def __init__(self, translator: Translator, share: int) -> None:
        self._translator = translator
        self._threads = torch.get_num_threads()
        self._share = max(1, self._threads // share)
        self._news = News()
        self._running: list[_Search] = []

    @property
    def is_busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self._running)

    def begin(self, number: int, batch: Batch, news: News) -> None:
        """Take on a batch. Its first step comes before any other's."""
        found: list[tuple[int, Translation]] = []

        def put(position: int, translation: Translation) -> None:
            found.append((position, translation))

        steps = batch.steps(self._translator, put, lambda: self._news.abandoned.get(number, ()))
        used = min((each.used for each in self._running), default=0.0)
        self._running.insert(0, _Search(number, len(batch.sources), found, steps, used))
        self.hear(news)

    def hear(self, news: News) -> None:
        """Take note of what is new."""
        self._news = news
        few = sum(each.size for each in self._running) <= _FEW
        torch.set_num_threads(self._threads if news.alone and few else self._share)

    def step(self) -> _Answer | None:
        """Take one step of the search that has used the least time; what there is to send then."""
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
        answer = _Answer(search.number, search.found.copy(), is_last, failure)
        search.found.clear()
        return answer


_END = object()
