"""Translators of one model in processes of their own, for files: one a GPU, or several that share the processor.

On a CPU, two processes of one thread each translate a file faster than one of two threads, which wait for each other
after every operation.
"""

import contextlib
import functools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Self

import torch

from seqwright.artifacts import load_model
from seqwright.data.vocabulary import Vocabulary
from seqwright.devices import keep_freed_memory, process_count
from seqwright.errors import AlgorithmError
from seqwright.files import describe_os_errors
from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import BATCH_SIZE, Translation, Translator, by_length
from seqwright.processes import starting


@contextlib.contextmanager
def load_translators(
    model: Path, device: str = "auto", precision: str = "auto", processes: str = "1"
) -> Iterator["Translator | TranslatorPool"]:
    """A context with one translator in this process, or a pool of them.

    Args:
        model: a model folder or `model.tar.gz`.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32` or `bf16`.
        processes: how many; `auto` for one a GPU, or one for each thread that PyTorch uses of the processor.

    Raises:
        ClientError: the model is missing or damaged, or the device, the precision or so many GPUs are not to be had.
    """
    count = process_count(processes, device, on_cpu=torch.get_num_threads())
    if count == 1:
        yield Translator.load(model, device, precision)
        return
    with TranslatorPool(model, device, precision, count) as pool:
        yield pool


class TranslatorPool:
    """Several translators that take the batches of a file in turn; a context that ends their processes.

    Args:
        model: a model folder or `model.tar.gz`.
        device: `auto`, `cpu` or `cuda`; on GPUs each process has its own.
        precision: `auto`, `fp32` or `bf16`.
        count: how many; on a CPU each has its share of the threads.

    Attributes:
        trained: the model.

    Raises:
        ClientError: the model is missing or damaged.
    """

    def __init__(self, model: Path, device: str, precision: str, count: int) -> None:
        self.trained = load_model(model)
        self._count = count
        context = multiprocessing.get_context("spawn")
        threads = max(1, torch.get_num_threads() // count)
        with describe_os_errors(f"cannot start {count} processes"), starting():
            begun: Synchronized[int] = context.Value("i", 0)
            self._executor = ProcessPoolExecutor(count, context, _begin, (model, device, precision, threads, begun))

    @property
    def source_vocabulary(self) -> Vocabulary:
        """Source tokens and ids."""
        return self.trained.source_vocabulary

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if failure:
            for process in self._executor._processes.values():
                process.kill()
        self._executor.shutdown(cancel_futures=True)

    def translate_blocks(
        self,
        blocks: Iterable[Sequence[Sequence[int]]],
        options: SearchOptions,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[list[Translation]]:
        """As `Translator.translate_blocks`; takes blocks ahead, so that no process has to wait for the end of one.

        What is a single batch comes from a terminal, or is the last, and is waited for.

        Raises:
            AlgorithmError: a process was ended from outside.
        """
        waiting: deque[_Block] = deque()
        ahead = 0
        try:
            for block in blocks:
                chunks = list(by_length(block, batch_size))
                with starting():
                    found = [self._executor.submit(_translate, [block[i] for i in chunk], options) for chunk in chunks]
                waiting.append(_Block(len(block), chunks, found))
                ahead += len(chunks)
                while waiting and (len(chunks) <= 1 or ahead - len(waiting[0].chunks) >= 2 * self._count):
                    ahead -= len(waiting[0].chunks)
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise AlgorithmError("a process that translates ended, for want of memory perhaps") from error


@dataclass(frozen=True)
class _Block:
    """Sources that are being translated.

    Attributes:
        size: how many.
        chunks: which of them are searched together.
        found: what comes of each chunk.
    """

    size: int
    chunks: list[list[int]]
    found: list[Future[list[Translation]]]

    def result(self) -> list[Translation]:
        """Wait for the translations, in the order of the sources."""
        by_position = {
            position: translation
            for chunk, found in zip(self.chunks, self.found, strict=True)
            for position, translation in zip(chunk, found.result(), strict=True)
        }
        return [by_position[position] for position in range(self.size)]


def _begin(model: Path, device: str, precision: str, threads: int, begun: "Synchronized[int]") -> None:
    """A process begins; it loads the model when it has something to do, so that what is wrong with it can be told."""
    with begun.get_lock():
        number, begun.value = begun.value, begun.value + 1
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    _HERE.append(functools.cache(functools.partial(Translator.load, model, device, precision, number)))


def _end_with_parent() -> None:
    """Wait until the process that started this one is no more."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this is a process of a pool
    parent.join()
    os._exit(1)


def _translate(sources: Sequence[Sequence[int]], options: SearchOptions) -> list[Translation]:
    """What a process does with a batch."""
    (loaded,) = _HERE
    return loaded().translate_ids(sources, options, batch_size=len(sources))


_HERE: list[Callable[[], Translator]] = []
"""In a process of a pool, what gives its translator."""
