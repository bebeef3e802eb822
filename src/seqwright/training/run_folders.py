"""The folders that a training run writes to: locked against other runs, and checked to be of this run."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqwright.artifacts import CONFIG, TrainedModel, discard_unfinished, require_same_model
from seqwright.errors import ClientError
from seqwright.files import describe_os_errors, read_json_object, require_absent, writing
from seqwright.hyperparameters import Hyperparameters
from seqwright.locks import lock_path, locked

MAY_CHANGE = Hyperparameters.names_that_may_change_on_resume()
"""Hyperparameters that a resumed run may set anew: they bound or watch training, but do not shape it."""

RUN = "run.json"
"""The file beside the checkpoints that has the fingerprint of their run. It is there before the first checkpoint."""

TENSORBOARD, CORPUS = "tensorboard", "corpus"
"""The folders beside the checkpoints for event files and, unless another is given, for the decoded channels."""

BEST = "best"
"""The folder beside the checkpoints with a copy of the best model, in case the output is lost between runs."""

PREFIX = "checkpoint-"
"""The name of a checkpoint folder is this and the number of updates."""


@dataclass(frozen=True)
class RunFingerprint:
    """All that shapes the result of a run. A checkpoint with another fingerprint is not continued.

    Attributes:
        hyperparameters: values by name, without those in `MAY_CHANGE`.
        data: digests of the channels, the vocabularies and the start by name.
        seed: the seed of initialisation, data order and dropout.
        precision: the arithmetic of the matrix products.
    """

    hyperparameters: Mapping[str, object]
    data: Mapping[str, str]
    seed: int
    precision: str

    def require_match(self, stored: Mapping[str, object], folder: Path) -> None:
        """Check that the fingerprint stored in `folder` is this one.

        Raises:
            ClientError: it differs; the message names what differs.
        """
        if differences := self.differences(stored):
            raise ClientError(
                f"{folder} holds checkpoints of another run, which differs in {', '.join(differences)}: "
                "restore those settings, or name another --checkpoints folder and --output"
            )

    def differences(self, stored: Mapping[str, object]) -> list[str]:
        """What differs from a stored fingerprint, one phrase each.

        A hyperparameter that the stored one lacks was introduced later; the run had its default.
        """
        defaults = {name: field.default for name, field in Hyperparameters.model_fields.items()}
        mine, theirs = _as_mapping(self.hyperparameters), {**defaults, **_as_mapping(stored.get("hyperparameters"))}
        changed = [(name, theirs.get(name), value) for name, value in sorted(mine.items())]
        changed += [(name, stored.get(name), getattr(self, name)) for name in ("seed", "precision")]
        found = [f"{name} (was {was}, is {now})" for name, was, now in changed if was != now]
        data = _as_mapping(stored.get("data"))
        return found + [name for name in sorted({*self.data, *data}) if self.data.get(name) != data.get(name)]


def _as_mapping(stored: object) -> Mapping[str, object]:
    return stored if isinstance(stored, Mapping) else {}


@contextlib.contextmanager
def lock_run_folders(checkpoints: Path, output: Path, channels: Sequence[Path]) -> Iterator[None]:
    """Keep other runs out of a run's folders during the block; the checkpoints folder is made if need be.

    Args:
        checkpoints: the folder of its checkpoints.
        output: its model folder.
        channels: the folders of its data.

    Raises:
        ClientError: another run writes to one of them, one lies where another or the data has its files, or the model
            folder is not empty although no run has begun.
    """
    _require_apart(checkpoints, output, channels)
    if not has_begun(checkpoints):
        require_absent(output)  # before the channels are read, which may take long
    model = Path(os.path.realpath(output))
    with contextlib.ExitStack() as stack:
        for lock, folder in ((checkpoints / ".lock", checkpoints), (lock_path(model), output)):
            refusal = f"another run is writing to {folder}: let it end, or name other folders"
            stack.enter_context(locked(lock, refusal))
        yield


def _require_apart(checkpoints: Path, output: Path, channels: Sequence[Path]) -> None:
    """Check that neither folder lies where the other or the data has its files; symbolic links are followed."""
    state, model, *data = (Path(os.path.realpath(path)) for path in (checkpoints, output, *channels))
    if state.is_relative_to(model):
        raise ClientError(f"checkpoints cannot be in the model folder {output}: name a --checkpoints folder outside it")
    if model.is_relative_to(state) and _is_used_by_runs(model.relative_to(state).parts[0]):
        raise ClientError(f"{output} is where {checkpoints} has files of its own: name another --output")
    for option, written, folder in (("--checkpoints", state, checkpoints), ("--output", model, output)):
        for channel in data:
            if written in (channel, channel.parent) or written.is_relative_to(channel):
                raise ClientError(f"{folder} is a folder of the training data: name another {option}")


def _is_used_by_runs(name: str) -> bool:
    """Whether a run may write something of this name beside its checkpoints."""
    return name in (BEST, RUN, TENSORBOARD, CORPUS) or name.startswith((PREFIX, "."))


def open_run_folders(checkpoints: Path, output: Path, fingerprint: RunFingerprint, trained: TrainedModel) -> None:
    """Check that a run may write to its folders, register it there, and remove what it left half-written when killed.

    Args:
        checkpoints: the folder of its checkpoints; exists.
        output: its model folder.
        fingerprint: the run's.
        trained: the model in training.

    Raises:
        ClientError: `checkpoints` belongs to another run, or `output` holds anything but this run's model; the message
            names what differs.
    """
    path = checkpoints / RUN
    is_registered = path.exists()
    if is_registered:
        stored = read_json_object(path)
        if not stored.keys() >= {field.name for field in dataclasses.fields(RunFingerprint)}:
            raise ClientError(f"{path} is not of a run of seqwright: name another --checkpoints folder")
        fingerprint.require_match(stored, checkpoints)
    elif has_begun(checkpoints):
        raise ClientError(f"{checkpoints} holds something, but no {RUN}: it is not of a run of seqwright; name another")
    else:
        require_absent(output)
    with describe_os_errors(f"cannot tidy up {checkpoints}"):
        for folder in (checkpoints / BEST, output):
            if is_registered:
                discard_unfinished(folder)
            if (folder / CONFIG).exists():
                require_same_model(folder, trained, MAY_CHANGE)
        for leftover in checkpoints.glob(f".{PREFIX}*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
    if not is_registered:
        with writing(path) as stream:
            stream.write(json.dumps(dataclasses.asdict(fingerprint), indent=2).encode())


def has_begun(folder: Path) -> bool:
    """Whether a run with its checkpoints in `folder` has written anything yet, if only a model."""
    return bool(existing_checkpoints(folder)) or any((folder / name).exists() for name in (RUN, BEST))


def existing_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders in `folder`, newest first; copies that a user made under other names are left out."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)), reverse=True)
