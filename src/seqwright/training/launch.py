"""Starting the training processes of one host, and ending them together."""

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
from seqwright.training.group import TIMEOUT, LostContactError, ProcessRank
from seqwright.training.progress import Progress

if TYPE_CHECKING:  # not everywhere is there a fork server
    from multiprocessing.context import ForkServerContext, SpawnContext

logger = logging.getLogger(__name__)

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
    context: ForkServerContext | SpawnContext = multiprocessing.get_context("spawn")
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        with starting():
            forkserver.ensure_running()
    processes: dict[Connection, BaseProcess] = {}
    threads = max(1, torch.get_num_threads() // count)
    try:
        for number in range(count):
            rank, size = cluster.host_rank * count + number, cluster.num_hosts * count
            process_rank = ProcessRank(rank, size, number, address, cluster.host_name, cluster.timeout)
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_run, args=(work, process_rank, threads, theirs), name=f"seqwright-train-{rank}", daemon=True
            )
            process.start()
            theirs.close()
            processes[ours] = process
        return _watch(processes, stop_requested)
    finally:
        for connection, ended in processes.items():
            ended.kill()  # either they have sent their result and written everything, or they have failed
            ended.join()
            connection.close()


def _watch(processes: dict[Connection, BaseProcess], stop_requested: Callable[[], bool]) -> Progress:
    """Wait for all processes; returns the result of the first, or raises the error that explains the others."""
    running, results, errors = list(processes), list[Progress](), list[SeqwrightError]()
    first = running[0]
    is_stop_sent, deadline = False, float("inf")
    while running and time.monotonic() < deadline:
        if stop_requested() and not is_stop_sent:
            is_stop_sent = True
            for connection in running:
                with contextlib.suppress(OSError):
                    connection.send("stop")
        for ready in wait(running, timeout=0.2):
            assert isinstance(ready, Connection)  # noqa: S101 - only connections are waited for
            running.remove(ready)
            try:
                result: Progress | SeqwrightError = ready.recv()
            except (EOFError, OSError):
                processes[ready].join(_GRACE)
                result = AlgorithmError(_describe_end(processes[ready]))
            if isinstance(result, SeqwrightError):
                errors.append(result)
                deadline = min(deadline, time.monotonic() + _GRACE)
            elif ready is first:
                results.append(result)
    if errors:
        raise min(errors, key=lambda error: isinstance(error, LostContactError))
    return results[0]


def _listen(connection: Connection, stop: threading.Event) -> None:
    """Set `stop` when told to; end this process when the one that started it has ended."""
    with contextlib.suppress(EOFError, OSError):
        while connection.recv() == "stop":
            stop.set()
    os._exit(1)


def _describe_end(process: BaseProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{process.name} was ended by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
    return f"{process.name} ended without a result (exit code {code})"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(work: Work, process_rank: ProcessRank, threads: int, connection: Connection) -> None:
    """The main function of a process: do the work and send the result or the error."""
    torch.set_num_threads(threads)
    stop = threading.Event()
    threading.Thread(target=_listen, args=(connection, stop), daemon=True).start()
    result: Progress | SeqwrightError
    try:
        result = work(process_rank, stop.is_set)
    except SeqwrightError as error:
        result = error
    except Exception as error:
        logger.exception("process %d failed", process_rank.rank)
        result = AlgorithmError(f"{type(error).__name__}: {error}")
    connection.send(result)
