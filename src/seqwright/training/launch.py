"""Starting the processes of one host that train together, and ending them together."""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

import torch

from seqwright.errors import AlgorithmError, SeqwrightError
from seqwright.processes import starting
from seqwright.training.parallel import TIMEOUT, LostContactError, Place
from seqwright.training.progress import Progress

if TYPE_CHECKING:  # not everywhere is there a fork server
    from multiprocessing.context import ForkServerContext, SpawnContext

logger = logging.getLogger(__name__)

_GRACE = 10.0
"""Seconds that processes have to end, and to say what was wrong with them, after one has failed."""

IMPORTED_ONCE = ["seqwright.training.job", "torch._dynamo"]
"""What a server process imports, seconds of work, before it forks all others; optimizers need the second."""

Work = Callable[[Place, Callable[[], bool]], Progress]
"""What every process does: told its place, and how to ask whether to stop."""


@dataclass(frozen=True)
class Hosts:
    """All hosts that train together.

    Attributes:
        count: how many there are.
        number: which of them this is.
        name: what it is called.
        address: host and port where all processes meet, the first host's; None, on a single host, for a free port.
        timeout: seconds that processes wait for each other.
    """

    count: int = 1
    number: int = 0
    name: str = "localhost"
    address: tuple[str, int] | None = None
    timeout: float = TIMEOUT


def run_processes(work: Work, count: int, stop_requested: Callable[[], bool], hosts: Hosts | None = None) -> Progress:
    """Do `work` in `count` processes of this host, as many as every other host has, and return what the first gives.

    Where one fails all end, and the error is its own, not that of those who lost it. They also end with this process,
    however it ends. Signals are for this process; it hands on what `stop_requested` says.

    Args:
        work: importable by name, its arguments picklable: `functools.partial` of a module's function.
        count: the processes.
        stop_requested: asked all the time.
        hosts: the hosts, where there are others.

    Raises:
        SeqwrightError: what a process raised.
        AlgorithmError: a process raised something else, or was killed.
    """
    hosts = hosts or Hosts()
    address = hosts.address or ("127.0.0.1", _free_port())
    context: ForkServerContext | SpawnContext = multiprocessing.get_context("spawn")
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED_ONCE)
        with starting():
            forkserver.ensure_running()
    processes: dict[Connection, BaseProcess] = {}
    threads = max(1, torch.get_num_threads() // count)
    try:
        for number in range(count):
            rank, size = hosts.number * count + number, hosts.count * count
            place = Place(rank, size, number, address, hosts.name, hosts.timeout)
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_run, args=(work, place, threads, theirs), name=f"seqwright-train-{rank}", daemon=True
            )
            process.start()
            theirs.close()
            processes[ours] = process
        return _watch(processes, stop_requested)
    finally:
        for connection, ended in processes.items():
            ended.kill()  # they leave nothing half-written: that is done, or they have failed
            ended.join()
            connection.close()


def _watch(processes: dict[Connection, BaseProcess], stop_requested: Callable[[], bool]) -> Progress:
    """Wait for all processes: what the first gave, or the error that counts."""
    open_connections, answers = list(processes), list[Progress]()
    errors: list[SeqwrightError] = []
    first = open_connections[0]
    told, until = False, float("inf")
    while open_connections and time.monotonic() < until:
        if stop_requested() and not told:
            told = True
            for connection in open_connections:
                with contextlib.suppress(OSError):
                    connection.send("stop")
        for ready in wait(open_connections, timeout=0.2):
            assert isinstance(ready, Connection)  # noqa: S101 - what was waited for
            open_connections.remove(ready)
            try:
                answer: Progress | SeqwrightError = ready.recv()
            except (EOFError, OSError):
                processes[ready].join(_GRACE)
                answer = AlgorithmError(_how_it_ended(processes[ready]))
            if isinstance(answer, SeqwrightError):
                errors.append(answer)
                until = min(until, time.monotonic() + _GRACE)
            elif ready is first:
                answers.append(answer)
    if errors:
        raise min(errors, key=lambda error: isinstance(error, LostContactError))
    return answers[0]


def _listen(connection: Connection, stop: threading.Event) -> None:
    """Hear when to stop; and end where the process that started this one is no more."""
    with contextlib.suppress(EOFError, OSError):
        while connection.recv() == "stop":
            stop.set()
    os._exit(1)


def _how_it_ended(process: BaseProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{process.name} was ended by {name}" + (", for want of memory perhaps" if name == "SIGKILL" else "")
    return f"{process.name} ended without a result (exit code {code})"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(work: Work, place: Place, threads: int, connection: Connection) -> None:
    """A process: do the work and send what comes of it."""
    torch.set_num_threads(threads)
    stop = threading.Event()
    threading.Thread(target=_listen, args=(connection, stop), daemon=True).start()
    result: Progress | SeqwrightError
    try:
        result = work(place, stop.is_set)
    except SeqwrightError as error:
        result = error
    except Exception as error:
        logger.exception("process %d failed", place.rank)
        result = AlgorithmError(f"{type(error).__name__}: {error}")
    connection.send(result)
