"""Models as users leave them for the container: ours or the original's, unpacked or not."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from seqwright.archives import names_in
from seqwright.artifacts import CONFIG
from seqwright.errors import ClientError
from seqwright.importers.sockeye import import_sockeye


@contextlib.contextmanager
def usable_model(folder: Path) -> Iterator[Path]:
    """The model that a folder holds, in a form that loads: an artefact of the original's engine is imported first.

    Args:
        folder: holds a model's files, or one `.tar.gz` of them.

    Yields:
        A model folder or archive, there until the block ends.

    Raises:
        ClientError: the folder holds no model, a damaged one, or several archives.
    """
    archives = sorted(path for path in folder.glob("*.tar.gz") if path.is_file())
    if len(archives) > 1:
        raise ClientError(f"{folder} holds {len(archives)} archives: leave the one with the model")
    source = archives[0] if archives else folder
    if CONFIG in _names(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="seqwright-") as scratch:
        imported = Path(scratch) / "model"
        import_sockeye(source, imported)
        yield imported


def _names(source: Path) -> list[str]:
    """The names of the files in a folder or a tar archive, `./` aside."""
    if not source.exists():
        raise ClientError(f"no model at {source}")
    if source.is_dir():
        return [path.name for path in source.iterdir()]
    return names_in(source)
