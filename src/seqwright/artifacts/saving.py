"""Writing and copying model folders."""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from seqwright.artifacts.format import (
    CONFIG,
    DIGEST,
    FILES,
    MAX_CONFIG_BYTES,
    METRICS,
    SOURCE_VOCABULARY,
    TARGET_VOCABULARY,
    WEIGHTS,
    TrainedModel,
    digest_of,
)
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


def save_model(
    folder: StrPath,
    trained: TrainedModel,
    metrics: Mapping[str, float | int],
    may_differ: Collection[str] = (),
) -> None:
    """Write a model folder; if `folder` holds an earlier state of this model, replace its weights and metrics.

    A reader never sees a half-written file, and a kill at any moment leaves a complete model: the first save renames a
    finished folder, later ones rename single files.

    Args:
        folder: the folder to write.
        trained: the model.
        metrics: the validation scores of these weights, for `metrics.json`.
        may_differ: hyperparameters whose values in `folder` may differ, and are replaced.

    Raises:
        ClientError: the folder holds something else, the disk is full, or the folder cannot be written.
    """
    folder = Path(folder)
    weights = {name: tensor.contiguous() for name, tensor in trained.model.state_dict().items()}
    metadata = {DIGEST: digest_of(weights)}
    config = trained.config()
    if _holds_model(folder):
        require_same_model(folder, trained, may_differ)
        write_tensors(folder / WEIGHTS, weights, metadata=metadata)
        _write_json(folder / METRICS, dict(metrics))
        if read_json_object(folder / CONFIG) != config.model_dump():
            _write_json(folder / CONFIG, config.model_dump())
        return
    with new_folder(folder) as temporary:
        trained.source_vocabulary.save(temporary / SOURCE_VOCABULARY)
        trained.target_vocabulary.save(temporary / TARGET_VOCABULARY)
        write_tensors(temporary / WEIGHTS, weights, metadata=metadata)
        _write_json(temporary / METRICS, dict(metrics))
        _write_json(temporary / CONFIG, config.model_dump())


def require_same_model(folder: Path, trained: TrainedModel, may_differ: Collection[str] = ()) -> None:
    """Check that a model folder holds an earlier state of `trained`, whose weights may replace those of the folder.

    Args:
        folder: the folder, with a `config.json`.
        trained: the model.
        may_differ: hyperparameters that need not be the same.

    Raises:
        ClientError: it is another model, or damaged.
    """
    stored, config = read_json_object(folder / CONFIG, MAX_CONFIG_BYTES), trained.config().model_dump()
    settings = stored.pop("hyperparameters", None)
    before = Hyperparameters.parse(settings if isinstance(settings, dict) else {}).to_json_dict()
    now = config.pop("hyperparameters")
    names = {name for name, value in config.items() if stored.get(name) != value}
    names |= {name for name in now if before[name] != now[name] and name not in may_differ}
    vocabularies = ((SOURCE_VOCABULARY, trained.source_vocabulary), (TARGET_VOCABULARY, trained.target_vocabulary))
    names |= {name for name, vocabulary in vocabularies if Vocabulary.load(folder / name).tokens != vocabulary.tokens}
    if names:
        raise ClientError(
            f"{folder} holds another model, which differs in {', '.join(sorted(names))}: name another folder, or "
            "remove this one"
        )


def discard_unfinished(folder: Path) -> None:
    """Remove the temporary files that a killed `save_model` or `copy_model` has left in `folder` or beside it.

    A folder that was filled in place and has no `config.json` yet is emptied, if it has only files of a model.
    """
    remove_leftovers(folder)
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= set(FILES) - {CONFIG}:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    taken: Callable[[], None] = lambda: None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file; it appears under its name when it is complete.

    Args:
        path: the file.
        tensors: its tensors, by name; they are not copied in memory.
        taken: called as soon as the tensors may change again, before the file has reached the disk.
        metadata: more texts for the file, by name.

    Raises:
        ClientError: the disk is full or the folder cannot be written.
    """
    with replacing(path) as temporary:
        try:
            save_file(dict(tensors), temporary, dict(metadata) if metadata else None)
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        taken()


def copy_model(source: StrPath, folder: StrPath) -> None:
    """Copy a model folder, completely or not at all; if `folder` holds a model, replace it file by file.

    Raises:
        ClientError: `folder` holds something else, or cannot be written.
    """
    source, folder = Path(source), Path(folder)
    if _holds_model(folder):
        for name in FILES:
            with replacing(folder / name) as temporary:
                shutil.copyfile(source / name, temporary)
        return
    with new_folder(folder) as temporary:
        for name in FILES:
            shutil.copyfile(source / name, temporary / name)


def _holds_model(folder: Path) -> bool:
    with describe_os_errors(f"cannot write {folder}"):
        return (folder / CONFIG).exists()


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    with writing(path) as stream:
        stream.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
