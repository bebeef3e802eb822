"""Training checkpoints: everything that a run needs to go on as if it had never stopped."""

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
from seqwright.files import describe_os_errors, new_folder, writing
from seqwright.training.claims import BEST, PREFIX, Identity, existing_checkpoints
from seqwright.training.progress import Checkpoint, Monitor, Progress
from seqwright.training.trainer import Trainer

FORMAT_VERSION = 5

logger = logging.getLogger(__name__)


class CheckpointStore(Monitor):
    """Writes a checkpoint folder `checkpoint-<updates>` at every checkpoint and keeps the last few.

    Every process of the trainer's group must have one, for each gives its random state; the leading one writes. It
    writes in the background, on a CPU straight from the tensors in training: the next update's gradients are computed
    meanwhile, and only its step waits until all is read. The disk may be busy for longer; training waits for it where
    the checkpoint before is not done.

    Args:
        folder: where checkpoints go.
        trainer: the run to save and restore.
        identity: what the run is.
        keep: how many checkpoints to keep.
        saved: called when a checkpoint is on disk, while training goes on.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        identity: Identity,
        keep: int = 2,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self._trainer = trainer
        self._group = trainer.group
        self._identity = identity
        self._keep = keep
        self._saved = saved
        self._writer = ThreadPoolExecutor(1, "seqwright-checkpoint")
        self._written: Future[None] | None = None
        self._newest = -1
        self._taken = threading.Event()
        self._taken.set()
        trainer.optimizer.register_step_pre_hook(self._before_step)

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """Write the run's state."""
        self._save(progress)

    def on_interrupt(self, progress: Progress) -> None:
        """Write the run's state."""
        self._save(progress)

    def on_end(self, progress: Progress, reason: str) -> None:
        """Wait until all is written."""
        self._wait()

    def close(self) -> None:
        """Wait for what is being written, however training ended."""
        self._writer.shutdown()

    def _save(self, progress: Progress) -> None:
        """Collect the run's state, and have it written, unless it stands where the newest checkpoint left it."""
        if progress.updates == self._newest:
            return
        self._newest = progress.updates
        randomness = self._group.gather(_random_state())
        if not self._group.leads:
            return
        state = {
            "format_version": FORMAT_VERSION,
            "identity": dataclasses.asdict(self._identity),
            "progress": dataclasses.asdict(progress),
            "schedule": self._trainer.schedule.state(),
        }
        tensors = {f"model.{name}": tensor for name, tensor in self._trainer.model.state_dict().items()}
        tensors |= _optimizer_tensors(self._trainer)
        for rank, content in enumerate(randomness):
            tensors |= {f"random.{rank}.{name}": tensor for name, tensor in load(content).items()}
        self._wait()
        here = {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}
        content = json.dumps(state, indent=2).encode()
        self._taken.clear()
        self._written = self._writer.submit(self._write, progress.updates, content, here)

    def _before_step(self, *_: object) -> None:
        """Let no tensor change that is being written."""
        self._taken.wait()

    def _wait(self) -> None:
        """Wait for what is being written; raises what went wrong with it."""
        if self._written is not None:
            self._written.result()
            self._written = None

    def _write(self, updates: int, state: bytes, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint, then remove the oldest."""
        target = self.folder / f"{PREFIX}{updates:09d}"
        try:
            with new_folder(target) as scratch:
                write_tensors(scratch / TENSORS, tensors, self._taken.set)
                with writing(scratch / STATE) as stream:
                    stream.write(state)
                with writing(scratch / SUMS) as stream:
                    stream.write(_sums({name: _digest_of(scratch / name) for name in (STATE, TENSORS)}))
        finally:
            self._taken.set()
        for old in existing_checkpoints(self.folder)[self._keep :]:
            shutil.rmtree(old, ignore_errors=True)
        self._saved()

    def restore(self) -> bool:
        """Put the run where its newest readable checkpoint left it; False if there is none.

        The leading process reads; the others, which may have no such folder, are told.

        Raises:
            ClientError: the checkpoints are of another run, where the message names what differs, or of another version
                of seqwright; or none of them is whole.
        """
        state, tensors = b"", b""
        if self._group.leads:
            state, tensors = self._read()
        state, tensors = self._group.broadcast(state), self._group.broadcast(tensors)
        if state:
            self._restore(json.loads(state), load(tensors))
        return bool(state)

    def _read(self) -> tuple[bytes, bytes]:
        """The files of the newest checkpoint that is whole, newer ones put aside; empty where there is none at all."""
        damaged = []
        for folder in existing_checkpoints(self.folder):
            try:
                content = _read_whole(folder)
            except _DamagedError as error:
                logger.warning("checkpoint %s is damaged (%s): trying the one before", folder, error)
                damaged.append(folder)
                continue
            self._identity.require(json.loads(content[0])["identity"], self.folder)
            for each in damaged:  # so that it does not count among those that are kept
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
        randomness = _under(f"random.{self._group.rank}.", tensors)
        if "cpu" in randomness:
            torch.set_rng_state(randomness["cpu"])
        else:  # there were fewer processes: a state that none of them has
            torch.manual_seed(torch.initial_seed() + trainer.progress.updates)
        if "cuda" in randomness and torch.cuda.is_available():
            torch.cuda.set_rng_state(randomness["cuda"])


STATE, TENSORS, SUMS = "state.json", "state.safetensors", "SHA256SUMS"
"""The files of a checkpoint; the last has the digests of the others as `sha256sum` writes them."""


class _DamagedError(Exception):
    """A checkpoint is not what was written."""


def _sums(digests: Mapping[str, str]) -> bytes:
    """The content of `SUMS` for files of these digests."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


def _digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_whole(folder: Path) -> tuple[bytes, bytes]:
    """The state and the tensors of a checkpoint.

    Raises:
        _DamagedError: a file is missing or not what was written.
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
    """The epoch and the model's tensors in the checkpoint of so many updates; None where there is no whole one."""
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
    """The tensors whose names start with `prefix`, under the rest of their names."""
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
