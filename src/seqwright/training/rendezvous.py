"""How the processes that train together meet, and how the loss of one is recognised and reported."""

import contextlib
import datetime
import json
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from seqwright.errors import ClientError
from seqwright.interrupts import wait_unless_stopped
from seqwright.training.group import Group, LostContactError, ProcessRank

_LOOKUP_INTERVAL = 0.5
"""Seconds between two look-ups of a host name that is not known yet."""

_SIOCGIFADDR = 0x8915
"""Linux's request for the address of a network interface."""


@contextlib.contextmanager
def join_group(
    process: ProcessRank | None, device: torch.device, stop_requested: Callable[[], bool] = lambda: False
) -> Iterator[Group]:
    """Meet the other processes, and yield the group of all.

    Args:
        process: this process's rank; None if it is alone.
        device: where the model runs.
        stop_requested: asked while the others are waited for.

    Raises:
        StopRequested: `stop_requested` returned True.
        ClientError: the others were not met in time.
        LostContactError: within the context, another process ended or cannot be reached. Where there are several hosts,
            its message names the host.
    """
    if process is None or process.size == 1:
        yield Group(device=device)
        return
    address = _meet(process, device, stop_requested)
    hosts: list[_Host] = []
    try:
        group = Group(process.rank, process.size, process.local_rank, device)
        hosts = [_Host(*json.loads(each)) for each in group.gather(json.dumps([process.host, address]).encode())]
        yield group
    except RuntimeError as error:
        if not _is_lost_contact(error):
            raise
        message = f"lost contact with {_name_lost(str(error), hosts, process.rank)} ({_first_line(error)})"
        raise LostContactError(message) from error
    finally:
        dist.destroy_process_group()


def _meet(process: ProcessRank, device: torch.device, stop_requested: Callable[[], bool]) -> str:
    """Make PyTorch's process group with the others; returns the address by which they know this host."""
    host, port = process.address

    def meet() -> str:
        address = _own_address(host, port, time.monotonic() + process.timeout)
        if (interface := _interface_of(address)) is not None:
            # Without this, gloo takes the interface that the name of this host resolves to, if it resolves at all.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        if device.type == "cpu":
            _schedule_as_batch()
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{host}:{port}",
            rank=process.rank,
            world_size=process.size,
            timeout=datetime.timedelta(seconds=process.timeout),
        )
        return address

    try:
        return wait_unless_stopped(meet, stop_requested, grace=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClientError(
            f"process {process.rank} of {process.size} did not meet the others at {host}:{port} within "
            f"{process.timeout:g} seconds: is that host up and reachable, and were all started? ({_first_line(error)})"
        ) from error


def _schedule_as_batch() -> None:
    """Let the threads that this thread starts from now on wait for a free processor instead of interrupting others.

    gloo's threads wake up for every 64 KB that arrive; without this they interrupt the threads that compute. Their
    share of processor time stays the same. Does nothing where the system is not Linux or does not allow it.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@dataclass(frozen=True)
class _Host:
    """The name of a process's host, and the address by which the others know it."""

    name: str
    address: str

    def __str__(self) -> str:
        return f"host {self.name} ({self.address})"


def _own_address(host: str, port: int, deadline: float) -> str:
    """The address from which this host reaches another, whose name may become known only after a while."""
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            break
        except socket.gaierror:
            if time.monotonic() + _LOOKUP_INTERVAL > deadline:
                raise
            time.sleep(_LOOKUP_INTERVAL)
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # a datagram socket: nothing is sent
        return str(probe.getsockname()[0])


def _interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where that cannot be found out."""
    try:
        import fcntl
    except ModuleNotFoundError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


def _is_lost_contact(error: RuntimeError) -> bool:
    """Whether an exchange between processes failed: PyTorch's own error for it, or a message from gloo or NCCL.

    gloo's errors are plain `RuntimeError`s. Their message starts with the place in gloo's source, but for the one of a
    time-out: "Application timeout caused pair closure". Any other time-out says nothing: CUDA has some of its own.
    """
    signs = r"\bgloo/|\bnccl|\bpair closure\b"
    return isinstance(error, dist.DistError) or bool(re.search(signs, str(error), re.IGNORECASE))


def _name_lost(message: str, hosts: Sequence[_Host], rank: int) -> str:
    """Which host was lost: the one whose address the message has, or else all hosts of other processes."""
    others = list(dict.fromkeys(str(host) for number, host in enumerate(hosts) if number != rank))
    named = [name for host in hosts if host.address in message and (name := str(host)) in others]
    if len({host.address for host in hosts}) <= 1:
        return "another process of this host"
    return named[0] if named else " or ".join(others)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
