"""What a training tells while it runs, besides results.csv: to any number of trackers, or to none."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError
from utils.training.trackers import TRACKERS, Run, Tracker

log = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"
TRACKER_CHOICES = (AUTO, NONE, *TRACKERS)
"""What --tracker can name: "auto" is TensorBoard if it is installed."""

_AUTO = "tensorboard"


class Events:
    """Passes on what happens to trackers; with none it does nothing.

    One that fails is left out from then on, with a warning: a training is worth more than its record elsewhere.
    """

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        """Tell these.

        Args:
            trackers: Open ones; none for a process that is not the first of several.
        """
        self.trackers = tuple(trackers)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on numbers.

        Args:
            step: Epoch, from 0; never falls.
            values: Under names such as "train/box_loss"; what is not finite is left out.
        """
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        if finite:
            self._tell("scalars", step, finite)

    def images(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """Pass on a picture.

        Args:
            step: Epoch, from 0; never falls.
            name: For example "predictions/cat"; later pictures of one name belong to the same.
            picture: (h, w, 3) RGB.
        """
        self._tell("images", step, name, picture)

    def close(self) -> None:
        """Finish; called once, also after an error."""
        self._tell("close")

    def _tell(self, method: str, *what: Any) -> None:
        for tracker in self.trackers:
            try:
                getattr(tracker, method)(*what)
            except Exception as error:  # of any package, over any network
                name = type(tracker).__name__
                log.warning("the tracker %s failed and is left out from here on (%s)", name, _line(error))
                self.trackers = tuple(other for other in self.trackers if other is not tracker)


def check_trackers(names: Sequence[str]) -> None:
    """Find out, before a run takes the time to start, whether the trackers asked for are there.

    Args:
        names: Of `TRACKER_CHOICES`.

    Raises:
        UserError: If "none" or "auto" stands beside others, a name is not known, or its package is not installed.
    """
    if len(names) != 1 and {AUTO, NONE} & set(names):
        raise UserError(f"--tracker {' '.join(names)}: {AUTO} and {NONE} stand alone; name trackers, or one of them")
    for name in names:
        if name not in TRACKER_CHOICES:
            raise UserError(f"--tracker {name}: no such tracker; known are {', '.join(TRACKER_CHOICES)}")
        if name in TRACKERS:
            _load(name)


def open_events(
    directory: Path, names: Sequence[str], *, config: Mapping[str, Any] | None = None, first_step: int = 0
) -> Events:
    """Open the trackers asked for.

    Nothing goes over the network unless a tracker that does so is named. After --resume, TensorBoard, W&B and trackio
    go on with what they have; MLflow, ClearML and Comet begin another run.

    Args:
        directory: Of the run, whose name theirs will be; files of trackers go there where they can.
        names: Of `TRACKER_CHOICES`.
        config: Options and hyperparameters, for the record.
        first_step: Epoch at which the training begins or goes on.

    Raises:
        UserError: See `check_trackers`; or if a tracker cannot begin, for example for want of a login.
    """
    check_trackers(names)
    project = "yolov5" if directory.parent.name == "train" else directory.parent.name
    run = Run(directory, project, directory.name, dict(config or {}), first_step)
    if list(names) == [AUTO]:
        try:
            return Events([_open(_AUTO, run)])
        except ImportError:
            log.info("TensorBoard is not installed, so curves are in results.csv only; pip install tensorboard")
            return Events()
    trackers: list[Tracker] = []
    try:
        for name in names:
            if name != NONE:
                trackers.append(_open(name, run))
    except BaseException:
        Events(trackers).close()
        raise
    return Events(trackers)


def _open(name: str, run: Run) -> Tracker:
    try:
        tracker: Tracker = TRACKERS[name].open(run)
    except ImportError:
        raise
    except Exception as error:
        raise UserError(f"--tracker {name}: it cannot begin ({_line(error)}); mend that, or leave it out") from error
    return tracker


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _load(name: str) -> None:
    try:
        TRACKERS[name].load()
    except ImportError as error:
        package = TRACKERS[name].package
        raise UserError(
            f"--tracker {name}: {package} cannot be imported ({error}); install it with: pip install {package}"
        ) from error
