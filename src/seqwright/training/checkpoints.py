"""Training checkpoints: everything that a run needs to go on as if it had never stopped."""

import dataclasses
import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from seqwright.artifacts import CONFIG, TrainedModel, copy_model, save_model, write_tensors
from seqwright.errors import ClientError
from seqwright.files import explained, new_folder, writing
from seqwright.hyperparameters import Hyperparameters
from seqwright.training.progress import Checkpoint, Monitor, Progress
from seqwright.training.trainer import Trainer

FORMAT_VERSION = 2
MAY_CHANGE = frozenset(
    {
        "max_num_batches",
        "max_num_epochs",
        "min_num_epochs",
        "checkpoint_threshold",
        "bleu_sample_size",
        "beam_size",
    }
)
"""Hyperparameters that a resumed run may set anew: they bound or watch training, but do not shape it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What a run is: a checkpoint of another identity is not continued.

    Attributes:
        hyperparameters: their values by name, those in `MAY_CHANGE` left out.
        data: digests of the channels and vocabularies by name.
        seed: the seed of initialisation, data order and dropout.
        precision: the arithmetic of the matrix products.
    """

    hyperparameters: Mapping[str, object]
    data: Mapping[str, str]
    seed: int
    precision: str

    def difference(self, other: Mapping[str, object]) -> list[str]:
        """What differs from the identity stored as `other`, one phrase each.

        A hyperparameter that `other` does not name is younger than it, and had no effect then: its default.
        """
        defaults = {name: field.default for name, field in Hyperparameters.model_fields.items()}
        mine, theirs = _flat(self.hyperparameters), {**defaults, **_flat(other.get("hyperparameters"))}
        changed = [(name, theirs.get(name), value) for name, value in sorted(mine.items())]
        changed += [(name, other.get(name), getattr(self, name)) for name in ("seed", "precision")]
        found = [f"{name} (was {was}, is {now})" for name, was, now in changed if was != now]
        data = _flat(other.get("data"))
        return found + [name for name in sorted({*self.data, *data}) if self.data.get(name) != data.get(name)]


def _flat(stored: object) -> Mapping[str, object]:
    return stored if isinstance(stored, Mapping) else {}


BEST = "best"
"""The folder beside the checkpoints that holds a copy of the best model, in case the output is lost between runs."""


class BestModelWriter(Monitor):
    """Saves the model whenever the optimized metric improves, beside the checkpoints and as the run's output.

    Args:
        checkpoints: the folder of the checkpoints.
        output: the model folder.
        trained: the model in training.
    """

    def __init__(self, checkpoints: Path, output: Path, trained: TrainedModel) -> None:
        self._folders = (checkpoints / BEST, output)
        self._trained = trained

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """Save the model if it is the best so far."""
        if checkpoint.improved:
            self._save(progress, checkpoint.validation.named())

    def on_end(self, progress: Progress, reason: str) -> None:
        """Leave a model even where none was validated, or none had a finite score."""
        if progress.best is None:
            self._save(progress, {})

    def _save(self, progress: Progress, scores: Mapping[str, float]) -> None:
        for folder in self._folders:
            save_model(folder, self._trained, {"updates": progress.updates, "epoch": progress.epoch, **scores})


def restore_best(checkpoints: Path, output: Path) -> None:
    """Put the best model back where `output` has none: a container keeps its checkpoints, but not its model."""
    if (checkpoints / BEST / CONFIG).exists() and not (output / CONFIG).exists():
        copy_model(checkpoints / BEST, output)


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
        """Collect the run's state, and have it written."""
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
        target = self.folder / f"{_NAME}{updates:09d}"
        try:
            shutil.rmtree(target, ignore_errors=True)  # one that could not be restored
            with new_folder(target) as scratch:
                write_tensors(scratch / TENSORS, tensors, self._taken.set)
                with writing(scratch / STATE) as stream:
                    stream.write(state)
        finally:
            self._taken.set()
        for old in existing_checkpoints(self.folder)[self._keep :]:
            shutil.rmtree(old, ignore_errors=True)
        self._saved()

    def restore(self) -> bool:
        """Put the run where its newest readable checkpoint left it; False if there is none.

        The leading process reads; the others, which may have no such folder, are told.

        Raises:
            ClientError: the checkpoints are of another run; the message names what differs.
        """
        state, tensors = b"", b""
        if self._group.leads:
            for leftover in self.folder.glob(f".{_NAME}*.tmp"):  # of a run that was killed while it wrote
                shutil.rmtree(leftover, ignore_errors=True)
            state, tensors = self._read()
        state, tensors = self._group.broadcast(state), self._group.broadcast(tensors)
        if state:
            self._restore(json.loads(state), load(tensors))
        return bool(state)

    def _read(self) -> tuple[bytes, bytes]:
        """The files of the newest readable checkpoint; empty where there is none."""
        for folder in existing_checkpoints(self.folder):
            try:
                with explained(f"cannot read {folder}"):
                    content = (folder / STATE).read_bytes(), (folder / TENSORS).read_bytes()
                    state = json.loads(content[0])
                    load(content[1])
            except (ClientError, ValueError, SafetensorError) as error:
                logger.warning("checkpoint %s is damaged (%s): trying the one before", folder, error)
                continue
            if differences := self._identity.difference(state["identity"]):
                raise ClientError(
                    f"{self.folder} holds checkpoints of another run, which differs in {', '.join(differences)}: "
                    "restore those settings, or name another --checkpoints folder and --output"
                )
            return content
        return b"", b""

    def _restore(self, state: Mapping[str, dict[str, float]], tensors: Mapping[str, Tensor]) -> None:
        trainer = self._trainer
        trainer.model.load_state_dict(_under("model.", tensors))
        _restore_optimizer(trainer, tensors)
        trainer.schedule.restore(state["schedule"])
        for name, value in state["progress"].items():
            setattr(trainer.progress, name, value)
        randomness = _under(f"random.{self._group.rank}.", tensors)
        if "cpu" in randomness:
            torch.set_rng_state(randomness["cpu"])
        else:  # there were fewer processes: a state that none of them has
            torch.manual_seed(torch.initial_seed() + trainer.progress.updates)
        if "cuda" in randomness and torch.cuda.is_available():
            torch.cuda.set_rng_state(randomness["cuda"])


_NAME = "checkpoint-"
"""What the folders of checkpoints are called, before the number of updates."""

STATE, TENSORS = "state.json", "state.safetensors"
"""The files of a checkpoint."""


def _random_state() -> bytes:
    """The states of this process's random number generators, as safetensors."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return save(states)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def has_begun(folder: Path) -> bool:
    """Whether a run with its checkpoints in `folder` has left anything, if only a first model before it was killed."""
    return bool(existing_checkpoints(folder)) or (folder / BEST).exists()


def existing_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders in `folder`, newest first."""
    return sorted(folder.glob(f"{_NAME}*"), reverse=True)


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
