"""Starting the processes of one host that train together, and ending them together."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import torch

from seqwright.errors import SeqwrightError
from seqwright.processes import ChildProcess, messages
from seqwright.training.parallel import TIMEOUT, LostContactError, Place
from seqwright.training.progress import Progress

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
    threads = max(1, torch.get_num_threads() // count)
    with contextlib.ExitStack() as stack:  # its end kills them: they leave nothing half-written, or have failed
        children = []
        for number in range(count):
            rank, size = hosts.number * count + number, hosts.count * count
            place = Place(rank, size, number, address, hosts.name, hosts.timeout)
            child = ChildProcess(_run, work, place, threads, name=f"seqwright-train-{rank}", preload=IMPORTED_ONCE)
            children.append(stack.enter_context(child))
        return _watch(children, stop_requested)


def _watch(children: list[ChildProcess], stop_requested: Callable[[], bool]) -> Progress:
    """Wait for all processes: what the first gave, or the error that counts."""
    running, answers = {child.connection: child for child in children}, list[Progress]()
    errors: list[SeqwrightError] = []
    told, until = False, float("inf")
    while running and time.monotonic() < until:
        if stop_requested() and not told:
            told = True
            for connection in running:
                with contextlib.suppress(OSError):  # the process has ended, for the reason that is received below
                    connection.send("stop")
        for ready in wait(list(running), timeout=0.2):
            assert isinstance(ready, Connection)  # noqa: S101 - what was waited for
            child = running.pop(ready)
            try:
                answer: Progress = child.receive()
            except SeqwrightError as error:
                errors.append(error)
                until = min(until, time.monotonic() + _GRACE)
            else:
                if child is children[0]:
                    answers.append(answer)
    if errors:
        raise min(errors, key=lambda error: isinstance(error, LostContactError))
    return answers[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(connection: Connection, work: Work, place: Place, threads: int) -> Progress:
    """In a process: do the work, and listen for the message to stop meanwhile."""
    torch.set_num_threads(threads)
    stop = threading.Event()

    def listen() -> None:
        for _ in messages(connection):
            stop.set()

    threading.Thread(target=listen, daemon=True).start()
    return work(place, stop.is_set)
