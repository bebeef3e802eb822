"""The two ways an operation can fail, and nothing else that users ever see.

Raise [`ClientError`][] for what the user can mend (a missing file, a value out of range, damaged input) and
[`AlgorithmError`][] for what only this project can mend. A message says what was wrong, where, and what to do.
"""


class SeqwrightError(Exception):
    """Base of both; its text is shown to the user without a traceback."""

    exit_code = 1


class ClientError(SeqwrightError):
    """The input, the options or the machine are at fault, and the user can put it right. Exit status 2."""

    exit_code = 2


class AlgorithmError(SeqwrightError):
    """Seqwright itself failed. Exit status 1."""

    exit_code = 1
