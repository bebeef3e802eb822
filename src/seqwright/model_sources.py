"""Loading models of every kind that users have: seqwright's own, and those of Sockeye 1, the engine of the original."""

import hashlib
import logging
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import torch

import seqwright
from seqwright.archives import names_in
from seqwright.artifacts import CONFIG, FILES, WEIGHTS, TrainedModel, load_model
from seqwright.errors import ClientError
from seqwright.files import StrPath, describe_os_errors
from seqwright.importers.sockeye import SOCKEYE_NAMES, holds_sockeye_model, import_sockeye, sockeye_files
from seqwright.locks import TemporaryFolder, locked
from seqwright.remote.cache import cache_folder

logger = logging.getLogger(__name__)


def load_any_model(path: StrPath, device: torch.device | None = None) -> TrainedModel:
    """Load a model of seqwright or of Sockeye 1, in evaluation mode.

    A model of Sockeye is imported into the cache of remote copies, where the next load finds it. Processes that load
    the same model at the same time import it once. Where the cache cannot be written, each load imports it.

    Args:
        path: a folder or an archive of either kind, or a folder with one `.tar.gz` of either; see
            `artifacts.load_model` and `importers.sockeye.import_sockeye`.
        device: where the parameters go; the CPU if not given.

    Raises:
        ClientError: there is no model, or it is damaged; the message names the file.
    """
    path = _archive_in(Path(path))
    imports = _import_folder()
    folder = _expected_import(path, imports)
    if folder is None or not (folder / CONFIG).exists():
        try:
            return load_model(path, device)
        except ClientError as error:
            if not holds_sockeye_model(path):
                raise _explained(error, path) from error
    if imports is None:
        with TemporaryFolder() as temporary:
            import_sockeye(path, temporary / "model")
            return load_model(temporary / "model", device)
    folder = folder or imports / _digest(path)
    with locked(imports / f"{folder.name}.lock", refusal="", timeout=-1):
        if not (folder / CONFIG).exists():
            logger.info("importing %s, a model of Sockeye 1, into %s", path, folder)
            import_sockeye(path, folder)
    try:
        return load_model(folder, device)
    except ClientError as error:
        raise ClientError(f"{error} ({folder} was imported from {path}; remove it to import it again)") from error


def _archive_in(path: Path) -> Path:
    """The one `.tar.gz` in a folder that has no model itself; any other path stands for itself.

    Raises:
        ClientError: there are several.
    """
    with describe_os_errors(f"cannot read {path}"):
        if not path.is_dir() or _has_model(_names(path)):
            return path
        archives = sorted(each for each in path.glob("*.tar.gz") if each.is_file())
    if len(archives) > 1:
        raise ClientError(f"{path} holds {len(archives)} archives: leave the one with the model")
    return archives[0] if archives else path


def _explained(error: ClientError, path: Path) -> ClientError:
    """An error of loading, or a better one if the path has no file of a model at all."""
    if not path.exists():
        return error
    names = sorted(_names(path))
    if _has_model(names):
        return error
    some = ", ".join(map(reprlib.repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
    return ClientError(
        f"no model at {path}: {f'it holds {some}' if names else 'it is empty'}. There must be a model's files, "
        f"{', '.join(sorted(FILES))}; or those of the original, config, params.best and the vocabularies; or one "
        ".tar.gz of either"
    )


_SHOWN = 5
"""Names that a message has room for."""


def _names(path: Path) -> list[str]:
    """The names of the files in an archive, or in a folder and its subfolders, hidden ones left out."""
    if path.is_file():
        return names_in(path)
    names = [each.relative_to(path).as_posix() for pattern in ("*", "*/*") for each in path.glob(pattern)]
    return [name for name in names if not name.startswith(".")]


def _has_model(names: Iterable[str]) -> bool:
    return any(PurePosixPath(name).name in (CONFIG, WEIGHTS, *SOCKEYE_NAMES) for name in names)


def _import_folder() -> Path | None:
    """Where imported models are kept; None where that cannot be written."""
    try:
        folder = cache_folder() / "imported"
        folder.mkdir(parents=True, exist_ok=True)
    except (ClientError, OSError):
        return None
    return folder if os.access(folder, os.W_OK) else None


def _expected_import(path: Path, imports: Path | None) -> Path | None:
    """Where an archive is if it has been imported before, which saves unpacking it to see what it is.

    None for a folder, and where nothing has been imported yet: the archive is not read then.
    """
    if imports is None or not any(imports.iterdir()):
        return None
    with describe_os_errors(f"cannot read {path}"):
        return imports / _digest(path) if path.is_file() else None


def _digest(path: Path) -> str:
    """A name for the content of a Sockeye model, as this version of seqwright imports it."""
    digest = hashlib.sha256(f"{seqwright.__version__}\n".encode())
    with describe_os_errors(f"cannot read {path}"):
        for file in [path] if path.is_file() else sockeye_files(path):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            # The best parameters may be a link to those of a checkpoint, whose number the import reads.
            name = "" if file == path else f"{file.name} {file.resolve().name}"
            digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()[:32]
