"""The best model of a run: saved in two places, and restored where one of them lost it."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from seqwright.artifacts import CONFIG, METRICS, TrainedModel, copy_model, load_model, save_model
from seqwright.errors import ClientError
from seqwright.files import read_json_object
from seqwright.models.seq2seq import build_model
from seqwright.training.checkpoints import read_model
from seqwright.training.progress import Checkpoint, Monitor, Progress
from seqwright.training.run_folders import BEST, MAY_CHANGE

logger = logging.getLogger(__name__)


class BestModelWriter(Monitor):
    """Saves the model when the optimized metric improves, both beside the checkpoints and as the run's output.

    Args:
        checkpoints: the folder of the checkpoints.
        output: the model folder.
        trained: the model in training.
    """

    def __init__(self, checkpoints: Path, output: Path, trained: TrainedModel) -> None:
        self._folders = (checkpoints / BEST, output)
        self._trained = trained

    def on_checkpoint(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """Save the model if it is the best so far."""
        if checkpoint.improved:
            self._save(progress, checkpoint.validation.named())

    def on_end(self, progress: Progress, reason: str) -> None:
        """Save the model if none was validated yet, so that a run that is stopped early leaves one."""
        if progress.best is None and progress.has_model:
            self._save(progress, {})

    def _save(self, progress: Progress, scores: Mapping[str, float]) -> None:
        reached = {"updates": progress.updates, "epoch": progress.epoch, **scores}
        for folder in self._folders:
            save_model(folder, self._trained, reached, MAY_CHANGE)


def restore_best_model(checkpoints: Path, output: Path, trained: TrainedModel, progress: Progress) -> None:
    """Restore the best model where it is lost or damaged. (A container keeps its checkpoints, but not its model.)

    It is copied from the other of its two places or, if neither has it, taken from the checkpoint of its update.

    Args:
        checkpoints: the folder of the checkpoints.
        output: the model folder.
        trained: the model in training.
        progress: where the run stands.

    Raises:
        ClientError: there was a best model, and it cannot be restored; the message says what is wrong in each place.
    """
    problems = {folder: _find_problem(folder) for folder in (checkpoints / BEST, output)}
    whole = [folder for folder, problem in problems.items() if not problem]
    for folder, problem in problems.items():
        if problem and (folder / CONFIG).exists():
            logger.warning("%s: restoring the best model", problem)
    if not whole and progress.best is not None:
        if not _restore_from_checkpoint(checkpoints, trained, progress):
            raise ClientError(
                f"the best model, of update {progress.best_updates}, is lost ({'; '.join(problems.values())}), and its "
                f"checkpoint is not there: bring {checkpoints / BEST} back from a copy, or remove {checkpoints} and "
                f"{output} to start anew"
            )
        whole = [checkpoints / BEST]
    for folder in problems:
        if whole and folder not in whole:
            copy_model(whole[0], folder)


def copy_best_model(checkpoints: Path, output: Path) -> bool:
    """Copy the best model of an interrupted run to `output`, for a run that was stopped before it could go on.

    Args:
        checkpoints: the folder of the checkpoints.
        output: the model folder.

    Returns:
        Whether a model was copied: there is a whole one, and none in `output`.
    """
    if (output / CONFIG).exists() or _find_problem(checkpoints / BEST):
        return False
    copy_model(checkpoints / BEST, output)
    return True


def _restore_from_checkpoint(checkpoints: Path, trained: TrainedModel, progress: Progress) -> bool:
    """Write the best model from the checkpoint of its update; False if that is not there."""
    found = read_model(checkpoints, progress.best_updates)
    if found is None or progress.best is None:
        return False
    epoch, tensors = found
    with torch.device("meta"):
        model = build_model(trained.settings, len(trained.source_vocabulary), len(trained.target_vocabulary))
    model.load_state_dict(tensors, assign=True)
    reached = {"updates": progress.best_updates, "epoch": epoch, trained.settings.optimized_metric: progress.best}
    save_model(checkpoints / BEST, dataclasses.replace(trained, model=model), reached, MAY_CHANGE)
    return True


def _find_problem(folder: Path) -> str:
    """Why a folder is not a whole model; empty if it is one."""
    try:
        load_model(folder)
        read_json_object(folder / METRICS)
    except ClientError as error:
        return str(error)
    return ""
