"""Data-parallel training: what the processes that train one model together exchange.

Every process has the whole model and a share of every batch. Gradients are summed while the backward pass still runs
(Li et al. 2020), each of the loss over the target tokens of the whole batch, so that the update is that of one process.
Of the token embeddings only the rows of the batch's tokens have a gradient: those rows are summed, and not the whole
tables. PyTorch's `DistributedDataParallel` does neither sums nor rows, and copies every gradient into its buckets.
Content that is no tensor travels as bytes: nothing is unpickled.
"""

import contextlib
import datetime
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from seqwright.errors import AlgorithmError, ClientError
from seqwright.interrupts import wait_unless_stopped

TIMEOUT = 600.0
"""Seconds that a process waits for the others before it gives them up."""

_SMALL = 1 << 14
"""Elements of a gradient that is not worth an exchange of its own."""


class LostContactError(AlgorithmError):
    """Another process ended or cannot be reached: that one knows why, if anyone does."""


@dataclass(frozen=True)
class Place:
    """Where a process stands among all.

    Attributes:
        rank: its number among all processes.
        size: how many there are.
        local_rank: its number among those of its host.
        address: name or address and port where they meet, those of the first process's host.
        host: what this process's host is called.
        timeout: seconds to wait for each other.
    """

    rank: int
    size: int
    local_rank: int
    address: tuple[str, int]
    host: str = "localhost"
    timeout: float = TIMEOUT

    @classmethod
    def of_torchrun(cls, timeout: float = TIMEOUT) -> "Place | None":
        """The place that `torchrun` gave this process; None where it did not start it."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return cls(rank, size, local_rank, address, socket.gethostname(), timeout)


@dataclass(frozen=True)
class Group:
    """The processes that train together, as one of them sees them; alone unless told otherwise.

    Every method must be called by all of them, in the same order.

    Attributes:
        rank: this process's number.
        size: how many there are.
        local_rank: this process's number on its host.
        device: where tensors that are exchanged must be.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """The sums over all processes, in double precision."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def broadcast(self, content: bytes) -> bytes:
        """What the leading process gives; what the others give is ignored."""
        if self.size == 1:
            return content
        size = torch.tensor(len(content), device=self.device)
        dist.broadcast(size, 0)
        if not int(size):
            return b""
        carrier = _tensor_of(content if self.leads else bytes(int(size)), self.device)
        dist.broadcast(carrier, 0)
        return carrier.cpu().numpy().tobytes()

    def gather(self, content: bytes) -> list[bytes]:
        """What every process gives, by rank."""
        if self.size == 1:
            return [content]
        sizes = [torch.zeros(1, dtype=torch.long, device=self.device) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(content)], device=self.device))
        longest = max(1, *(int(size) for size in sizes))
        carriers = [torch.zeros(longest, dtype=torch.uint8, device=self.device) for _ in range(self.size)]
        dist.all_gather(carriers, _tensor_of(content.ljust(longest, b"\0"), self.device))
        return [carrier[: int(size)].cpu().numpy().tobytes() for carrier, size in zip(carriers, sizes, strict=True)]

    def align(self, parameters: Iterable[Tensor]) -> None:
        """Give every process the leading one's parameters."""
        for parameter in parameters if self.size > 1 else ():
            dist.broadcast(parameter.data, 0)

    def take_turns(self) -> Iterator[bool]:
        """Twice, once with True: first for one process of each host, then for the others."""
        for turn in (True, False):
            yield turn == (self.local_rank == 0)
            self.sum(0)


class GradientSums:
    """The gradients of a model, summed over all processes while its backward pass makes them; nothing where alone.

    A gradient is on its way as soon as it is complete, and stays where the backward pass put it. Small ones wait for
    the end and travel together.

    Args:
        group: the processes.
        parameters: the model's; one that gets no gradient gets none in any of the processes.
        tables: those of them that are embedding tables, `[V, E]`, whose gradients travel by rows.
    """

    def __init__(self, group: Group, parameters: Iterable[Tensor], tables: Sequence[Tensor]) -> None:
        self._tables = tables
        self._rows: Sequence[Tensor] | None = None
        self._small: list[Tensor] = []
        self._sent: list[tuple[dist.Work, Callable[[], object]]] = []
        self._is_alone = group.size == 1
        if self._is_alone:
            return
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._take)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def of_backward(self, ids: Sequence[Tensor]) -> Iterator[None]:
        """A context for the backward pass that completes the gradients; when it ends, they are summed.

        Args:
            ids: what was looked up in each of the tables, by any of the processes; all other rows have no gradient.
        """
        if self._is_alone:
            yield
            return
        self._rows = [torch.unique(each).to(table.device) for table, each in zip(self._tables, ids, strict=True)]
        try:
            yield
            if self._small:
                self._send_together(self._small)
            for work, put in self._sent:
                work.wait()
                put()
        finally:
            self._rows, self._small, self._sent = None, [], []

    def _take(self, parameter: Tensor) -> None:
        """Take note of a gradient that is complete, but for parts of a batch that are still to come."""
        gradient = parameter.grad
        if self._rows is None or gradient is None:
            return
        for table, rows in zip(self._tables, self._rows, strict=True):
            if table is parameter:
                part = gradient.index_select(0, rows)
                self._send(part, partial(gradient.index_copy_, 0, rows, part))
                return
        if gradient.numel() <= _SMALL:
            self._small.append(gradient)
        else:
            self._send(gradient, lambda: None)

    def _send_together(self, gradients: Sequence[Tensor]) -> None:
        packed = torch.cat([each.flatten() for each in gradients])
        parts = torch.split(packed, [each.numel() for each in gradients])

        def put() -> None:
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

        self._send(packed, put)

    def _send(self, values: Tensor, put: Callable[[], object]) -> None:
        """Begin to sum; `put` is called when that is done."""
        self._sent.append((dist.all_reduce(values, async_op=True), put))


def _tensor_of(content: bytes, device: torch.device) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)


@contextlib.contextmanager
def joined(
    place: Place | None, device: torch.device, stop_requested: Callable[[], bool] = lambda: False
) -> Iterator[Group]:
    """The group of all processes, met at `place`; alone without one.

    Args:
        place: where this process stands.
        device: where the model runs.
        stop_requested: asked while the others are waited for.

    Raises:
        StopRequested: `stop_requested` said yes.
        ClientError: the others were not met in time.
        LostContactError: within the context, another process ended or cannot be reached; its message names its host
            where there are several.
    """
    if place is None or place.size == 1:
        yield Group(device=device)
        return
    address = _meet(place, device, stop_requested)
    hosts: list[_Host] = []
    try:
        group = Group(place.rank, place.size, place.local_rank, device)
        hosts = [_Host(*json.loads(each)) for each in group.gather(json.dumps([place.host, address]).encode())]
        yield group
    except RuntimeError as error:
        if not _is_lost_contact(error):
            raise
        message = f"lost contact with {_suspects(str(error), hosts, place.rank)} ({_first_line(error)})"
        raise LostContactError(message) from error
    finally:
        dist.destroy_process_group()


def _meet(place: Place, device: torch.device, stop_requested: Callable[[], bool]) -> str:
    """Make the process group with the others; returns the address that they know this host by."""
    host, port = place.address

    def meet() -> str:
        address = _own_address(host, port, time.monotonic() + place.timeout)
        if (interface := _interface_of(address)) is not None:
            # Left to itself, gloo takes the interface that this host's name stands for, if it stands for any.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        if device.type == "cpu":
            _let_others_finish()
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{host}:{port}",
            rank=place.rank,
            world_size=place.size,
            timeout=datetime.timedelta(seconds=place.timeout),
        )
        return address

    try:
        return wait_unless_stopped(meet, stop_requested, grace=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClientError(
            f"process {place.rank} of {place.size} did not meet the others at {host}:{port} within "
            f"{place.timeout:g} seconds: is that host up and reachable, and were all started? ({_first_line(error)})"
        ) from error


def _let_others_finish() -> None:
    """Have the threads that this one starts wait for a processor, instead of taking it from who computes there.

    They get no less of it. gloo's are woken for every 64 KB that arrive, and so find more of them at a time.
    Does nothing where the system is not Linux, or does not allow it.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@dataclass(frozen=True)
class _Host:
    """Where a process runs: what its host is called, and under which address the others know it."""

    name: str
    address: str

    def __str__(self) -> str:
        return f"host {self.name} ({self.address})"


def _own_address(host: str, port: int, deadline: float) -> str:
    """The address from which this host speaks to another, whose name may be known only after a while."""
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            break
        except socket.gaierror:
            if time.monotonic() + _LOOK > deadline:
                raise
            time.sleep(_LOOK)
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])


def _interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where it cannot be found out."""
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


_LOOK = 0.5
"""Seconds between two looks for the address of a name."""

_SIOCGIFADDR = 0x8915
"""Linux's request for an interface's address."""


def _is_lost_contact(error: RuntimeError) -> bool:
    """Whether an exchange failed because another process is not there, as far as the engines' messages tell."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "timeout")
    return any(sign in text for sign in signs)


def _suspects(message: str, hosts: Sequence[_Host], rank: int) -> str:
    """Who was lost: the host that the engine's message names, or else those of all other processes."""
    others = list(dict.fromkeys(str(host) for number, host in enumerate(hosts) if number != rank))
    named = [each for host in hosts if host.address in message and (each := str(host)) in others]
    if len({host.address for host in hosts}) <= 1:
        return "another process of this host"
    return named[0] if named else " or ".join(others)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
