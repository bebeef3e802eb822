"""Paths that are URLs: `s3://` and whatever else fsspec knows, brought here to be read, and sent there once written.

All other rooms work on local files. A command asks its `Staging` for a local path in place of each of its own: a local
path stands for itself, a URL for a copy in the cache. Reads are cut in ranges, several at a time, and are cached by
the version that the other side tells; what was interrupted goes on where it stopped. Everything is tried again, after
longer and longer waits, unless the answer is final. No message has the credentials that a URL may carry.
"""

from seqwright.remote.filesystem import beside, join, require_local, shown, without_secrets
from seqwright.remote.staging import Staging, push, try_to_push

__all__ = [
    "Staging",
    "beside",
    "join",
    "push",
    "require_local",
    "shown",
    "try_to_push",
    "without_secrets",
]
