"""The folder of a run: where it is, what describes it, and which checkpoint a run continues from."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from utils.data.loader import Batch
from utils.errors import UserError
from utils.files import make_run_directory, write_yaml
from utils.training.hyp import Hyp
from utils.training.options import NEWEST, TrainOptions

_PLOTTED_BATCHES = 3


def new_run_directory(options: TrainOptions) -> Path:
    """Create the folder of a new run, with the folder of its checkpoints.

    Raises:
        UserError: If it cannot be written, or --exist-ok names a folder that holds a training already.
    """
    name = Path(options.cfg).stem if options.name == "cfg" and options.cfg else options.name
    directory = make_run_directory(options.project, name, exist_ok=options.exist_ok)
    if (last := directory / "weights" / "last.pt").exists():
        raise UserError(
            f"--exist-ok: {last} belongs to another training, which would be mixed with the new one; continue it with "
            f"--resume {last}, or choose another --name"
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


def describe_run(directory: Path, options: TrainOptions, hyp: Hyp) -> None:
    """Write hyp.yaml and opt.yaml, from which the run can be repeated."""
    write_yaml(directory / "hyp.yaml", hyp.to_dict())
    plain = {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(options).items()
    }
    write_yaml(directory / "opt.yaml", {**plain, "save_dir": str(directory), "hyp": hyp.to_dict()})


def plot_labels(directory: Path, labels: Sequence[np.ndarray], names: dict[int, str]) -> None:
    """Write labels.jpg and labels_correlogram.jpg.

    Args:
        directory: Of the run.
        labels: Per image (n, 5) class, cx, cy, w, h as fractions of the image.
        names: Class index to name.
    """
    from utils.show.training_plots import save_labels_correlogram, save_labels_plot

    rows = np.concatenate([np.zeros((0, 5), dtype=np.float32), *labels])
    save_labels_plot(directory / "labels.jpg", rows, names)
    save_labels_correlogram(directory / "labels_correlogram.jpg", rows)


def batch_plotter(directory: Path, names: dict[int, str]) -> Callable[[int, Batch], None]:
    """A function that writes the first batches of a training as train_batch0.jpg and so on."""
    return functools.partial(_plot_batch, directory, names)


def _plot_batch(directory: Path, names: dict[int, str], number: int, batch: Batch) -> None:
    if number < _PLOTTED_BATCHES:
        from utils.show.mosaic import save_targets_mosaic

        titles = [Path(path).name for path in batch.paths]
        save_targets_mosaic(directory / f"train_batch{number}.jpg", batch.images, batch.targets, names, titles)
