"""The checkpoint of a run to continue, checked before anything is written."""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

from utils.checkpoint import Checkpoint, read_checkpoint
from utils.errors import UserError
from utils.training.options import TrainOptions, complete_options
from utils.training.run_files import find_checkpoints
from utils.training.run_lock import is_training
from utils.unpickle import describe

log = logging.getLogger(__name__)

_KINDS: dict[str, type] = {
    "options": dict,
    "hyp": dict,
    "model": dict,
    "ema_updates": int,
    "optimizer": dict,
    "scaler": dict,
    "stopper": dict,
    "epoch": int,
    "best_fitness": float,
    "class_ap": list,
    "random": dict,
}
_COUNTS = ("epoch", "ema_updates")


@dataclasses.dataclass(frozen=True)
class Resume:
    """A run to continue.

    Attributes:
        file: Its last.pt.
        checkpoint: What is in it.
        training: The state of the training in it, with all keys, each of its type.
    """

    file: Path
    checkpoint: Checkpoint
    training: dict[str, Any]

    @property
    def directory(self) -> Path:
        """The folder of the run."""
        return self.file.parent.parent


def open_run(resume: str) -> Resume:
    """Read the checkpoint that --resume means; of several, the newest whose training is not finished.

    Args:
        resume: See `find_checkpoints`.

    Raises:
        UserError: If there is none, it is damaged, or its training is finished.
    """
    files = find_checkpoints(resume)
    live = [file for file in files if is_training(file.parent.parent)]
    for file in live:
        if len(files) > 1:
            log.info("%s is being trained by another process, looking for an older run", file.parent.parent)
    files = [file for file in files if file not in live]
    if not files:
        raise UserError(f"--resume {live[0]}: another process is training this run; wait for its end, or stop it")
    for file in files:
        checkpoint = read_checkpoint(file)
        if checkpoint.training is not None:
            check_training(checkpoint.training, file)
            return Resume(file, checkpoint, checkpoint.training)
    others = f", and so is that of {len(files) - 1} older runs" if len(files) > 1 else ""
    raise UserError(
        f"--resume {files[0]}: its training is finished{others}, nothing is left to continue; start a new run from it "
        f"with --weights {files[0]}"
    )


def restarted_run(options: TrainOptions) -> Resume | None:
    """The run to go on with if `torchrun` has started this program again because a process ended.

    Args:
        options: Of the command, which is the same as before.

    Returns:
        The newest unfinished run with these options in --project; None if there is none, or this is the first start.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return None
    wanted = {**dataclasses.asdict(options), "resume": ""}
    files = Path(options.project).glob("*/weights/last.pt")
    for file in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        checkpoint = read_checkpoint(file)
        if checkpoint.training is not None and complete_options(checkpoint.training["options"]) == wanted:
            check_training(checkpoint.training, file)
            return Resume(file.resolve(), checkpoint, checkpoint.training)
    return None


def check_training(training: dict[str, Any], file: Path) -> None:
    """Check that the state of a training is complete and its parts are of the right type.

    Args:
        training: What `TrainingState.capture` gave, with "options" and "hyp".
        file: Where it comes from, for messages.

    Raises:
        UserError: If it is not; names the key.
    """
    _check_kinds(training, _KINDS, f"{file}: training")
    for key in _COUNTS:
        if training[key] < 0:
            raise UserError(f"{file}: training[{key!r}] is {training[key]}, expected 0 or more; the file is damaged")
    kinds = {field.name: type(field.default) for field in dataclasses.fields(TrainOptions)}
    options = training["options"]
    _check_kinds(options, kinds, f"{file}: training['options']")
    if unknown := [key for key in options if key not in kinds]:
        raise UserError(f"{file}: training['options'] has an unknown key {unknown[0]!r}; the file is damaged")
    if not options["freeze"] or not all(isinstance(layer, int) for layer in options["freeze"]):
        raise UserError(f"{file}: training['options']['freeze'] is no list of whole numbers; the file is damaged")


def _check_kinds(values: dict[str, Any], kinds: dict[str, type], where: str) -> None:
    accepted: dict[type, tuple[type, ...]] = {float: (int, float), tuple: (list, tuple)}
    for key, kind in kinds.items():
        if key not in values:
            raise UserError(f"{where} has no {key!r}; the file is damaged")
        if not isinstance(values[key], accepted.get(kind, (kind,))):
            found = describe(values[key])
            raise UserError(f"{where}[{key!r}] is {found}, expected {kind.__name__}; the file is damaged")
