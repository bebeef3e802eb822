"""The folder that keeps copies of remote files."""

import os
from pathlib import Path

from seqwright.errors import ClientError
from seqwright.files import describe_os_errors
from seqwright.remote.filesystem import Remote, digest

CACHE_VARIABLE = "SEQWRIGHT_CACHE"


def cache_folder() -> Path:
    """Where copies of remote files are kept: `$SEQWRIGHT_CACHE`, or the user's cache folder. It may be emptied.

    Raises:
        ClientError: the user has no home folder, and none is named.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "seqwright"
    try:
        return Path.home() / ".cache" / "seqwright"
    except RuntimeError as error:
        raise ClientError(f"there is no home folder: set {CACHE_VARIABLE} to a folder that can be written") from error


def folder_of(remote: Remote, purpose: str) -> Path:
    """The cache's folder for a URL and a purpose; it is made if it does not exist."""
    return _made(cache_folder() / purpose / digest([remote.url]))


def outgoing_folder() -> Path:
    """The cache's folder for what is to be sent; it is made if it does not exist."""
    return _made(cache_folder() / "outgoing")


def _made(folder: Path) -> Path:
    with describe_os_errors(f"cannot write {folder}; set {CACHE_VARIABLE} to a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
