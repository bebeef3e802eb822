"""The two ways an operation can fail, and nothing else that users ever see.

Raise [`ClientError`][] for what the user can mend (a missing file, a value out of range, damaged input) and
[`AlgorithmError`][] for what only this project can mend. A message says what was wrong, where, and what to do.
"""

import errno
import reprlib


class SeqwrightError(Exception):
    """Base of both; its text is shown to the user without a traceback."""

    exit_code = 1


class ClientError(SeqwrightError):
    """The input, the options or the machine are at fault, and the user can put it right. Exit status 2."""

    exit_code = 2


class AlgorithmError(SeqwrightError):
    """Seqwright itself failed. Exit status 1."""

    exit_code = 1


_ADVICE = {
    errno.ENOSPC: "free some space, or name a folder on another disk",
    errno.EDQUOT: "free some space, or name a folder on another disk",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "change its permissions, or name another path",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.ENFILE: "end other programs, or raise the system's limit",
    errno.EAGAIN: "raise the limit of processes and threads (ulimit -u), or end other programs",
}
"""What to do about errors of the operating system that the user can mend, by `errno`."""


def os_error_reason(error: OSError) -> str:
    """What the operating system says of an error, with a small first letter: "no space left on device"."""
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:]


def client_error_from(error: Exception) -> ClientError | None:
    """An error of the operating system as a `ClientError` with advice; None where the user cannot mend it.

    Use it where errors end: what opens or writes a file says more with `files.describe_os_errors`.
    """
    if isinstance(error, OSError) and error.errno in _ADVICE:
        place = f" ({reprlib.repr(error.filename)})" if error.filename else ""
        return ClientError(f"{os_error_reason(error)}{place}: {_ADVICE[error.errno]}")
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return ClientError(f"the system refuses another thread: {_ADVICE[errno.EAGAIN]}")
    return None
