"""The container's `train`: the platform's files in, a model or a reason for failure out."""

import contextlib
import logging
import signal
import tarfile
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from seqwright.artifacts import CONFIG
from seqwright.errors import AlgorithmError, ClientError, SeqwrightError
from seqwright.importers.sockeye import import_sockeye
from seqwright.interrupts import stop_on_signals
from seqwright.sagemaker.contract import Paths, read_job, write_failure
from seqwright.training.job import Channels, train
from seqwright.training.warm_start import Start

REQUIRED = ("train", "validation", "vocab")
"""Channels that a job must have; `model`, to start from, is optional."""

logger = logging.getLogger(__name__)


def run_training(root: Path) -> int:
    """Run the training job whose files are under `root`, and leave what the contract asks for.

    The model goes to `model/`. Where `checkpoints/` exists, state is kept there, and a job that was interrupted goes
    on. On SIGTERM the update at hand is finished, state and best model are in place, and the job ends well.

    Returns:
        The exit status: 0 for success; otherwise `output/failure` says why, `ClientError: …` where the user can mend
        it and `AlgorithmError: …` where it is our fault.
    """
    paths = Paths(root)
    try:
        with stop_on_signals(signal.SIGTERM) as stop_requested:
            _train(paths, stop_requested)
    except SeqwrightError as error:
        return _fail(paths, error)
    except Exception as error:
        logger.error("%s", traceback.format_exc())
        return _fail(paths, AlgorithmError(f"{type(error).__name__}: {error}"))
    return 0


def _train(paths: Paths, stop_requested: Callable[[], bool]) -> None:
    job = read_job(paths)
    for name in REQUIRED:
        if name not in job.channels:
            raise ClientError(f"the job has no channel {name}: give it the channels {', '.join(REQUIRED)}")
    if len(job.hosts) > 1:
        raise ClientError(
            f"the job has {len(job.hosts)} hosts, but training on one alone is supported yet: give it one"
        )
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seqwright-")))
        start = stack.enter_context(_start(paths.channel("model"))) if "model" in job.channels else Start()
        progress = train(
            Channels(*(paths.channel(name) for name in REQUIRED)),
            paths.model,
            job.hyperparameters,
            start=start,
            checkpoints=paths.checkpoints if paths.checkpoints.is_dir() else scratch / "checkpoints",
            cache=scratch / "corpus",
            host=job.host,
            stop_requested=stop_requested,
        )
    logger.info("the model of update %d is in %s", progress.best_updates, paths.model)


@contextlib.contextmanager
def _start(channel: Path) -> Iterator[Start]:
    """The model that the channel holds: a model folder, a `model.tar.gz`, or an artefact of the original's engine."""
    archives = sorted(path for path in channel.glob("*.tar.gz") if path.is_file())
    if len(archives) > 1:
        raise ClientError(f"the model channel {channel} holds {len(archives)} archives: leave the one to start from")
    source = archives[0] if archives else channel
    if CONFIG in _names(source):
        yield Start(model=source)
        return
    with tempfile.TemporaryDirectory(prefix="seqwright-") as scratch:
        imported = Path(scratch) / "model"
        import_sockeye(source, imported)
        yield Start(model=imported)


def _names(source: Path) -> list[str]:
    """The names of the files in a folder or a tar archive, `./` aside."""
    if source.is_dir():
        return [path.name for path in source.iterdir()]
    try:
        with tarfile.open(source) as archive:
            return [name.removeprefix("./") for name in archive.getnames()]
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ClientError(f"{source} is not a readable archive: {error}") from error


def _fail(paths: Paths, error: SeqwrightError) -> int:
    message = f"{type(error).__name__}: {error}"
    logger.error("%s", message)
    write_failure(paths, message)
    return error.exit_code
