"""How much the endpoint takes on at once."""

from dataclasses import dataclass

from seqwright.errors import ClientError

MAX_BODY_BYTES = 6 << 20
"""The platform's bound on a request's body."""


@dataclass(frozen=True)
class Limits:
    """What an operator may tune; docs/endpoint.md says how.

    Attributes:
        max_batch: instances searched together at the model's own beam; fewer with a wider beam.
        max_batch_tokens: source positions searched together, padding counted.
        max_wait: seconds that a batch waits for requests that are likely to come, and no longer than until they have;
            see also `max_pause`.
        backlog: when a request is refused: when more than `backlog` times a full batch comes before it, and more than
            twice its own instances. Each request without its answer counts for what fair turns put before the new one,
            at least for one. So even at its limit the endpoint answers what it accepts in a few times the time that it
            takes when idle.
        deadline: seconds in which a request is answered or given up, a little less than the 60 that clients wait.
        max_buffered_bytes: bytes of all bodies held at once, those of up to 8 KB left out.

    Raises:
        ClientError: a limit is not positive (`max_wait` may be 0).
    """

    max_batch: int = 64
    max_batch_tokens: int = 8192
    max_wait: float = 0.005
    backlog: float = 0.625
    deadline: float = 55.0
    max_buffered_bytes: int = 16 * MAX_BODY_BYTES

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (value > 0 or (name == "max_wait" and value == 0)):
                raise ClientError(f"{name} must be positive, not {value}")

    @property
    def max_pause(self) -> float:
        """Seconds without any request after which a batch that waits for some waits no longer."""
        return self.max_wait / 5

    @property
    def turn(self) -> int:
        """Instances that one request may put into a batch before the next request has its turn."""
        return max(1, self.max_batch // 4)
