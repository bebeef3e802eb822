"""Summing the gradients of several processes while the backward pass still runs (Li et al. 2020).

Each process computes the gradient of its share of the loss over the target tokens of the whole batch, so the sum is
the gradient that one process would compute. Of an embedding table only the rows of the batch's tokens have a gradient:
those rows are summed, not the whole table.

PyTorch's `DistributedDataParallel` sums whole tables. Two processes on one host took 6 % longer with it per target
token (LSTM of 512 units, 10,004 tokens a side, 64 pairs an update). It also arranges its buckets after the first
backward pass, so three or more processes would add in another order after a resume, which must not change the result.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from seqwright.training.group import Group

_SMALL = 1 << 14
"""Elements below which a gradient is not worth an exchange of its own."""


class GradientSums:
    """Sums the gradients of a model over all processes during the backward pass; does nothing in a single process.

    The sum of a gradient starts as soon as the gradient is complete, in place. Small gradients wait for the end of the
    backward pass and are summed together.

    Args:
        group: the processes.
        model: the model; a parameter without a gradient must be without one in all processes.
        tables: those of its parameters that are embedding tables, `[V, E]`, whose gradients are summed by rows. A table
            that several modules share also gets a gradient outside the rows that were looked up: it is summed whole.
    """

    def __init__(self, group: Group, model: nn.Module, tables: Sequence[Tensor]) -> None:
        uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
        self._tables = tables
        self._is_summed_by_rows = [uses[id(table)] == 1 for table in tables]
        self._rows: dict[int, Tensor] | None = None
        self._small: list[Tensor] = []
        self._running: list[tuple[dist.Work, Callable[[], object]]] = []
        self._is_alone = group.size == 1
        if self._is_alone:
            return
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._on_gradient)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def during_backward(self, ids: Sequence[Tensor]) -> Iterator[None]:
        """A context for the backward pass that completes the gradients; at its end they are summed.

        Args:
            ids: the ids that any process looks up in each of the tables; all other rows have no gradient.
        """
        if self._is_alone:
            yield
            return
        self._rows = {
            id(table): torch.unique(looked_up).to(table.device)
            for table, by_rows, looked_up in zip(self._tables, self._is_summed_by_rows, ids, strict=True)
            if by_rows
        }
        try:
            yield
            if self._small:
                self._sum_together(self._small)
            for work, write_back in self._running:
                work.wait()
                write_back()
        finally:
            self._rows, self._small, self._running = None, [], []

    def _on_gradient(self, parameter: Tensor) -> None:
        """Start to sum a parameter's gradient, unless more parts of the batch will be added to it."""
        gradient = parameter.grad
        if self._rows is None or gradient is None:
            return
        if (rows := self._rows.get(id(parameter))) is not None:
            part = gradient.index_select(0, rows)  # [R, E]
            self._start_sum(part, partial(gradient.index_copy_, 0, rows, part))
        elif gradient.numel() <= _SMALL:
            self._small.append(gradient)
        else:
            self._start_sum(gradient, lambda: None)

    def _sum_together(self, gradients: Sequence[Tensor]) -> None:
        packed = torch.cat([each.flatten() for each in gradients])
        parts = torch.split(packed, [each.numel() for each in gradients])

        def write_back() -> None:
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

        self._start_sum(packed, write_back)

    def _start_sum(self, values: Tensor, write_back: Callable[[], object]) -> None:
        """Start to sum in the background; `write_back` is called when the sum is done."""
        self._running.append((dist.all_reduce(values, async_op=True), write_back))
