"""What the runs of a study found: a table, and the curves of the training."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.markdown import group, markdown
from models import Model
from models.summary import cost
from utils.files import write_csv, write_text
from utils.show.figures import new_figure, rgb_of, save_figure, tidy
from utils.training.results import COLUMNS, read_rows

_CURVES = {"metrics/mAP_0.5": "mAP50 of the val split", "metrics/mAP_0.5:0.95": "mAP of the val split"}


@dataclass(frozen=True)
class Trial:
    """One run of a study.

    Attributes:
        study: Folder of the study.
        model: Name of the model file, without suffix.
        seed: Of the run.
    """

    study: Path
    model: str
    seed: int

    @property
    def folder(self) -> Path:
        """Of the training."""
        return self.study / f"{Path(self.model).name}-seed{self.seed}"

    @property
    def log(self) -> Path:
        """What its commands printed."""
        return self.study / "logs" / f"{self.folder.name}.log"

    @property
    def clock(self) -> Path:
        """Seconds that the training took, if it was not interrupted."""
        return self.folder / "seconds.json"

    @property
    def is_trained(self) -> bool:
        """Whether the training has come to its end."""
        return (self.folder / "metrics.json").exists()

    @property
    def is_done(self) -> bool:
        """Whether it has been evaluated, too."""
        return (self.folder / "evaluation" / "metrics.json").exists()

    def scores(self) -> dict[str, float]:
        """mAP50 and mAP of the best epoch."""
        metrics = json.loads((self.folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
        return {name: metrics[name] for name in ("map50", "map")}

    def seconds(self) -> float:
        """Of the whole training; NaN if it was interrupted."""
        return float(json.loads(self.clock.read_text(encoding="utf-8"))) if self.clock.exists() else float("nan")

    def curve(self, column: str) -> list[float]:
        """A column of results.csv."""
        return [float(row.split(",")[COLUMNS.index(column)]) for _, row in read_rows(self.folder / "results.csv")]


def write_report(folder: Path, trials: Sequence[Trial], *, title: str, command: str) -> None:
    """Write report.md, runs.csv and curves.png.

    Args:
        folder: Of the study.
        trials: The runs that are done, at least one; the model of the first is what others compare with.
        title: What was evaluated.
        command: What repeats the study.
    """
    rows = [(t.model, t.seed, *t.scores().values(), t.seconds()) for t in trials]
    write_csv(folder / "runs.csv", [("model", "seed", "map50", "map", "seconds"), *rows])
    models = group(trials, lambda trial: trial.model)
    save_curves(folder / "curves.png", models)
    parts = [f"`{command}`", f"Best epoch on the {title}; mean ± standard deviation over the seeds.", summary(models)]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def summary(models: dict[str, list[Trial]]) -> str:
    """A row for each model; differences are to the first model, seed by seed."""
    base = {trial.seed: trial.scores() for trial in next(iter(models.values()))}
    lines = []
    for name, trials in models.items():
        own = cost(Model(f"{name}.yaml", nc=80), fused=True)
        cells = [name, str(len(trials)), f"{own.parameters / 1e6:.2f}", f"{own.gflops:.2f}"]
        for key in ("map50", "map"):
            cells.append(spread([trial.scores()[key] for trial in trials]))
            paired = [t.scores()[key] - base[t.seed][key] for t in trials if t.seed in base]
            cells.append("" if name == next(iter(models)) else spread(paired, sign="+"))
        seconds = [trial.seconds() for trial in trials if not math.isnan(trial.seconds())]  # the uninterrupted ones
        lines.append((*cells, f"{np.mean(seconds):.0f}" if seconds else "-"))
    head = (
        "model",
        "runs",
        "M parameters (80 classes)",
        "GFLOPs (640 px)",
        "mAP50",
        "difference",
        "mAP",
        "difference",
        "s a run",
    )
    return markdown(head, lines)


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean ± standard deviation; the mean alone of a single value."""
    if not values:
        return "-"
    mean = f"{np.mean(values):{sign}.3f}"
    return f"{mean} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else mean


def save_curves(file: Path, models: dict[str, list[Trial]]) -> None:
    """Draw the mean of each model's runs against the epoch, and between which values they are."""
    figure = new_figure(12, 4.5)
    for axes, (column, title) in zip(figure.subplots(1, 2), _CURVES.items(), strict=True):
        for index, (name, trials) in enumerate(models.items()):
            curves = [trial.curve(column) for trial in trials]
            length = min(map(len, curves))
            values = np.array([curve[:length] for curve in curves])
            colour = rgb_of(index)
            axes.plot(values.mean(0), color=colour, label=f"{name} ({len(curves)})")
            axes.fill_between(range(length), values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        tidy(axes, title=title, xlabel="epoch")
        axes.legend(frameon=False)
    save_figure(figure, file, dpi=120)
