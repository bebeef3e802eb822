"""The model folder and `model.tar.gz`: what training leaves and everything else starts from.

A model is five files: `config.json`, `model.safetensors`, `vocab.src.json`, `vocab.trg.json` and `metrics.json`. The
weights have the digest of their tensors among their own metadata, so that one file is replaced at a time.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqwright.archives import unpack
from seqwright.data.vocabulary import Vocabulary
from seqwright.errors import ClientError
from seqwright.files import (
    StrPath,
    describe_os_errors,
    new_folder,
    read_json_object,
    remove_leftovers,
    replacing,
    writing,
)
from seqwright.hyperparameters import Hyperparameters
from seqwright.models.seq2seq import Seq2Seq, build_model

CONFIG, WEIGHTS, METRICS = "config.json", "model.safetensors", "metrics.json"
SOURCE_VOCABULARY, TARGET_VOCABULARY = "vocab.src.json", "vocab.trg.json"
FILES = (WEIGHTS, SOURCE_VOCABULARY, TARGET_VOCABULARY, METRICS, CONFIG)
"""In the order in which they are written: the last makes a model whole."""

DIGEST = "sha256"
"""The name of the tensors' digest in the metadata of the weights; files of other programs have none."""


class LengthRatio(BaseModel):
    """How long targets are against their sources in the training data, special symbols not counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    std: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Config(BaseModel):
    """What `config.json` says of a model beyond its hyperparameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    source_vocab_size: Annotated[int, Field(ge=4)]
    target_vocab_size: Annotated[int, Field(ge=4)]
    source_eos: bool
    """Whether `</s>` ends every source sequence, as it did in training."""
    length_ratio: LengthRatio
    hyperparameters: dict[str, bool | int | float | str | None]


@dataclass(frozen=True)
class TrainedModel:
    """A model with all that is needed to use it.

    Attributes:
        model: the network.
        settings: the hyperparameters it was built from.
        source_vocabulary: source tokens and ids.
        target_vocabulary: target tokens and ids.
        length_ratio: bounds the length of translations.
        source_eos: whether `</s>` ends every source sequence.
    """

    model: Seq2Seq
    settings: Hyperparameters
    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    length_ratio: LengthRatio
    source_eos: bool = True

    def digest(self) -> str:
        """The SHA-256 of the parameters and all that belongs to them."""
        vocabularies = (json.dumps(each.tokens) for each in (self.source_vocabulary, self.target_vocabulary))
        parts = (_config_of(self).model_dump_json(), *vocabularies, digest_of(self.model.state_dict()))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def save_model(
    folder: StrPath,
    trained: TrainedModel,
    metrics: Mapping[str, float | int],
    may_differ: Collection[str] = (),
) -> None:
    """Write a model folder; where `folder` already holds this model, replace its weights and metrics.

    A reader never sees a half-written file, and a kill at any moment leaves a whole model: the first save renames a
    finished folder into place, later ones rename single files.

    Args:
        folder: where the model goes.
        trained: what to write.
        metrics: the validation scores of these weights, for `metrics.json`.
        may_differ: hyperparameters that the model in `folder` may have other values of; these replace them.

    Raises:
        ClientError: the folder holds something else, or the disk is full or not writable.
    """
    folder = Path(folder)
    weights = {name: tensor.contiguous() for name, tensor in trained.model.state_dict().items()}
    marks = {DIGEST: digest_of(weights)}
    config = _config_of(trained)
    if (folder / CONFIG).exists():
        require_same_model(folder, trained, may_differ)
        write_tensors(folder / WEIGHTS, weights, metadata=marks)
        _write_json(folder / METRICS, dict(metrics))
        if read_json_object(folder / CONFIG) != config.model_dump():
            _write_json(folder / CONFIG, config.model_dump())
        return
    with new_folder(folder) as scratch:
        trained.source_vocabulary.save(scratch / SOURCE_VOCABULARY)
        trained.target_vocabulary.save(scratch / TARGET_VOCABULARY)
        write_tensors(scratch / WEIGHTS, weights, metadata=marks)
        _write_json(scratch / METRICS, dict(metrics))
        _write_json(scratch / CONFIG, config.model_dump())


def require_same_model(folder: Path, trained: TrainedModel, may_differ: Collection[str] = ()) -> None:
    """Check that a model folder is of the training that `trained` is in: its weights may be replaced by these.

    Args:
        folder: the folder, with a `config.json`.
        trained: the model.
        may_differ: hyperparameters that need not be the same.

    Raises:
        ClientError: it is another model, or damaged.
    """
    there, here = read_json_object(folder / CONFIG), _config_of(trained).model_dump()
    settings = there.pop("hyperparameters", None)
    before = Hyperparameters.parse(settings if isinstance(settings, dict) else {}).to_json_dict()
    now = here.pop("hyperparameters")
    names = {name for name, value in here.items() if there.get(name) != value}
    names |= {name for name in now if before[name] != now[name] and name not in may_differ}
    vocabularies = ((SOURCE_VOCABULARY, trained.source_vocabulary), (TARGET_VOCABULARY, trained.target_vocabulary))
    names |= {name for name, vocabulary in vocabularies if Vocabulary.load(folder / name).tokens != vocabulary.tokens}
    if names:
        raise ClientError(
            f"{folder} holds another model, which differs in {', '.join(sorted(names))}: name another folder, or "
            "remove this one"
        )


def discard_unfinished(folder: Path) -> None:
    """Remove what a `save_model` or `copy_model` that was killed has left in `folder` or beside it.

    A folder that was filled in place and is not whole, for it has no `config.json`, is emptied, if it has nothing but
    files of a model.
    """
    remove_leftovers(folder)
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= set(FILES) - {CONFIG}:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)


def _config_of(trained: TrainedModel) -> Config:
    return Config(
        source_vocab_size=len(trained.source_vocabulary),
        target_vocab_size=len(trained.target_vocabulary),
        source_eos=trained.source_eos,
        length_ratio=trained.length_ratio,
        hyperparameters=trained.settings.to_json_dict(),
    )


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors: of their names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    taken: Callable[[], None] = lambda: None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, straight from the tensors' memory; it appears under its name when it is whole.

    Args:
        path: the file.
        tensors: what goes into it.
        taken: called when the tensors are read to the end and may change, before the file has reached the disk.
        metadata: what else the file says.

    Raises:
        ClientError: the disk is full or the folder cannot be written.
    """
    with replacing(path) as scratch:
        try:
            save_file(dict(tensors), scratch, dict(metadata) if metadata else None)
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        taken()


def copy_model(source: StrPath, folder: StrPath) -> None:
    """Copy a model folder, whole or not at all; over a model that is there, file by file.

    Raises:
        ClientError: `folder` holds something else, or cannot be written.
    """
    source, folder = Path(source), Path(folder)
    if (folder / CONFIG).exists():
        for name in FILES:
            with replacing(folder / name) as scratch:
                shutil.copyfile(source / name, scratch)
        return
    with new_folder(folder) as scratch:
        for name in FILES:
            shutil.copyfile(source / name, scratch / name)


def load_model(path: StrPath, device: torch.device | None = None) -> TrainedModel:
    """Load a model folder or `model.tar.gz`, checked, in evaluation mode.

    Args:
        path: the folder or the archive.
        device: where the parameters go; the CPU if not given.

    Raises:
        ClientError: a file is missing, damaged, or does not fit the others; the message names it.
    """
    path = Path(path)
    if path.is_file():
        with tempfile.TemporaryDirectory(prefix="seqwright-") as scratch:
            unpack(path, Path(scratch), lambda name: name if name in FILES else None)
            return _load_folder(Path(scratch), f"{path}: ", device)
    if not path.is_dir():
        raise ClientError(f"no model at {path}: name a model folder or a model.tar.gz")
    return _load_folder(path, f"{path}/", device)


def _load_folder(folder: Path, origin: str, device: torch.device | None) -> TrainedModel:
    missing = [name for name in FILES if name != METRICS and not (folder / name).is_file()]
    if missing:
        raise ClientError(f"{origin.rstrip('/: ')} is not a complete model: it has no {', '.join(missing)}")
    config = _read_config(folder / CONFIG, origin + CONFIG)
    source_vocabulary = Vocabulary.load(folder / SOURCE_VOCABULARY)
    target_vocabulary = Vocabulary.load(folder / TARGET_VOCABULARY)
    for name, vocabulary, size in (
        (SOURCE_VOCABULARY, source_vocabulary, config.source_vocab_size),
        (TARGET_VOCABULARY, target_vocabulary, config.target_vocab_size),
    ):
        if len(vocabulary) != size:
            raise ClientError(
                f"{origin}{name} has {len(vocabulary)} tokens, but {CONFIG} says {size}: "
                "the files are not of one model; copy the whole folder again"
            )
    settings = Hyperparameters.parse(config.hyperparameters)
    with torch.device("meta"):
        model = build_model(settings, config.source_vocab_size, config.target_vocab_size)
    _fill(model, folder / WEIGHTS, origin + WEIGHTS, device)
    return TrainedModel(
        model.eval(), settings, source_vocabulary, target_vocabulary, config.length_ratio, config.source_eos
    )


def _read_config(path: Path, origin: str) -> Config:
    with describe_os_errors(f"cannot read {origin}"):
        text = path.read_bytes()
    try:
        return Config.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ClientError(f"{origin} is damaged or of another format: {place or 'file'}: {first['msg']}") from error


def _fill(model: Seq2Seq, path: Path, origin: str, device: torch.device | None) -> None:
    """Move the tensors of a safetensors file into `model`, by name and shape."""
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as stored:
            digest = (stored.metadata() or {}).get(DIGEST)
    except (SafetensorError, OSError) as error:
        raise ClientError(f"{origin} is damaged ({error}): copy it again or train again") from error
    if digest is not None and digest != digest_of(tensors):
        raise ClientError(
            f"{origin} is damaged: its tensors are not of the {DIGEST} that it names; copy it again or train again"
        )
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    kinds = sorted({str(tensor.dtype) for tensor in tensors.values() if not tensor.is_floating_point()})
    if kinds:
        raise ClientError(f"{origin} holds {', '.join(kinds)}: the parameters of a model are fp32")
    tensors = {name: tensor.float().to(device) for name, tensor in tensors.items()}
    if strange := sorted(name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())):
        raise ClientError(f"{origin} has numbers that are not finite, in {strange[0]}: it is damaged; train again")
    problems = [f"no {name}" for name in wanted.keys() - tensors.keys()]
    problems += [f"an unknown {name}" for name in tensors.keys() - wanted.keys()]
    problems += [
        f"{name} of shape {list(tensor.shape)} instead of {list(wanted[name])}"
        for name, tensor in tensors.items()
        if name in wanted and tensor.shape != wanted[name]
    ]
    if problems:
        raise ClientError(f"{origin} does not fit {CONFIG}: it has {'; '.join(sorted(problems)[:5])}")
    model.load_state_dict(tensors, assign=True)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    with writing(path) as stream:
        stream.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
