"""The files under `/opt/ml` that the platform writes before a training job and reads after it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seqwright.errors import ClientError
from seqwright.files import describe_os_errors, read_json_object
from seqwright.hyperparameters import with_tuning_objective

FAILURE_LIMIT = 1024
"""Characters of the failure file that the platform shows to the user."""

PLATFORM_PREFIXES = ("sagemaker_", "_tuning_")
"""Prefixes of the settings that the platform and its tuner put among the hyperparameters."""


@dataclass(frozen=True)
class Paths:
    """The files and folders under the root, which is `/opt/ml` in a container."""

    root: Path

    @property
    def hyperparameters(self) -> Path:
        """The job's hyperparameters, every value a string."""
        return self.root / "input" / "config" / "hyperparameters.json"

    @property
    def input_channels(self) -> Path:
        """The configuration of each channel, by name."""
        return self.root / "input" / "config" / "inputdataconfig.json"

    @property
    def resources(self) -> Path:
        """The hosts of the job."""
        return self.root / "input" / "config" / "resourceconfig.json"

    @property
    def model(self) -> Path:
        """The folder for the model; the platform packs it as `model.tar.gz`."""
        return self.root / "model"

    @property
    def failure(self) -> Path:
        """The file for the reason of a failure."""
        return self.root / "output" / "failure"

    @property
    def checkpoints(self) -> Path:
        """The folder that is kept when an interrupted job is started again; not every job has it."""
        return self.root / "checkpoints"

    def channel(self, name: str) -> Path:
        """The folder of a channel's files."""
        return self.root / "input" / "data" / name


@dataclass(frozen=True)
class Job:
    """The content of the platform's three files.

    Attributes:
        hyperparameters: names and values, without the platform's own settings.
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
        ClientError: a file is missing or not as in the contract, or a channel is in Pipe mode.
    """
    hyperparameters = read_json_object(paths.hyperparameters)
    resources = read_json_object(paths.resources)
    host, hosts = resources.get("current_host"), resources.get("hosts")
    if not isinstance(host, str) or not isinstance(hosts, list) or host not in hosts:
        raise ClientError(f"{paths.resources} must name current_host, and hosts with it among them")
    channels = read_json_object(paths.input_channels)
    _require_files(channels)
    values = with_tuning_objective(hyperparameters)
    own = {name: value for name, value in values.items() if not name.startswith(PLATFORM_PREFIXES)}
    return Job(own, frozenset(channels), host, tuple(map(str, hosts)))


def _require_files(channels: Mapping[str, object]) -> None:
    """Check that every channel comes as files.

    Raises:
        ClientError: a channel is in Pipe mode.
    """
    for name, config in channels.items():
        mode = config.get("TrainingInputMode") if isinstance(config, dict) else None
        if str(mode).casefold() == "pipe":
            raise ClientError(
                f"the channel {name} is in Pipe mode (TrainingInputMode), which streams the data, but training needs "
                "files: give the channel, or the whole job, the input mode File or FastFile"
            )


def write_failure(paths: Paths, message: str) -> None:
    """Write the reason of a failure, cut to the length that the platform shows."""
    with describe_os_errors(f"cannot write {paths.failure}"):
        paths.failure.parent.mkdir(parents=True, exist_ok=True)
        paths.failure.write_text(message[:FAILURE_LIMIT], encoding="utf-8")
