"""Imports all that a process needs to train, for a fork server to share with the processes that it forks."""

import torch

import seqwright.training.job  # noqa: F401 - imports the rest

torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # the first optimizer imports PyTorch's compiler: seconds
