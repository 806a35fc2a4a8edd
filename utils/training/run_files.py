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
_RESULTS = ("weights", "results.csv", "opt.yaml", "hyp.yaml", "metrics.json")
_TEMPORARIES = ("weights/.*.pt.*.tmp", ".*.csv.*.tmp", ".*.yaml.*.tmp", ".*.json.*.tmp")


def new_run_directory(options: TrainOptions) -> Path:
    """Create the folder of a new run, with the folder of its checkpoints.

    Raises:
        UserError: If it cannot be written, or --exist-ok names a folder that holds a training already.
    """
    name = Path(options.cfg).stem if options.name == "cfg" and options.cfg else options.name
    directory = make_run_directory(options.project, name, exist_ok=options.exist_ok)
    if found := [name for name in _RESULTS if (directory / name).exists()]:
        raise UserError(
            f"--exist-ok: {directory} holds {', '.join(found)} of another run, which would be overwritten; choose "
            f"another --name, or continue that training with --resume {directory}"
        )
    (directory / "weights").mkdir()
    return directory


def search_directory(options: TrainOptions) -> Path:
    """The folder of a search for hyperparameters: that of --resume-evolve, or a new one.

    Raises:
        UserError: If there is no search in it, or it cannot be made.
    """
    if options.resume_evolve:
        directory = Path(options.resume_evolve)
        if not (directory / "evolve.db").is_file():
            raise UserError(f"--resume-evolve {directory}: no evolve.db in it; give the folder of a search")
        return directory.resolve()
    return make_run_directory(options.project, "evolve" if options.name == "exp" else options.name)


def find_checkpoints(resume: str) -> list[Path]:
    """The checkpoints that --resume can mean, at least one.

    Args:
        resume: The last.pt of a run, its folder, or `NEWEST` for every run below runs/, the newest first.

    Raises:
        UserError: If there is none, or it does not lie in the folder of a run.
    """
    if resume == NEWEST:
        found = sorted(Path("runs").rglob("weights/last.pt"), key=lambda path: path.stat().st_mtime, reverse=True)
        if not found:
            raise UserError(f"--resume: found no last.pt below {Path('runs').resolve()}; give its path: --resume PATH")
        return [file.resolve() for file in found]
    file = Path(resume)
    if file.is_dir():
        file = file / "weights" / "last.pt"
    if not file.is_file():
        raise UserError(f"--resume {file}: no such file; expected the weights/last.pt of a run")
    if file.resolve().parent.name != "weights":
        raise UserError(
            f"--resume {file}: expected a checkpoint in the weights/ folder of its run, where the training goes on; to "
            f"start a new run from it use --weights {file}"
        )
    return [file.resolve()]


def remove_temporaries(directory: Path) -> None:
    """Delete the half-written files that a killed training left in the folder of its run."""
    for pattern in _TEMPORARIES:
        for file in directory.glob(pattern):
            file.unlink()


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
