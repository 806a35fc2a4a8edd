"""The folder of a run: where it is, and which checkpoint a run continues from."""

from pathlib import Path

from utils.errors import UserError
from utils.files import make_run_directory
from utils.training.options import NEWEST, TrainOptions


def new_run_directory(options: TrainOptions) -> Path:
    """Create the folder of a new run, with the folder of its checkpoints.

    Raises:
        UserError: If it cannot be written, or --exist-ok names a folder that holds a training already.
    """
    name = Path(options.cfg).stem if options.name == "cfg" and options.cfg else options.name
    directory = make_run_directory(options.project, name, exist_ok=options.exist_ok)
    for existing in (directory / "weights" / "last.pt", directory / "results.csv"):
        if existing.exists():
            raise UserError(
                f"--exist-ok: {existing} holds a training, which would be mixed with the new one; continue it with "
                f"--resume {directory / 'weights' / 'last.pt'}, or choose another --name"
            )
    (directory / "weights").mkdir(exist_ok=True)
    return directory


def find_checkpoint(resume: str) -> Path:
    """The checkpoint that --resume means.

    Args:
        resume: A path, or `NEWEST` for the last.pt below runs/ that was written last.

    Raises:
        UserError: If there is none, or it does not lie in the folder of a run.
    """
    if resume == NEWEST:
        found = sorted(Path("runs").rglob("last.pt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise UserError(f"--resume: found no last.pt below {Path('runs').resolve()}; give its path: --resume PATH")
        file = found[-1]
    else:
        file = Path(resume)
    if not file.is_file():
        raise UserError(f"--resume {file}: no such file; expected the weights/last.pt of a run")
    if file.resolve().parent.name != "weights":
        raise UserError(
            f"--resume {file}: expected a checkpoint in the weights/ folder of its run, where the training goes on; to "
            f"start a new run from it use --weights {file}"
        )
    return file.resolve()
