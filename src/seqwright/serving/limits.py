"""How much the endpoint takes on at once."""

from dataclasses import dataclass

from seqwright.errors import ClientError

MAX_BODY_BYTES = 6 << 20  # of a request, as the platform has it
MAX_ANSWER_BYTES = 64 << 20


@dataclass(frozen=True)
class Limits:
    """What an operator may tune; docs/endpoint.md says how.

    Attributes:
        max_batch: instances searched together at the model's own beam size; fewer with a wider beam.
        max_batch_tokens: source tokens searched together, padding counted.
        max_wait: seconds that a batch waits at most until it has as many requests as the last one; a lone client never
            waits.
        backlog: full batches that may be unanswered for each searcher: `backlog * max_batch * searchers` instances. A
            request is refused if more come before it, unless that is less than twice its own instances. A request that
            is not answered counts for what fair turns put before the new one, and at least for one.
        deadline: seconds after which a request that is not answered gets an error; a little less than the 60 seconds
            that clients of the platform wait.
        max_buffered_bytes: bytes of all bodies held at once.

    Raises:
        ClientError: a limit is not positive (`max_wait` may be 0).
    """

    max_batch: int = 64
    max_batch_tokens: int = 8192
    max_wait: float = 0.005
    backlog: float = 2.0
    deadline: float = 55.0
    max_buffered_bytes: int = 16 * MAX_BODY_BYTES

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (value > 0 or (name == "max_wait" and value == 0)):
                raise ClientError(f"{name} must be positive, not {value}")

    @property
    def turn(self) -> int:
        """Instances that one request may put into a batch before the next request has its turn."""
        return max(1, self.max_batch // 4)
