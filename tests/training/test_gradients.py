"""Sums of gradients over processes equal the gradient of one process."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seqwright.errors import ClientError
from seqwright.training.gradients import GradientSums
from seqwright.training.group import ProcessRank
from seqwright.training.launch import run_processes
from seqwright.training.progress import Progress
from seqwright.training.rendezvous import join_group

IDS = torch.tensor([[1, 2, 3], [3, 7, 8]])  # a sequence for each process


class TiedModel(nn.Module):
    """A table that is looked up and is the output layer as well, and a table that is only looked up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.tied = nn.Embedding(10, 4)
        self.plain = nn.Embedding(10, 4)
        self.output = nn.Linear(4, 10, bias=False)
        self.output.weight = self.tied.weight

    def loss(self, ids: Tensor) -> Tensor:
        hidden = torch.tanh(self.tied(ids) + self.plain(ids))  # [..., 4]
        total: Tensor = self.output(hidden).logsumexp(-1).sum()
        return total

    def add_gradient(self, ids: Tensor) -> None:
        self.loss(ids).backward()  # type: ignore[no-untyped-call]


def compare_with_one_process(process: ProcessRank, stop_requested: Callable[[], bool]) -> Progress:
    with join_group(process, torch.device("cpu")) as group:
        whole, shared = TiedModel(), TiedModel()
        whole.add_gradient(IDS)
        sums = GradientSums(group, shared, [shared.tied.weight, shared.plain.weight])
        first, last = IDS[group.rank, :1], IDS[group.rank, 1:]  # a batch in two parts
        shared.add_gradient(first)
        with sums.during_backward([IDS, IDS]):
            shared.add_gradient(last)
        for (name, expected), found in zip(whole.named_parameters(), shared.parameters(), strict=True):
            assert expected.grad is not None
            assert found.grad is not None
            if not torch.allclose(expected.grad, found.grad, rtol=1e-5, atol=1e-7):
                raise ClientError(f"{name} has another gradient")
    return Progress()


def test_a_table_that_two_modules_share_has_its_whole_gradient_summed() -> None:
    run_processes(compare_with_one_process, 2, lambda: False)
