"""The folder that keeps copies of remote files."""

import os
from pathlib import Path

from seqwright.files import explained
from seqwright.remote.filesystem import Remote, digest

CACHE_VARIABLE = "SEQWRIGHT_CACHE"


def cache_folder() -> Path:
    """Where copies of remote files are kept: `$SEQWRIGHT_CACHE`, or the user's cache folder. It may be emptied."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "seqwright"


def folder_of(remote: Remote, purpose: str) -> Path:
    """The cache's folder for something, made if need be."""
    folder = cache_folder() / purpose / digest([remote.url])
    with explained(f"cannot keep a copy of {remote}; set {CACHE_VARIABLE} to a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
