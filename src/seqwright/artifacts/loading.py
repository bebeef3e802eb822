"""Loading model folders and archives, and checking them."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from seqwright.archives import unpack
from seqwright.artifacts.format import (
    CONFIG,
    DIGEST,
    FILES,
    MAX_CONFIG_BYTES,
    METRICS,
    SOURCE_VOCABULARY,
    TARGET_VOCABULARY,
    WEIGHTS,
    Config,
    TrainedModel,
    digest_of,
)
from seqwright.data.vocabulary import MAX_VOCABULARY_BYTES, Vocabulary
from seqwright.errors import ClientError
from seqwright.files import StrPath, describe_os_errors, folder_with, read_bytes
from seqwright.hyperparameters import Hyperparameters
from seqwright.locks import TemporaryFolder
from seqwright.models.seq2seq import Seq2Seq, build_model


def load_model(path: StrPath, device: torch.device | None = None) -> TrainedModel:
    """Load a model folder or `model.tar.gz`, checked, in evaluation mode.

    The model's files may also be in the only subfolder of the folder that has a model, or in one folder of the archive.

    Args:
        path: the folder or the archive.
        device: where the parameters go; the CPU if not given.

    Raises:
        ClientError: a file is missing, damaged, or does not fit the others; the message names it.
    """
    path = Path(path)
    with describe_os_errors(f"cannot read {path}"):
        if path.is_file():
            with TemporaryFolder() as folder:
                _unpack_model(path, folder)
                return _load_folder(folder, f"{path}: ", device)
        if path.is_dir():
            path = folder_with(path, (CONFIG, WEIGHTS))
            return _load_folder(path, f"{path}/", device)
    raise ClientError(f"no model at {path}: name a model folder or a model.tar.gz")


_INNER = "inner:"
"""What the names of unpacked files begin with that were in a folder of the archive."""


def _unpack_model(archive: Path, folder: Path) -> None:
    """Unpack the files of a model, from the top of an archive or, if there are none, from the one folder in it.

    Raises:
        ClientError: the archive is damaged, or has models in several folders and none at the top.
    """
    parents: list[str] = []

    def choose(name: str) -> str | None:
        parts = PurePosixPath(name).parts
        if not parts or len(parts) > 2 or parts[-1] not in FILES or ".." in parts or parts[0] == "/":
            return None
        if len(parts) == 1:
            return parts[0]
        if parts[0] not in parents:
            parents.append(parts[0])
        return _INNER + parts[1] if parts[0] == parents[0] else None

    limits = {
        CONFIG: MAX_CONFIG_BYTES,
        SOURCE_VOCABULARY: MAX_VOCABULARY_BYTES,
        TARGET_VOCABULARY: MAX_VOCABULARY_BYTES,
    }
    unpack(archive, folder, choose, limits | {_INNER + name: limit for name, limit in limits.items()})
    if any((folder / name).exists() for name in (CONFIG, WEIGHTS)):
        return
    if len(parents) > 1:
        raise ClientError(f"{archive} holds models in {len(parents)} folders, {parents[0]} and others: leave one")
    for path in list(folder.glob(f"{_INNER}*")):
        name = folder / path.name.removeprefix(_INNER)
        if path.is_symlink():
            name.symlink_to(os.readlink(path).removeprefix(_INNER))
        else:
            path.rename(name)


def _load_folder(folder: Path, origin: str, device: torch.device | None) -> TrainedModel:
    """Load a model folder; `origin` goes before the names of its files in messages."""
    missing = [name for name in FILES if name != METRICS and not (folder / name).is_file()]
    if missing:
        raise ClientError(f"{origin.rstrip('/: ')} is not a complete model: it has no {', '.join(missing)}")
    config = _read_config(folder / CONFIG, origin + CONFIG)
    settings = Hyperparameters.parse(config.hyperparameters)
    # From here on sizes are bounded by what the file of weights really holds.
    model = _build(config, settings, _shapes(folder / WEIGHTS, origin + WEIGHTS), origin)
    source_vocabulary = _read_vocabulary(folder, SOURCE_VOCABULARY, origin, config.source_vocab_size)
    target_vocabulary = _read_vocabulary(folder, TARGET_VOCABULARY, origin, config.target_vocab_size)
    _fill(model, folder / WEIGHTS, origin + WEIGHTS, device)
    return TrainedModel(
        model.eval(), settings, source_vocabulary, target_vocabulary, config.length_ratio, config.source_eos
    )


def _read_config(path: Path, origin: str) -> Config:
    text = read_bytes(path, MAX_CONFIG_BYTES, origin)
    try:
        return Config.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ClientError(f"{origin} is damaged or of another format: {place or 'file'}: {first['msg']}") from error


def _read_vocabulary(folder: Path, name: str, origin: str, size: int) -> Vocabulary:
    vocabulary = Vocabulary.from_json(read_bytes(folder / name, MAX_VOCABULARY_BYTES, origin + name), origin + name)
    if len(vocabulary) != size:
        raise ClientError(
            f"{origin}{name} has {len(vocabulary)} tokens, but {CONFIG} says {size}: "
            "the files are not of one model; copy the whole folder again"
        )
    return vocabulary


def _shapes(path: Path, origin: str) -> dict[str, list[int]]:
    """The shape of every tensor in a safetensors file, by name; the tensors themselves are not read."""
    try:
        with safe_open(path, framework="pt") as stored:
            return {name: list(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise _damaged(origin, error) from error


def _build(config: Config, settings: Hyperparameters, stored: Mapping[str, list[int]], origin: str) -> Seq2Seq:
    """The model that `config.json` describes, without memory for its parameters, if stored tensors have its shapes.

    Raises:
        ClientError: they have not; the message names the first differences.
    """
    layers = settings.num_layers_encoder + settings.num_layers_decoder
    if layers > len(stored):  # every layer has tensors; as many as that could take hours to build
        raise ClientError(
            f"{origin}{WEIGHTS} does not fit {CONFIG}: it has {len(stored)} tensors, too few for {layers:,} layers"
        )
    try:
        with torch.device("meta"):
            model = build_model(settings, config.source_vocab_size, config.target_vocab_size)
    except (RuntimeError, OverflowError, TypeError) as error:  # PyTorch's words for numbers over 2**63
        raise ClientError(f"{origin}{CONFIG} describes a model that is too large: {_first_line(error)}") from error
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"no {name}" for name in wanted.keys() - stored.keys()]
    problems += [f"an unknown {name}" for name in stored.keys() - wanted.keys()]
    problems += [
        f"{name} of shape {stored[name]} instead of {shape}"
        for name, shape in wanted.items()
        if name in stored and stored[name] != shape
    ]
    if problems:
        raise ClientError(f"{origin}{WEIGHTS} does not fit {CONFIG}: it has {'; '.join(sorted(problems)[:5])}")
    return model


def _fill(model: Seq2Seq, path: Path, origin: str, device: torch.device | None) -> None:
    """Move the tensors of a safetensors file into `model`, which has the same names and shapes."""
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as stored:
            digest = (stored.metadata() or {}).get(DIGEST)
    except (SafetensorError, OSError) as error:
        raise _damaged(origin, error) from error
    if digest is not None and digest != digest_of(tensors):
        raise ClientError(
            f"{origin} is damaged: its tensors do not have the {DIGEST} in its metadata; copy it again or train again"
        )
    types = sorted({str(tensor.dtype) for tensor in tensors.values() if not tensor.is_floating_point()})
    if types:
        raise ClientError(f"{origin} holds {', '.join(types)}: the parameters of a model are fp32")
    tensors = {name: tensor.float().to(device) for name, tensor in tensors.items()}
    if broken := sorted(name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())):
        raise ClientError(f"{origin} has numbers that are not finite, in {broken[0]}: it is damaged; train again")
    model.load_state_dict(tensors, assign=True)


def _damaged(origin: str, error: Exception) -> ClientError:
    return ClientError(f"{origin} is damaged ({error}): copy it again or train again")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
