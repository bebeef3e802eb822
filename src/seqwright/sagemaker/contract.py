"""The files under `/opt/ml` that the platform writes for a training job and reads after it."""

from dataclasses import dataclass
from pathlib import Path

from seqwright.errors import ClientError
from seqwright.files import describe_os_errors, read_json_object

FAILURE_LIMIT = 1024
"""Characters of the failure file that the platform shows to the user."""

PLATFORM_PREFIXES = ("sagemaker_", "_tuning_")
"""Names of settings that the platform and its tuner put among the hyperparameters for their own use."""


@dataclass(frozen=True)
class Paths:
    """Where everything is under the root, `/opt/ml` in a container."""

    root: Path

    @property
    def hyperparameters(self) -> Path:
        """The job's hyperparameters, every value a string."""
        return self.root / "input" / "config" / "hyperparameters.json"

    @property
    def input_channels(self) -> Path:
        """What the job says of its channels, by name."""
        return self.root / "input" / "config" / "inputdataconfig.json"

    @property
    def resources(self) -> Path:
        """The hosts of the job."""
        return self.root / "input" / "config" / "resourceconfig.json"

    @property
    def model(self) -> Path:
        """Where the model goes; the platform packs it as `model.tar.gz`."""
        return self.root / "model"

    @property
    def failure(self) -> Path:
        """Where a failed job says why."""
        return self.root / "output" / "failure"

    @property
    def checkpoints(self) -> Path:
        """What is kept when an interrupted job is started again, where the job has such a folder."""
        return self.root / "checkpoints"

    def channel(self, name: str) -> Path:
        """The folder of a channel's files."""
        return self.root / "input" / "data" / name


@dataclass(frozen=True)
class Job:
    """What the platform's three files say.

    Attributes:
        hyperparameters: names and values, the platform's own left out.
        channels: names of the channels.
        host: the name of this host.
        hosts: the names of all hosts.
    """

    hyperparameters: dict[str, object]
    channels: frozenset[str]
    host: str
    hosts: tuple[str, ...]


def read_job(paths: Paths) -> Job:
    """Read and check the platform's three files.

    Raises:
        ClientError: a file is missing or is not what the contract says.
    """
    hyperparameters = read_json_object(paths.hyperparameters)
    resources = read_json_object(paths.resources)
    host, hosts = resources.get("current_host"), resources.get("hosts")
    if not isinstance(host, str) or not isinstance(hosts, list) or host not in hosts:
        raise ClientError(f"{paths.resources} must name current_host, and hosts with it among them")
    return Job(
        {name: value for name, value in hyperparameters.items() if not name.startswith(PLATFORM_PREFIXES)},
        frozenset(read_json_object(paths.input_channels)),
        host,
        tuple(map(str, hosts)),
    )


def write_failure(paths: Paths, message: str) -> None:
    """Leave `message` where the platform looks for the reason of a failure, cut to what it shows."""
    with describe_os_errors(f"cannot write {paths.failure}"):
        paths.failure.parent.mkdir(parents=True, exist_ok=True)
        paths.failure.write_text(message[:FAILURE_LIMIT], encoding="utf-8")
