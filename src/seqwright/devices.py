"""The device that a model runs on, and its arithmetic."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Literal, cast

import torch

from seqwright.errors import ClientError

Precision = Literal["fp32", "bf16"]

_MOST_PROCESSES = 32
"""Processes that are allowed on any host, however few processors it has."""


def choose_device(name: str, number: int | None = None) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`; `auto` takes a GPU if there is one.

    Args:
        name: the name.
        number: the number of the GPU; the current one if not given.

    Raises:
        ClientError: the name is unknown, or there is no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ClientError(f"unknown device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ClientError("no CUDA device is available here: use --device cpu or auto")
    return torch.device(name) if number is None or name == "cpu" else torch.device(name, number)


def process_count(name: str, device: str, on_cpu: int = 1) -> int:
    """The number of processes for `auto` or a number; `auto` takes one per GPU of this host.

    Args:
        name: `auto` or a number.
        device: `auto`, `cpu` or `cuda`.
        on_cpu: the number for `auto` on the CPU.

    Raises:
        ClientError: `name` is neither, or more than there are GPUs or a multiple of the processors; or see
            `choose_device`.
    """
    gpus = torch.cuda.device_count() if choose_device(device).type == "cuda" else 0
    if name == "auto":
        return gpus or on_cpu
    if not name.isascii() or not name.isdigit() or int(name) < 1:
        raise ClientError(f"processes must be auto or a number from 1 on, not {name!r}")
    if gpus and int(name) > gpus:
        raise ClientError(f"{name} processes need a GPU each, but this host has {gpus}")
    most = max(_MOST_PROCESSES, os.cpu_count() or 1)
    if int(name) > most:
        raise ClientError(f"{name} processes are more than the {most} that this host may have: give fewer")
    return int(name)


def choose_precision(name: str, device: torch.device) -> Precision:
    """The arithmetic for `auto`, `fp32` or `bf16`; `auto` takes bf16 if the processor has instructions for it.

    Raises:
        ClientError: the name is unknown.
    """
    if name == "auto":
        return "bf16" if computes_in_bf16(device) else "fp32"
    if name not in ("fp32", "bf16"):
        raise ClientError(f"unknown precision {name!r}: choose auto, fp32 or bf16")
    return cast(Precision, name)


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 matrix instructions: AVX-512 BF16 or AMX on a CPU, compute capability 8 on a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


@contextlib.contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[object]:
    """A context in which matrix products run in `precision`; parameters stay fp32.

    bf16 works on every processor, but slowly without matrix instructions for it: oneDNN refuses some bf16 operations
    there, and is then switched off.
    """
    with contextlib.ExitStack() as stack:
        if precision == "bf16" and device.type == "cpu" and not computes_in_bf16(device):
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"))


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for new ones, instead of returning it to the system.

    By default it maps every block of more than 32 MB anew, and the system clears each of its pages at first use, which
    takes a tenth of an update's time. Does nothing if the C library is not GNU's.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        for parameter, value in ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, 1 << 26)):
            library.mallopt(parameter, value)


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""GNU's numbers for the parameters of `mallopt`."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether there was not enough memory, on the device for a tensor or in the system for an array."""
    words = (
        "can't allocate memory",
        "not enough memory",
        "std::bad_alloc",
        "could not create a memory object",  # all that oneDNN says, as in the next
        "could not create a primitive",
    )
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(each in str(error) for each in words)
