"""With --exist-ok: what an earlier evaluation has left in the folder, and this one has not written anew."""

from collections.abc import Mapping
from pathlib import Path

from utils.evaluation.record import FILE_NAME

_OPTIONAL = (
    *("*_predictions.json", "comparison.*"),
    *("*_curve.png", "confusion_matrix.png", "val_batch*_labels.jpg", "val_batch*_pred.jpg"),
)
"""Not label files: they are what people correct by hand."""


def earlier_results(folder: Path) -> dict[Path, int]:
    """Files that only some evaluations write, and when each was written; none if no evaluation is in the folder.

    Args:
        folder: Of the run, before anything is written.
    """
    if not (folder / FILE_NAME).is_file():  # whatever lies there is none of ours
        return {}
    return {file: file.stat().st_mtime_ns for pattern in _OPTIONAL for file in folder.glob(pattern)}


def remove_leftovers(earlier: Mapping[Path, int]) -> None:
    """Remove files of an earlier evaluation that would pass for those of this one.

    Args:
        earlier: `earlier_results` before this one, which has written all its files.
    """
    for file, written in earlier.items():
        if file.exists() and file.stat().st_mtime_ns == written:
            file.unlink()
