"""Folders for results: writable, and never on top of what a run reads."""

from collections.abc import Iterable
from pathlib import Path

from utils.errors import UserError
from utils.files import make_run_directory

_TRAINING = ("results.csv", "opt.yaml")


def make_results_directory(project: str, name: str, *, exist_ok: bool, inputs: Iterable[Path]) -> Path:
    """Create the directory of a new run, or with `exist_ok` take one that holds neither inputs nor a training.

    Args:
        project: Folder of all runs.
        name: Folder of this run.
        exist_ok: Take the folder even if it exists; otherwise it gets a number.
        inputs: Files that the run must not overwrite.

    Raises:
        UserError: If the directory cannot be created, or an input or the results of a training lie in it.
    """
    directory = make_run_directory(project, name, exist_ok=exist_ok)
    if exist_ok:
        if results := [file for file in _TRAINING if (directory / file).exists()]:
            raise UserError(
                f"--exist-ok: {directory} holds {', '.join(results)} of a training, whose other results could be "
                "overwritten; change --project or --name"
            )
        above = directory.resolve()
        for file in inputs:
            if above in file.resolve().parents:
                found = f"{file}: lies in {directory}, where results go, and could be overwritten"
                raise UserError(f"{found}; change --project or --name")
    return directory
