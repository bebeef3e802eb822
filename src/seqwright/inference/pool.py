"""Translators of one model in processes of their own, for files: one a GPU, or several that share the processor.

On a CPU, two processes of one thread each translate a file faster than one of two threads, which wait for each other
after every operation.
"""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Self, cast

import torch

from seqwright.data.vocabulary import Vocabulary
from seqwright.devices import keep_freed_memory, process_count
from seqwright.inference.options import SearchOptions
from seqwright.inference.translator import BATCH_SIZE, BATCHES_PER_BLOCK, Translation, Translator, by_length
from seqwright.model_sources import load_any_model
from seqwright.processes import ChildProcess, messages


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
        ClientError: the model is missing or damaged, or the device, the precision or so many GPUs are not available.
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
        self.trained = load_any_model(model)
        self._count = count
        self._idle: SimpleQueue[ChildProcess] = SimpleQueue()
        threads = max(1, torch.get_num_threads() // count)
        with contextlib.ExitStack() as stack:
            self._children = []
            for number in range(count):
                name = f"seqwright-translate-{number}"
                child = ChildProcess(_translate_batches, model, device, precision, threads, number, name=name)
                self._children.append(stack.enter_context(child))
            stack.pop_all()
        for child in self._children:
            self._idle.put(child)
        self._executor = ThreadPoolExecutor(count)

    @property
    def source_vocabulary(self) -> Vocabulary:
        """Source tokens and ids."""
        return self.trained.source_vocabulary

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()  # a thread that waits for it ends with an error
        self._executor.shutdown(cancel_futures=True)
        for child in self._children:
            child.close()

    def translate_blocks(
        self,
        blocks: Iterable[Sequence[Sequence[int]]],
        options: SearchOptions,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[list[Translation]]:
        """As `Translator.translate_blocks`; takes blocks ahead, so that no process has to wait for the end of one.

        A block of fewer than `BATCHES_PER_BLOCK` batches says that no more input is there yet: its translations are
        yielded before the next block is asked for.

        Raises:
            SeqwrightError: a process failed, or was ended from outside.
        """
        waiting: deque[_Block] = deque()
        ahead = 0
        for block in blocks:
            chunks = list(by_length(block, batch_size))
            found = [self._executor.submit(self._translate, [block[i] for i in chunk], options) for chunk in chunks]
            is_short = len(block) < BATCHES_PER_BLOCK * batch_size  # no more input is there yet
            waiting.append(_Block(len(block), chunks, found))
            ahead += len(chunks)
            while waiting and (is_short or ahead - len(waiting[0].chunks) >= 2 * self._count):
                ahead -= len(waiting[0].chunks)
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _translate(self, sources: Sequence[Sequence[int]], options: SearchOptions) -> list[Translation]:
        """Have an idle process translate a batch; as many threads do so as there are processes."""
        child = self._idle.get()
        try:
            child.send((sources, options))
            return cast(list[Translation], child.receive())
        finally:
            self._idle.put(child)


@dataclass(frozen=True)
class _Block:
    """Sources that are being translated.

    Attributes:
        size: how many.
        chunks: positions of the sources that are searched together.
        found: the translations of each chunk.
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


def _translate_batches(
    connection: Connection, model: Path, device: str, precision: str, threads: int, number: int
) -> None:
    """In a process: load the model and translate batches."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    translator = Translator.load(model, device, precision, number)
    for sources, options in messages(connection):
        connection.send(translator.translate_ids(sources, options, batch_size=len(sources)))
