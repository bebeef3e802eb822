"""Training checkpoints: all that a run needs to go on as if it had never stopped."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from seqwright.artifacts import write_tensors
from seqwright.errors import ClientError
from seqwright.files import describe_os_errors, new_folder, remove_folder, writing
from seqwright.interrupts import in_background
from seqwright.training.progress import Checkpoint, Monitor, Progress
from seqwright.training.run_folders import BEST, PREFIX, RunFingerprint, existing_checkpoints
from seqwright.training.trainer import Trainer

FORMAT_VERSION = 5

logger = logging.getLogger(__name__)


class CheckpointStore(Monitor):
    """Writes a folder `checkpoint-<updates>` at every checkpoint, and keeps the newest.

    Every process of the trainer's group needs one, for each adds the state of its random numbers; the main process
    writes. It writes in the background, on a CPU directly from the parameters: the gradients of the next update are
    computed meanwhile, and only its step waits until the parameters are read. If the disk is still busy at the next
    checkpoint, training waits for it.

    Args:
        folder: where checkpoints go.
        trainer: the run to save and restore.
        fingerprint: the run's.
        keep: how many checkpoints to keep.
        on_saved: called in a thread of its own when a checkpoint is on disk, to copy it elsewhere for example. Training
            goes on meanwhile, however long it takes; checkpoints written meanwhile have one call together after it.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        fingerprint: RunFingerprint,
        keep: int = 2,
        on_saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self._trainer = trainer
        self._group = trainer.group
        self._fingerprint = fingerprint
        self._keep = keep
        self._on_saved = on_saved
        self._saved_calls = _CoalescedCalls(self._call_on_saved)
        self._in_use: list[Path] = []  # checkpoints that `on_saved` may be reading
        self._writer = ThreadPoolExecutor(1, "seqwright-checkpoint")
        self._writing: Future[None] | None = None
        self._newest = -1
        self._tensors_are_read = threading.Event()
        self._tensors_are_read.set()
        trainer.optimizer.register_step_pre_hook(self._before_step)

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """Write the run's state."""
        self._save(progress)

    def on_interrupt(self, progress: Progress) -> None:
        """Write the run's state."""
        self._save(progress)

    def on_end(self, progress: Progress, reason: str) -> None:
        """Wait until everything is written, and `on_saved` knows of it."""
        self._wait_for_disk()
        self._saved_calls.finish()
        if self._group.is_main:
            self._remove_old()

    def close(self) -> None:
        """Wait for the disk, however training ended."""
        self._writer.shutdown()

    def _save(self, progress: Progress) -> None:
        """Start to write the run's state, unless the newest checkpoint has it already."""
        if progress.updates == self._newest:
            return
        self._newest = progress.updates
        random_states = self._group.gather(_random_state())
        if not self._group.is_main:
            return
        state = {
            "format_version": FORMAT_VERSION,
            "identity": dataclasses.asdict(self._fingerprint),
            "progress": dataclasses.asdict(progress),
            "schedule": self._trainer.schedule.state(),
        }
        tensors = {f"model.{name}": tensor for name, tensor in self._trainer.model.state_dict().items()}
        tensors |= _optimizer_tensors(self._trainer)
        for rank, content in enumerate(random_states):
            tensors |= {f"random.{rank}.{name}": tensor for name, tensor in load(content).items()}
        self._wait_for_disk()
        on_cpu = {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}  # no copy on a CPU
        content = json.dumps(state, indent=2).encode()
        self._tensors_are_read.clear()
        self._writing = self._writer.submit(self._write, progress.updates, content, on_cpu)

    def _before_step(self, *_: object) -> None:
        """Do not let the optimizer change tensors that are being written."""
        self._tensors_are_read.wait()

    def _wait_for_disk(self) -> None:
        """Wait for the checkpoint that is being written, and raise its error."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _write(self, updates: int, state: bytes, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint, then remove the oldest."""
        target = self.folder / f"{PREFIX}{updates:09d}"
        try:
            with new_folder(target) as scratch:
                write_tensors(scratch / TENSORS, tensors, self._tensors_are_read.set)
                with writing(scratch / STATE) as stream:
                    stream.write(state)
                with writing(scratch / SUMS) as stream:
                    stream.write(_sums({name: _digest_of(scratch / name) for name in (STATE, TENSORS)}))
        finally:
            self._tensors_are_read.set()
        self._remove_old()
        self._saved_calls.request()

    def _remove_old(self) -> None:
        """Remove all but the newest checkpoints, and but those that `on_saved` may be reading."""
        in_use = self._in_use if self._saved_calls.is_running else []
        for old in existing_checkpoints(self.folder)[self._keep :]:
            if old not in in_use:
                with contextlib.suppress(OSError):  # what cannot be removed stays
                    remove_folder(old)

    def _call_on_saved(self) -> None:
        self._in_use = existing_checkpoints(self.folder)[: self._keep]
        self._on_saved()

    def restore(self) -> bool:
        """Restore the state of the newest checkpoint that is whole; returns False if there is no checkpoint.

        The main process reads and sends the content to the others, which may have no such folder.

        Raises:
            ClientError: the checkpoints are of another run, where the message names what differs, or of another version
                of seqwright; or none of them is whole.
        """
        state, tensors = b"", b""
        if self._group.is_main:
            state, tensors = self._read()
        state, tensors = self._group.broadcast(state), self._group.broadcast(tensors)
        if state:
            self._restore(json.loads(state), load(tensors))
        return bool(state)

    def _read(self) -> tuple[bytes, bytes]:
        """The files of the newest checkpoint that is whole; empty without a checkpoint. Newer ones are put aside."""
        damaged = []
        for folder in existing_checkpoints(self.folder):
            try:
                content = _read_whole(folder)
            except _DamagedError as error:
                logger.warning("checkpoint %s is damaged (%s): trying the one before", folder, error)
                damaged.append(folder)
                continue
            self._fingerprint.require_match(json.loads(content[0])["identity"], self.folder)
            for each in damaged:  # it must not count among those that are kept
                aside = each.with_name(f".{each.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                with describe_os_errors(f"cannot put {each} aside"):
                    each.rename(aside)
            return content
        if damaged:
            raise ClientError(
                f"no checkpoint in {self.folder} is whole: bring one back from a copy, or remove them and --output to "
                f"start anew; the best model so far is in {self.folder / BEST}"
            )
        return b"", b""

    def _restore(self, state: Mapping[str, dict[str, float]], tensors: Mapping[str, Tensor]) -> None:
        trainer = self._trainer
        trainer.model.load_state_dict(_under("model.", tensors))
        _restore_optimizer(trainer, tensors)
        trainer.schedule.restore(state["schedule"])
        for name, value in state["progress"].items():
            setattr(trainer.progress, name, value)
        self._newest = trainer.progress.updates
        random = _under(f"random.{self._group.rank}.", tensors)
        if "cpu" in random:
            torch.set_rng_state(random["cpu"])
        else:  # there were fewer processes before: take a state that none of them has
            torch.manual_seed(torch.initial_seed() + trainer.progress.updates)
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])


class _CoalescedCalls:
    """Calls a function in a daemon thread; requests during a call are answered by one more call after it.

    A call that never returns holds up neither the requests nor the end of the process.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._call: Future[None] | None = None
        self._is_requested = threading.Event()

    @property
    def is_running(self) -> bool:
        return self._call is not None and not self._call.done()

    def request(self) -> None:
        """Start a call if none is running; raises the error of the last one."""
        self._is_requested.set()
        if self.is_running:
            return
        if self._call is not None:
            self._call.result()
        self._call = in_background(self._answer)

    def finish(self) -> None:
        """Wait until the last request is answered; raises the error of a call."""
        if self._call is not None:
            self._call.result()
        self._answer()

    def _answer(self) -> None:
        while self._is_requested.is_set():
            self._is_requested.clear()
            self._function()


STATE, TENSORS, SUMS = "state.json", "state.safetensors", "SHA256SUMS"
"""The files of a checkpoint; the last has the digests of the others in the format of `sha256sum`."""


class _DamagedError(Exception):
    """A checkpoint differs from what was written, or is not complete."""


def _sums(digests: Mapping[str, str]) -> bytes:
    """The content of `SUMS` for files with these digests."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


def _digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_whole(folder: Path) -> tuple[bytes, bytes]:
    """The state and the tensors of a checkpoint.

    Raises:
        _DamagedError: a file is missing, or differs from what was written.
        ClientError: a file cannot be read, or is of another version of seqwright.
    """
    with describe_os_errors(f"cannot read {folder}"):
        try:
            state = (folder / STATE).read_bytes()
            version = json.loads(state)["format_version"]
            if isinstance(version, int) and version != FORMAT_VERSION:
                raise ClientError(
                    f"{folder} is of another version of seqwright, whose format is {version}, not {FORMAT_VERSION}: go "
                    "on with that version, or name another --checkpoints folder and --output"
                )
            tensors = (folder / TENSORS).read_bytes()
            contents = {STATE: state, TENSORS: tensors}
            digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
            if (folder / SUMS).read_bytes() != _sums(digests):
                raise _DamagedError(f"its files are not those of {SUMS}")
            return state, tensors
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _DamagedError(f"it has no {Path(error.filename).name}") from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _DamagedError(f"{STATE} is not what was written: {error!r}") from error


def read_model(checkpoints: Path, updates: int) -> tuple[int, dict[str, Tensor]] | None:
    """The epoch and the model's tensors in the checkpoint after `updates`; None if it is missing or damaged."""
    try:
        state, tensors = _read_whole(checkpoints / f"{PREFIX}{updates:09d}")
    except _DamagedError:
        return None
    return json.loads(state)["progress"]["epoch"], _under("model.", load(tensors))


def _random_state() -> bytes:
    """The states of this process's random number generators, as safetensors."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return save(states)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, which is removed from the names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimizer_tensors(trainer: Trainer) -> dict[str, Tensor]:
    state = trainer.optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def _restore_optimizer(trainer: Trainer, tensors: Mapping[str, Tensor]) -> None:
    whole = trainer.optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        number, leaf = name.split(".", 1)
        state.setdefault(int(number), {})[leaf] = tensor
    trainer.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
