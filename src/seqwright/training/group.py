"""The processes that train one model together: who they are, and what they exchange.

Every process holds the whole model and computes a share of every batch. Content that is not a tensor travels as bytes:
nothing is unpickled.
"""

import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from seqwright.errors import AlgorithmError

TIMEOUT = 600.0
"""Seconds that a process waits for the others before it gives up."""


class LostContactError(AlgorithmError):
    """Another process ended or cannot be reached. The cause is known to that process, if to any."""


@dataclass(frozen=True)
class ProcessRank:
    """One process among all that train together, and where they meet.

    Attributes:
        rank: its number among all processes, from 0.
        size: how many processes there are.
        local_rank: its number among the processes of its host.
        address: name or address and port where all meet, on the host of rank 0.
        host: the name of its host.
        timeout: seconds to wait for the others.
    """

    rank: int
    size: int
    local_rank: int
    address: tuple[str, int]
    host: str = "localhost"
    timeout: float = TIMEOUT

    @classmethod
    def from_torchrun(cls, timeout: float = TIMEOUT) -> "ProcessRank | None":
        """The rank that `torchrun` gave this process; None if `torchrun` did not start it."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return cls(rank, size, local_rank, address, socket.gethostname(), timeout)


@dataclass(frozen=True)
class Group:
    """The processes that train together, as one of them sees them; by default this process is alone.

    All processes must call the same methods in the same order.

    Attributes:
        rank: this process's number.
        size: how many processes there are.
        local_rank: this process's number on its host.
        device: where tensors that are exchanged must be.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports to the user: rank 0."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """The sum of each value over all processes, in double precision."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def broadcast(self, content: bytes) -> bytes:
        """The content that the main process passes; that of the others is ignored."""
        if self.size == 1:
            return content
        size = torch.tensor(len(content), device=self.device)
        dist.broadcast(size, 0)
        if not int(size):
            return b""
        buffer = _to_tensor(content if self.is_main else bytes(int(size)), self.device)
        dist.broadcast(buffer, 0)
        return buffer.cpu().numpy().tobytes()

    def gather(self, content: bytes) -> list[bytes]:
        """The content that each process passes, by rank."""
        if self.size == 1:
            return [content]
        sizes = [torch.zeros(1, dtype=torch.long, device=self.device) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(content)], device=self.device))
        longest = max(1, *(int(size) for size in sizes))
        buffers = [torch.zeros(longest, dtype=torch.uint8, device=self.device) for _ in range(self.size)]
        dist.all_gather(buffers, _to_tensor(content.ljust(longest, b"\0"), self.device))
        return [buffer[: int(size)].cpu().numpy().tobytes() for buffer, size in zip(buffers, sizes, strict=True)]

    def broadcast_parameters(self, parameters: Iterable[Tensor]) -> None:
        """Overwrite the parameters of every process with those of the main process."""
        for parameter in parameters if self.size > 1 else ():
            dist.broadcast(parameter.data, 0)

    def local_main_first(self) -> Iterator[bool]:
        """Yield twice, once True: first for one process of each host, then, when these are done, for the others."""
        for turn in (True, False):
            yield turn == (self.local_rank == 0)
            self.sum(0)  # waits for all


def _to_tensor(content: bytes, device: torch.device) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
