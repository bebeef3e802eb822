"""The best model of a run: saved when it is found, in two places, and brought back where one of them lost it."""

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
from seqwright.training.claims import BEST, MAY_CHANGE
from seqwright.training.progress import Checkpoint, Monitor, Progress

logger = logging.getLogger(__name__)


class BestModelWriter(Monitor):
    """Saves the model whenever the optimized metric improves, beside the checkpoints and as the run's output.

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
        """Leave a model even where none was validated, or none had a finite score."""
        if progress.best is None and progress.has_model:
            self._save(progress, {})

    def _save(self, progress: Progress, scores: Mapping[str, float]) -> None:
        reached = {"updates": progress.updates, "epoch": progress.epoch, **scores}
        for folder in self._folders:
            save_model(folder, self._trained, reached, MAY_CHANGE)


def restore_best(checkpoints: Path, output: Path, trained: TrainedModel, progress: Progress) -> None:
    """Bring the best model back where it is lost or damaged: a container keeps its checkpoints, but not its model.

    It comes from the other of its two places or, where neither has it, from the checkpoint that was made with it.

    Args:
        checkpoints: the folder of the checkpoints.
        output: the model folder.
        trained: the model in training.
        progress: where the run stands.

    Raises:
        ClientError: there was a best model, and it is nowhere any more; the message says what is wrong in each place.
    """
    wrong = {folder: _what_is_wrong(folder) for folder in (checkpoints / BEST, output)}
    whole = [folder for folder, reason in wrong.items() if not reason]
    for folder, reason in wrong.items():
        if reason and (folder / CONFIG).exists():
            logger.warning("%s: bringing the best model back", reason)
    if not whole and progress.best is not None:
        if not _remake(checkpoints, trained, progress):
            raise ClientError(
                f"the best model, of update {progress.best_updates}, is lost ({'; '.join(wrong.values())}), and its "
                f"checkpoint is not there: bring {checkpoints / BEST} back from a copy, or remove {checkpoints} and "
                f"{output} to start anew"
            )
        whole = [checkpoints / BEST]
    for folder in wrong:
        if whole and folder not in whole:
            copy_model(whole[0], folder)


def bring_best(checkpoints: Path, output: Path) -> bool:
    """Copy the best model of an earlier run to `output` for a run that was stopped before it knew what it is.

    Args:
        checkpoints: the folder of the checkpoints.
        output: the model folder.

    Returns:
        Whether there was a whole one, and none in `output`.
    """
    if (output / CONFIG).exists() or _what_is_wrong(checkpoints / BEST):
        return False
    copy_model(checkpoints / BEST, output)
    return True


def _remake(checkpoints: Path, trained: TrainedModel, progress: Progress) -> bool:
    """Write the best model anew from its checkpoint; False where that is not there."""
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


def _what_is_wrong(folder: Path) -> str:
    """Why a folder is not a whole model; empty where it is one."""
    try:
        load_model(folder)
        read_json_object(folder / METRICS)
    except ClientError as error:
        return str(error)
    return ""
