"""The folders of a run: whose they are, and that no other run writes to them."""

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
"""The file beside the checkpoints that says whose they are, from before the first of them."""

TENSORBOARD, CORPUS = "tensorboard", "corpus"
"""The folders beside the checkpoints that hold event files and, unless told otherwise, the decoded channels."""

BEST = "best"
"""The folder beside the checkpoints that holds a copy of the best model, in case the output is lost between runs."""

PREFIX = "checkpoint-"
"""What the folders of checkpoints are called, before the number of updates."""


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

    def require(self, other: Mapping[str, object], folder: Path) -> None:
        """Check that what is in `folder`, whose identity is stored as `other`, is this run's.

        Raises:
            ClientError: it is another run's; the message names what differs.
        """
        if differences := self.difference(other):
            raise ClientError(
                f"{folder} holds checkpoints of another run, which differs in {', '.join(differences)}: "
                "restore those settings, or name another --checkpoints folder and --output"
            )

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


@contextlib.contextmanager
def held(checkpoints: Path, output: Path, channels: Sequence[Path]) -> Iterator[None]:
    """Keep other runs out of the folders of one, of which the first is made if need be.

    Args:
        checkpoints: its checkpoints.
        output: its model folder.
        channels: the folders of its data.

    Raises:
        ClientError: another run writes to them, they are in each other's way or in that of the data, or the model
            folder holds something though no run has begun.
    """
    _require_apart(checkpoints, output, channels)
    if not has_begun(checkpoints):
        require_absent(output)  # said before the channels are read, which may take long
    model = Path(os.path.realpath(output))
    with contextlib.ExitStack() as stack:
        for lock, folder in ((checkpoints / ".lock", checkpoints), (lock_path(model), output)):
            refusal = f"another run is writing to {folder}: let it end, or name other folders"
            stack.enter_context(locked(lock, refusal))
        yield


def _require_apart(checkpoints: Path, output: Path, channels: Sequence[Path]) -> None:
    """Check that neither folder that is written is where the other, or the data, has its files; links are followed."""
    state, model, *data = (Path(os.path.realpath(path)) for path in (checkpoints, output, *channels))
    if state.is_relative_to(model):
        raise ClientError(f"checkpoints cannot be in the model folder {output}: name a --checkpoints folder outside it")
    if model.is_relative_to(state) and _is_taken(model.relative_to(state).parts[0]):
        raise ClientError(f"{output} is where {checkpoints} has files of its own: name another --output")
    for option, written, folder in (("--checkpoints", state, checkpoints), ("--output", model, output)):
        for channel in data:
            if written in (channel, channel.parent) or written.is_relative_to(channel):
                raise ClientError(f"{folder} is a folder of the training data: name another {option}")


def _is_taken(name: str) -> bool:
    """Whether a run uses this name beside its checkpoints."""
    return name in (BEST, RUN, TENSORBOARD, CORPUS) or name.startswith((PREFIX, "."))


def claim(checkpoints: Path, output: Path, identity: Identity, trained: TrainedModel) -> None:
    """Take the folders of a run before it writes to them, and remove what it left unfinished when it was killed.

    Args:
        checkpoints: its checkpoints; there.
        output: its model folder.
        identity: what the run is.
        trained: the model in training.

    Raises:
        ClientError: `checkpoints` is another run's, or `output` holds something else than this run's model; the
            message names what differs.
    """
    path = checkpoints / RUN
    is_ours = path.exists()
    if is_ours:
        stored = read_json_object(path)
        if not stored.keys() >= {field.name for field in dataclasses.fields(Identity)}:
            raise ClientError(f"{path} is not of a run of seqwright: name another --checkpoints folder")
        identity.require(stored, checkpoints)
    elif has_begun(checkpoints):
        raise ClientError(f"{checkpoints} holds something, but no {RUN}: it is not of a run of seqwright; name another")
    else:
        require_absent(output)
    with describe_os_errors(f"cannot tidy up {checkpoints}"):
        for folder in (checkpoints / BEST, output):
            if is_ours:
                discard_unfinished(folder)
            if (folder / CONFIG).exists():
                require_same_model(folder, trained, MAY_CHANGE)
        for leftover in checkpoints.glob(f".{PREFIX}*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
    if not is_ours:
        with writing(path) as stream:
            stream.write(json.dumps(dataclasses.asdict(identity), indent=2).encode())


def has_begun(folder: Path) -> bool:
    """Whether a run with its checkpoints in `folder` has left anything, if only a first model before it was killed."""
    return bool(existing_checkpoints(folder)) or any((folder / name).exists() for name in (RUN, BEST))


def existing_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders in `folder`, newest first; what a user has copied under a name of their own is not one."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)), reverse=True)
