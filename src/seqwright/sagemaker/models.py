"""The model in the container's model folder: ours or the original's, unpacked or as an archive."""

import contextlib
import reprlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from seqwright.archives import names_in
from seqwright.artifacts import CONFIG, FILES
from seqwright.errors import ClientError
from seqwright.files import describe_os_errors
from seqwright.importers.sockeye import CONFIG as ORIGINAL_CONFIG
from seqwright.importers.sockeye import import_sockeye


@contextlib.contextmanager
def usable_model(folder: Path) -> Iterator[Path]:
    """The model in a folder, in a form that loads: an artefact of the original's engine is imported first.

    Args:
        folder: holds a model's files, or one `.tar.gz` of them.

    Yields:
        A model folder or archive, which exists until the block ends.

    Raises:
        ClientError: the folder holds no model, a damaged one, or several archives.
    """
    archives = sorted(path for path in folder.glob("*.tar.gz") if path.is_file())
    if len(archives) > 1:
        raise ClientError(f"{folder} holds {len(archives)} archives: leave the one with the model")
    source = archives[0] if archives else folder
    names = _names(source)
    if CONFIG in names:
        yield source
        return
    if ORIGINAL_CONFIG not in {PurePosixPath(name).name for name in names}:
        raise _no_model(source, names)
    with tempfile.TemporaryDirectory(prefix="seqwright-") as scratch:
        imported = Path(scratch) / "model"
        import_sockeye(source, imported)
        yield imported


def _names(source: Path) -> list[str]:
    """The names of the files in a folder or a tar archive, without a leading `./`."""
    with describe_os_errors(f"cannot read {source}"):
        if not source.exists():
            raise _no_model(source, None)
        if source.is_dir():
            return [path.name for path in source.iterdir()]
    return names_in(source)


def _no_model(source: Path, names: list[str] | None) -> ClientError:
    there = sorted(names or ())
    some = ", ".join(map(reprlib.repr, there[:_SHOWN])) + (", ..." if len(there) > _SHOWN else "")
    holds = "it does not exist" if names is None else f"it holds {some}" if there else "it is empty"
    return ClientError(
        f"no model at {source}: {holds}. There must be a model's files, {', '.join(sorted(FILES))}; or those of the "
        "original, config, params.best and the vocabularies; or one .tar.gz of either"
    )


_SHOWN = 5
"""How many of the names in a folder a message has."""
