"""The container's `train`: reads the platform's files, leaves a model or the reason of a failure."""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

from seqwright.errors import AlgorithmError, ClientError, SeqwrightError, client_error_from
from seqwright.locks import TemporaryFolder
from seqwright.sagemaker.contract import Job, Paths, read_job, write_failure
from seqwright.training.best_model import copy_best_model
from seqwright.training.group import TIMEOUT
from seqwright.training.job import Channels, SetUp, train
from seqwright.training.launch import Cluster
from seqwright.training.warm_start import Start

REQUIRED = ("train", "validation", "vocab")
"""Channels that a job must have; `model`, to start from, is optional."""

PORT = 7777
"""The port on the first host where the processes of all hosts meet."""

logger = logging.getLogger(__name__)


def run_training(
    root: Path,
    set_up: SetUp | None = None,
    timeout: float = TIMEOUT,
    stop_requested: Callable[[], bool] = lambda: False,
) -> int:
    """Run the training job whose files are under `root`, and leave what the contract asks for.

    The model goes to `model/`. If `checkpoints/` exists, state is kept there, and an interrupted job goes on. All GPUs
    of all hosts are used; a host without GPUs trains in one process.

    Args:
        root: the folder.
        set_up: as in `seqwright.train`.
        timeout: seconds that hosts wait for each other.
        stop_requested: asked all the time; to return True after SIGTERM. The job then finishes the current update,
            leaves its state and the best model, and returns 0. Before the first update there is no model.

    Returns:
        The exit status: 0 for success. Otherwise `output/failure` has the reason: `ClientError: …` (status 2) if the
        user can mend it, `AlgorithmError: …` (status 1) if not.
    """
    paths = Paths(root)
    try:
        _train(paths, stop_requested, set_up, timeout)
    except SeqwrightError as error:
        return _fail(paths, error)
    except Exception as error:
        logger.error("%s", traceback.format_exc())
        return _fail(paths, client_error_from(error) or AlgorithmError(f"{type(error).__name__}: {error}"))
    return 0


def _train(paths: Paths, stop_requested: Callable[[], bool], set_up: SetUp | None, timeout: float) -> None:
    job = read_job(paths)
    for name in REQUIRED:
        if name not in job.channels:
            raise ClientError(f"the job has no channel {name}: give it the channels {', '.join(REQUIRED)}")
    with TemporaryFolder() as scratch:
        progress = train(
            Channels(*(paths.channel(name) for name in REQUIRED)),
            paths.model,
            job.hyperparameters,
            start=Start(model=paths.channel("model") if "model" in job.channels else None),
            checkpoints=paths.checkpoints if paths.checkpoints.is_dir() else scratch / "checkpoints",
            cache=scratch / "corpus",
            cluster=_cluster(job, timeout),
            console=None,  # log lines alone, as the platform reads them
            stop_requested=stop_requested,
            set_up=set_up,
        )
    if progress.has_model:
        logger.info("the model of update %d is in %s", progress.model_updates, paths.model)
    elif job.host == job.hosts[0] and copy_best_model(paths.checkpoints, paths.model):
        logger.info("the best model so far is in %s", paths.model)


def _cluster(job: Job, timeout: float) -> Cluster:
    """The job's hosts; if there are several, all meet at the first."""
    address = (job.hosts[0], PORT) if len(job.hosts) > 1 else None
    return Cluster(len(job.hosts), job.hosts.index(job.host), job.host, address, timeout)


def _fail(paths: Paths, error: SeqwrightError) -> int:
    message = f"{type(error).__name__}: {error}"
    logger.error("%s", message)
    write_failure(paths, message)
    return error.exit_code
