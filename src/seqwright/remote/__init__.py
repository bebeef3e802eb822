"""URLs in place of paths: `s3://` and every other kind that fsspec knows.

All other packages work on local files. A command asks `LocalCopies` for the local path of each path that its user gave:
a local path stands for itself, a URL for a copy in the cache. Files are read in several ranges at a time and cached by
the version that the service tells; an interrupted fetch continues where it stopped. Requests are tried again after
errors that may pass. Messages never contain the credentials of a URL.
"""

from seqwright.remote.copies import LocalCopies, push, try_to_push
from seqwright.remote.filesystem import add_suffix, join, redacted, require_local, without_secrets

__all__ = [
    "LocalCopies",
    "add_suffix",
    "join",
    "push",
    "redacted",
    "require_local",
    "try_to_push",
    "without_secrets",
]
