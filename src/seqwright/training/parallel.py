"""Data-parallel training: what the processes that train one model together exchange.

Every process has the whole model and a share of every batch. Gradients are summed while the backward pass still runs
(`DistributedDataParallel`; Li et al. 2020), each of the loss over the target tokens of the whole batch, so that the
update is that of one process. Of the token embeddings only the rows of the batch's tokens have a gradient: those rows
are summed, after the backward pass, and not the whole tables. Content that is no tensor travels as bytes: nothing is
unpickled.
"""

import contextlib
import datetime
import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from seqwright.errors import AlgorithmError, ClientError

TIMEOUT = 600.0
"""Seconds that a process waits for the others before it gives them up."""


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

    def wrap(self, module: nn.Module, by_rows: Sequence[Tensor], may_leave_unused: bool) -> nn.Module:
        """The module, its gradients summed over all processes as its backward pass makes them.

        Args:
            module: all start with the leading process's parameters.
            by_rows: parameters whose gradients are left to `sum_rows`.
            may_leave_unused: whether a backward pass may not reach every parameter.
        """
        if self.size == 1:
            return module
        for parameter in by_rows:
            dist.broadcast(parameter.data, 0)
        apart = [name for name, each in module.named_parameters() if any(each is other for other in by_rows)]
        if not any(each.requires_grad for name, each in module.named_parameters() if name not in apart):
            return module
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, apart)  # type: ignore[no-untyped-call]
        wrapped = DistributedDataParallel(module, find_unused_parameters=may_leave_unused, gradient_as_bucket_view=True)
        wrapped.register_comm_hook(None, _sum)
        return wrapped

    def sum_rows(self, tables: Sequence[Tensor], ids: Sequence[Tensor]) -> None:
        """Sum the gradients of embedding tables over all processes.

        Args:
            tables: each `[V, E]`; one without a gradient is passed over.
            ids: what was looked up in each, by any of the processes; all other rows have no gradient.
        """
        if self.size == 1:
            return
        used = [(table.grad, torch.unique(each)) for table, each in zip(tables, ids, strict=True)]
        found = [(gradient, rows.to(gradient.device)) for gradient, rows in used if gradient is not None]
        if not found:
            return
        summed = torch.cat([gradient.index_select(0, rows).flatten() for gradient, rows in found])
        dist.all_reduce(summed)
        parts = torch.split(summed, [len(rows) * gradient.shape[1] for gradient, rows in found])
        for (gradient, rows), part in zip(found, parts, strict=True):
            gradient.index_copy_(0, rows, part.view(len(rows), -1))

    def take_turns(self) -> Iterator[bool]:
        """Twice, once with True: first for one process of each host, then for the others."""
        for turn in (True, False):
            yield turn == (self.local_rank == 0)
            self.sum(0)


def without_exchange(module: nn.Module) -> contextlib.AbstractContextManager[object]:
    """A context in which gradients are added up but not yet exchanged."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()


def _sum(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Sum a bucket of gradients over all processes, where `DistributedDataParallel` would take the mean."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return summed


def _tensor_of(content: bytes, device: torch.device) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)


@contextlib.contextmanager
def joined(place: Place | None, device: torch.device) -> Iterator[Group]:
    """The group of all processes, met at `place`; alone without one.

    Args:
        place: where this process stands.
        device: where the model runs.

    Raises:
        ClientError: the others were not met in time.
        LostContactError: within the context, another process ended or cannot be reached; its message names its host
            where there are several.
    """
    if place is None or place.size == 1:
        yield Group(device=device)
        return
    host, port = place.address
    try:
        address = _own_address(host, port)
        if (interface := _interface_of(address)) is not None:
            # Left to itself, gloo takes the interface that this host's name stands for, if it stands for any.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{host}:{port}",
            rank=place.rank,
            world_size=place.size,
            timeout=datetime.timedelta(seconds=place.timeout),
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ClientError(
            f"process {place.rank} of {place.size} did not meet the others at {host}:{port} within "
            f"{place.timeout:g} seconds: is that host up and reachable, and were all started? ({_first_line(error)})"
        ) from error
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


@dataclass(frozen=True)
class _Host:
    """Where a process runs: what its host is called, and under which address the others know it."""

    name: str
    address: str

    def __str__(self) -> str:
        return f"host {self.name} ({self.address})"


def _own_address(host: str, port: int) -> str:
    """The address from which this host speaks to another."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
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


_SIOCGIFADDR = 0x8915
"""Linux's request for an interface's address."""


def _is_lost_contact(error: RuntimeError) -> bool:
    """Whether an exchange failed because another process is not there, as far as the engines' messages tell."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "connection closed", "connection reset", "timed out"))


def _suspects(message: str, hosts: Sequence[_Host], rank: int) -> str:
    """Who was lost: the host that the engine's message names, or else those of all other processes."""
    others = list(dict.fromkeys(str(host) for number, host in enumerate(hosts) if number != rank))
    named = [each for host in hosts if host.address in message and (each := str(host)) in others]
    if len({host.address for host in hosts}) <= 1:
        return "another process of this host"
    return named[0] if named else " or ".join(others)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
