"""Loading models of every kind that users have: seqwright's own, and those of Sockeye 1, the engine of the original."""

import hashlib
import logging
import os
from pathlib import Path

import torch

import seqwright
from seqwright.artifacts import CONFIG, TrainedModel, load_model
from seqwright.errors import ClientError
from seqwright.files import StrPath, describe_os_errors
from seqwright.importers.sockeye import holds_sockeye_model, import_sockeye, sockeye_files
from seqwright.locks import TemporaryFolder, locked
from seqwright.remote.cache import cache_folder

logger = logging.getLogger(__name__)


def load_any_model(path: StrPath, device: torch.device | None = None) -> TrainedModel:
    """Load a model of seqwright or of Sockeye 1, in evaluation mode.

    A model of Sockeye is imported into the cache of remote copies, where the next load finds it. Processes that load
    the same model at the same time import it once. Where the cache cannot be written, each load imports it.

    Args:
        path: a folder or an archive of either kind; see `artifacts.load_model` and `importers.sockeye.import_sockeye`.
        device: where the parameters go; the CPU if not given.

    Raises:
        ClientError: there is no model, or it is damaged; the message names the file.
    """
    path = Path(path)
    imports = _import_folder()
    if not _has_import(path, imports):
        try:
            return load_model(path, device)
        except ClientError:
            if not holds_sockeye_model(path):
                raise
    if imports is None:
        with TemporaryFolder() as folder:
            import_sockeye(path, folder / "model")
            return load_model(folder / "model", device)
    folder = imports / _digest(path)
    with locked(imports / f"{folder.name}.lock", refusal="", timeout=-1):
        if not (folder / CONFIG).exists():
            logger.info("importing %s, a model of Sockeye 1, into %s", path, folder)
            import_sockeye(path, folder)
    try:
        return load_model(folder, device)
    except ClientError as error:
        raise ClientError(f"{error} ({folder} was imported from {path}; remove it to import it again)") from error


def _import_folder() -> Path | None:
    """Where imported models are kept; None where that cannot be written."""
    try:
        folder = cache_folder() / "imported"
        folder.mkdir(parents=True, exist_ok=True)
    except (ClientError, OSError):
        return None
    return folder if os.access(folder, os.W_OK) else None


def _has_import(path: Path, imports: Path | None) -> bool:
    """Whether an archive has been imported before, which saves unpacking it to see what it is."""
    if imports is None or not any(imports.iterdir()):
        return False
    with describe_os_errors(f"cannot read {path}"):
        return path.is_file() and (imports / _digest(path) / CONFIG).exists()


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
