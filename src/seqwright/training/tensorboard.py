"""TensorBoard event files, written in a thread that training never waits for."""

import logging
import math
import queue
import socket
import threading
import time
from pathlib import Path
from typing import NamedTuple

from seqwright.training.progress import Checkpoint, Monitor, Progress, Update

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 5.0
"""Seconds that the end of training waits for the last points to be written."""


class _Point(NamedTuple):
    """A point of a curve."""

    name: str
    value: float
    step: int
    time: float


class TensorBoard(Monitor):
    """Writes TensorBoard event files.

    If a file cannot be written, a full disk for example, there is one warning, and training goes on without. The
    library's `SummaryWriter` is not used: its own thread dies when the clock is set back by more than 25 days, and then
    blocks the thread that adds points.

    Args:
        folder: where they go.
        interval: updates between two points of the training curves.
    """

    def __init__(self, folder: Path, interval: int = 50) -> None:
        self._folder = folder
        self._interval = interval
        self._queue: queue.SimpleQueue[_Point | None] = queue.SimpleQueue()  # None ends the thread
        self._thread: threading.Thread | None = None

    def on_start(self, progress: Progress) -> None:
        """Open a new event file. It hides points after `progress` that an interrupted run wrote."""
        purge_step = progress.updates + 1 if progress.updates else None
        self._thread = threading.Thread(target=self._write, args=(purge_step,), name="tensorboard", daemon=True)
        self._thread.start()

    def on_update(self, progress: Progress, update: Update) -> None:
        """Write loss and learning rate now and then."""
        if progress.updates % self._interval == 0:
            self._add("train/loss", update.loss.item(), progress)
            self._add("train/learning_rate", update.learning_rate, progress)

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """Write the scores."""
        name, value = checkpoint.train
        self._add(f"train/{name}", value, progress)
        for metric, score in checkpoint.validation.named().items():
            self._add(f"validation/{metric}", score, progress)

    def on_end(self, progress: Progress, reason: str) -> None:
        """Close the file, unless the disk takes too long."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)
            if self._thread.is_alive():
                logger.warning("the TensorBoard file in %s is not complete: the disk does not answer", self._folder)

    def _add(self, name: str, value: float, progress: Progress) -> None:
        if math.isfinite(value) and self._thread is not None and self._thread.is_alive():
            self._queue.put(_Point(name, value, progress.updates, time.time()))

    def _write(self, purge_step: int | None) -> None:
        """Write all points to an event file; the thread's main function."""
        try:
            self._write_file(purge_step)
        except Exception as error:  # whatever it is, training must go on
            logger.warning("training goes on without TensorBoard: cannot write to %s: %s", self._folder, error)

    def _write_file(self, purge_step: int | None) -> None:
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        version, start = "brain.Event:2", time.time()
        self._folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names, and a resumed run may start in the same second.
        writer = RecordWriter(str(self._folder / f"events.out.tfevents.{start:.6f}.{socket.gethostname()}"))
        events = [Event(wall_time=start, file_version=version)]
        if purge_step is not None:  # TensorBoard drops points of earlier files from this step on
            events.append(Event(wall_time=start, step=purge_step, file_version=version))
            events.append(Event(wall_time=start, step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        for event in events:
            writer.write(event.SerializeToString())
        writer.flush()
        while (point := self._queue.get()) is not None:
            summary = Summary(value=[Summary.Value(tag=point.name, simple_value=point.value)])
            writer.write(Event(wall_time=point.time, step=point.step, summary=summary).SerializeToString())
            if self._queue.empty():
                writer.flush()
        writer.flush()
        writer.close()
