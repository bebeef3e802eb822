"""Turn models of Sockeye 1, the engine inside the original, into this project's model folders.

A Sockeye model is a folder of `params.best` (MXNet arrays), `config` (tagged YAML), the vocabularies `vocab.src.json`
and `vocab.trg.json` (`vocab.src.0.json` and `vocab.trg.0.json` in later versions), and perhaps `metrics`. The
original's `model.tar.gz` is the same in an archive.
"""

import math
import re
from pathlib import Path, PurePosixPath

import torch

from seqwright.archives import MAX_UNPACKED_BYTES, names_in, unpack
from seqwright.artifacts import CONFIG as OUR_CONFIG
from seqwright.artifacts import TrainedModel, save_model
from seqwright.data.vocabulary import MAX_VOCABULARY_BYTES, Vocabulary
from seqwright.errors import ClientError
from seqwright.files import StrPath, describe_os_errors, folder_with, read_bytes, remove_leftovers, require_absent
from seqwright.importers.config import parse_config
from seqwright.importers.ndarray import Arrays, parse_ndarrays
from seqwright.importers.sockeye_settings import read_settings
from seqwright.importers.sockeye_weights import SOURCE_POSITIONS, TARGET_POSITIONS, convert, strip_kinds
from seqwright.locks import TemporaryFolder, lock_path, locked
from seqwright.models.seq2seq import build_model

CONFIG, BEST, METRICS = "config", "params.best", "metrics"
CHECKPOINT = re.compile(r"params\.(\d+)")
PARTS = re.compile(rf"{CONFIG}|{METRICS}|params\.(best|\d+)|vocab\.(src|trg)(\.0)?\.(json|pkl)")
"""Names of the files that an import reads, or mentions in a message."""
PICKLE = b"\x80"
"""The first byte of every binary pickle."""
LIMITS = {
    CONFIG: 1 << 20,
    METRICS: 16 << 20,
    **{f"vocab.{side}{factor}.json": MAX_VOCABULARY_BYTES for side in ("src", "trg") for factor in ("", ".0")},
}
"""Bytes of the largest file that is read, by name; parameters may have `MAX_UNPACKED_BYTES`."""


def import_sockeye(source: StrPath, output: StrPath) -> TrainedModel:
    """Turn a Sockeye 1 model into a model folder that gives the same translations.

    Args:
        source: the model's folder, or a tar archive of its files, perhaps in a folder of the archive.
        output: the new model folder. It appears when the whole model has been read and checked, or not at all.

    Returns:
        The model that was written, in evaluation mode.

    Raises:
        ClientError: a part is missing, damaged or too large; the model has a feature without counterpart; or `output`
            exists already, cannot be written, or is being written by another process. The message names it.
    """
    source, output = Path(source), Path(output)
    require_absent(output)
    refusal = f"another process is importing into {output}: let it end, or name another folder"
    with locked(lock_path(output), refusal):
        remove_leftovers(output)
        with describe_os_errors(f"cannot read {source}"):
            trained, metrics = _read_model(source)
        save_model(output, trained, metrics)
    return trained


def _read_model(source: Path) -> tuple[TrainedModel, dict[str, float]]:
    """Read the model of a folder or archive, and its scores."""
    if source.is_file():
        with TemporaryFolder() as folder:
            unpack(source, folder, _part, LIMITS)
            return _load(folder, f"{source}: ")
    if source.is_dir():
        source = folder_with(source, SOCKEYE_NAMES)
        return _load(source, f"{source}/")
    raise ClientError(f"no model at {source}: name a Sockeye model folder or a .tar.gz of one")


def holds_sockeye_model(source: Path) -> bool:
    """Whether a folder or an archive has files of a Sockeye model, and no model of seqwright.

    Raises:
        ClientError: the archive is damaged, or the folder cannot be read.
    """
    with describe_os_errors(f"cannot read {source}"):
        if source.is_file():
            names = {PurePosixPath(name).name for name in names_in(source)}
        elif source.is_dir():
            names = {path.name for path in folder_with(source, SOCKEYE_NAMES).iterdir()}
        else:
            return False
    return any(name in names for name in SOCKEYE_NAMES) and OUR_CONFIG not in names


def sockeye_files(folder: Path) -> list[Path]:
    """The files that an import of a Sockeye model folder reads.

    Raises:
        ClientError: there are no parameters.
    """
    folder = folder_with(folder, SOCKEYE_NAMES)
    parameters = _parameter_file(folder, f"{folder}/")
    return sorted(
        path
        for path in folder.iterdir()
        if PARTS.fullmatch(path.name) and (not path.name.startswith("params.") or path.name == parameters)
    )


SOCKEYE_NAMES = (CONFIG, BEST)
"""Names of files that only models of Sockeye have."""


def _part(path: str) -> str | None:
    """The name of a file of an archive if it is one that an import reads."""
    name = PurePosixPath(path).name
    return name if PARTS.fullmatch(name) else None


def _load(folder: Path, origin: str) -> tuple[TrainedModel, dict[str, float]]:
    """Read the model in `folder`; `origin` goes before the names of its files in messages."""
    config = parse_config(_read(folder, CONFIG, origin), origin + CONFIG)
    parameters = _parameter_file(folder, origin)
    source_vocabulary, target_vocabulary = (_vocabulary(folder, origin, side) for side in ("src", "trg"))
    for name, vocabulary in (("vocab_source_size", source_vocabulary), ("vocab_target_size", target_vocabulary)):
        if (size := config.integer(name, len(vocabulary))) != len(vocabulary):
            raise ClientError(
                f"{origin}{CONFIG} says {name} {size}, but the vocabulary has {len(vocabulary)} tokens: "
                "the files are not of one model; copy them all again"
            )
    arrays = strip_kinds(parse_ndarrays(_read(folder, parameters, origin), origin + parameters))
    sockeye = read_settings(config, _rows(arrays, SOURCE_POSITIONS), _rows(arrays, TARGET_POSITIONS))
    with torch.device("meta"):
        model = build_model(sockeye.hyperparameters, len(source_vocabulary), len(target_vocabulary))
    model.load_state_dict(convert(arrays, sockeye, model, origin + parameters), assign=True)
    trained = TrainedModel(
        model.eval(),
        sockeye.hyperparameters,
        source_vocabulary,
        target_vocabulary,
        sockeye.length_ratio,
        sockeye.source_eos,
    )
    return trained, _metrics(folder, origin)


def _read(folder: Path, name: str, origin: str) -> bytes:
    """The contents of a file of the model, within its limit."""
    if not (folder / name).is_file():
        raise ClientError(f"{origin.rstrip('/: ')} is not a Sockeye model: it has no {name}")
    return read_bytes(folder / name, LIMITS.get(name, MAX_UNPACKED_BYTES), origin + name)


def _parameter_file(folder: Path, origin: str) -> str:
    """The name of the best parameters, or of the last ones if no file is called `params.best`."""
    if (folder / BEST).is_file():
        return BEST
    with describe_os_errors(f"cannot read {origin}"):
        checkpoints = [path.name for path in folder.iterdir() if CHECKPOINT.fullmatch(path.name)]
    if not checkpoints:
        raise ClientError(f"{origin.rstrip('/: ')} is not a Sockeye model: it has no {BEST}")
    return max(checkpoints, key=_checkpoint)


def _checkpoint(name: str) -> int:
    """The number of the checkpoint whose parameters a file holds; 0 for `params.best`."""
    match = CHECKPOINT.fullmatch(name)
    return int(match[1]) if match else 0


def _vocabulary(folder: Path, origin: str, side: str) -> Vocabulary:
    names = [f"vocab.{side}.0.json", f"vocab.{side}.json"]
    for name in names:
        if (folder / name).is_file():
            content = _read(folder, name, origin)
            if content.startswith(PICKLE):
                raise _pickled(origin + name)
            return Vocabulary.from_json(content, origin + name)
    for name in (f"vocab.{side}.0.pkl", f"vocab.{side}.pkl"):
        if (folder / name).is_file():
            raise _pickled(origin + name)
    raise ClientError(f"{origin.rstrip('/: ')} is not a Sockeye model: it has no {' or '.join(reversed(names))}")


def _pickled(name: str) -> ClientError:
    return ClientError(
        f"{name} is a pickle, which can run any program when it is read: write the vocabulary as JSON, "
        "an object of token to id, with the Sockeye that made it"
    )


def _rows(arrays: Arrays, name: str) -> int | None:
    return len(arrays[name]) if name in arrays and arrays[name].ndim else None


_DIGITS = 19
"""More digits than the number of a checkpoint has."""


def _metrics(folder: Path, origin: str) -> dict[str, float]:
    """Validation scores of the imported checkpoint from the `metrics` file; none if it does not have them.

    A line is `checkpoint TAB name=value TAB …`. If the name of `params.best` does not give its checkpoint, the one of
    the lowest perplexity is taken.
    """
    if not (folder / METRICS).is_file():
        return {}
    lines = _read(folder, METRICS, origin).decode("utf-8-sig", errors="replace").splitlines()
    rows: dict[int, dict[str, float]] = {}
    for line in lines:
        number, *fields = line.split("\t")
        pairs = dict(field.partition("=")[::2] for field in fields)
        scores = {name: _number(pairs.get(f"{name}-val", "")) for name in ("perplexity", "accuracy")}
        if number.isdecimal() and len(number) < _DIGITS:
            rows[int(number)] = {name: value for name, value in scores.items() if math.isfinite(value)}
    best = _checkpoint((folder / BEST).resolve().name)
    if best in rows or not rows:
        return rows.get(best, {})
    return min(rows.values(), key=lambda scores: scores.get("perplexity", math.inf))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
