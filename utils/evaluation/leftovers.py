"""With --exist-ok: what an earlier evaluation has left in the folder, and this one has not written anew."""

import glob
import logging
from collections.abc import Mapping
from pathlib import Path

from utils.evaluation.record import FILE_NAME

logger = logging.getLogger(__name__)

_OPTIONAL = (
    *("comparison.json", "comparison.csv", "comparison.png", "confusion_matrix.png"),
    *("PR_curve.png", "P_curve.png", "R_curve.png", "F1_curve.png"),
    *("val_batch[0-9]_labels.jpg", "val_batch[0-9]_pred.jpg"),
)
"""Not label files: they are what people correct by hand."""


def earlier_results(folder: Path, predictions: str) -> dict[Path, int]:
    """Files that only some evaluations write, and when each was written; none if no evaluation is in the folder.

    Args:
        folder: Of the run, before anything is written.
        predictions: Name of the JSON file for detections of these weights; those of others are not taken for them.
    """
    if not (folder / FILE_NAME).is_file():  # whatever lies there is none of ours
        return {}
    return {
        file: file.stat().st_mtime_ns for name in (*_OPTIONAL, glob.escape(predictions)) for file in folder.glob(name)
    }


def remove_leftovers(earlier: Mapping[Path, int]) -> None:
    """Remove files of an earlier evaluation that would pass for those of this one.

    Args:
        earlier: `earlier_results` before this one, which has written all its files.
    """
    for file, written in earlier.items():
        if file.exists() and file.stat().st_mtime_ns == written:
            file.unlink()
            logger.info("removed %s of an earlier evaluation", file)
