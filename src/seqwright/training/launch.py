"""Starting the training processes of one host, and ending them together."""

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
from seqwright.training.group import TIMEOUT, LostContactError, ProcessRank
from seqwright.training.progress import Progress

_GRACE = 10.0
"""Seconds that the other processes have to end and to report their errors after one has failed."""

PRELOADED = ["seqwright.training.preload"]
"""Imported once by the fork server, which takes seconds, before it forks the processes that train."""

Work = Callable[[ProcessRank, Callable[[], bool]], Progress]
"""What every process does, given its rank and a function that says whether to stop."""


@dataclass(frozen=True)
class Cluster:
    """The hosts that train together, as one of them sees them; by default this host is alone.

    Attributes:
        num_hosts: how many there are.
        host_rank: which of them this is, from 0.
        host_name: what this one is called in log lines and messages.
        address: name or address and port where all processes meet, on the host of rank 0; None, on a single host, for a
            free port.
        timeout: seconds that processes wait for each other.
    """

    num_hosts: int = 1
    host_rank: int = 0
    host_name: str = "localhost"
    address: tuple[str, int] | None = None
    timeout: float = TIMEOUT


def run_processes(
    work: Work, count: int, stop_requested: Callable[[], bool], cluster: Cluster | None = None
) -> Progress:
    """Do `work` in `count` new processes, as every other host does, and return the result of this host's first one.

    If one fails, all are ended, and its error is raised rather than those of the others, which lost contact with it.
    They also end with this process, however it ends. This process receives signals, and passes on `stop_requested`.

    Args:
        work: importable by name, with arguments that can be pickled: `functools.partial` of a module's function.
        count: how many processes.
        stop_requested: asked all the time.
        cluster: the hosts, if there are several.

    Raises:
        SeqwrightError: the error of a process.
        AlgorithmError: a process raised another exception, or was killed.
    """
    cluster = cluster or Cluster()
    address = cluster.address or ("127.0.0.1", _free_port())
    threads = max(1, torch.get_num_threads() // count)
    with contextlib.ExitStack() as stack:  # at its end they are killed: they have written everything, or have failed
        children = []
        for number in range(count):
            rank, size = cluster.host_rank * count + number, cluster.num_hosts * count
            process_rank = ProcessRank(rank, size, number, address, cluster.host_name, cluster.timeout)
            child = ChildProcess(_run, work, process_rank, threads, name=f"seqwright-train-{rank}", preload=PRELOADED)
            children.append(stack.enter_context(child))
        return _watch(children, stop_requested)


def _watch(children: list[ChildProcess], stop_requested: Callable[[], bool]) -> Progress:
    """Wait for all processes, and return the result of the first or raise the error that explains the others."""
    running, results = {child.connection: child for child in children}, list[Progress]()
    errors: list[SeqwrightError] = []
    has_been_told, until = False, float("inf")
    while running and time.monotonic() < until:
        if stop_requested() and not has_been_told:
            has_been_told = True
            for connection in running:
                with contextlib.suppress(OSError):  # the process has ended, for the reason that is received below
                    connection.send("stop")
        for ready in wait(list(running), timeout=0.2):
            assert isinstance(ready, Connection)  # noqa: S101 - what was waited for
            child = running.pop(ready)
            try:
                result: Progress = child.receive()
            except SeqwrightError as error:
                errors.append(error)
                until = min(until, time.monotonic() + _GRACE)
            else:
                if child is children[0]:
                    results.append(result)
    if errors:
        raise min(errors, key=lambda error: isinstance(error, LostContactError))
    return results[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(connection: Connection, work: Work, process_rank: ProcessRank, threads: int) -> Progress:
    """In a process: do the work, and listen for the message to stop meanwhile."""
    torch.set_num_threads(threads)
    stop = threading.Event()

    def listen() -> None:
        for _ in messages(connection):
            stop.set()

    threading.Thread(target=listen, daemon=True).start()
    return work(process_rank, stop.is_set)
