"""With --exist-ok: what an earlier evaluation has left in the folder, and this one has not written anew."""

from collections.abc import Container, Iterable
from pathlib import Path

from utils.evaluation.record import FILE_NAME

_OPTIONAL = ("*_predictions.json", "comparison.*", "labels/*.txt")


def earlier_results(folder: Path) -> list[Path]:
    """Files that only some evaluations write; none if the folder is not that of an evaluation.

    Args:
        folder: Of the run, before anything is written.
    """
    if not (folder / FILE_NAME).is_file():  # whatever lies there is none of ours
        return []
    return [file for pattern in _OPTIONAL for file in sorted(folder.glob(pattern))]


def remove_leftovers(earlier: Iterable[Path], written: Container[Path]) -> None:
    """Remove files of an earlier evaluation that would pass for those of this one.

    Args:
        earlier: Of the earlier one.
        written: Of this one.
    """
    for file in earlier:
        if file not in written:
            file.unlink(missing_ok=True)
