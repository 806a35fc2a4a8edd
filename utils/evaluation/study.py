"""Accuracy and speed of models over the size of the images."""

from dataclasses import dataclass
from pathlib import Path

from utils.evaluation.evaluate import LOSS_NAMES, Evaluation
from utils.files import disambiguate, write_csv, write_text

SIZES = range(256, 1536 + 1, 128)
"""Pixels of the longer side."""

_COLUMNS = ("P", "R", "mAP50", "mAP50-95", *(f"{name}_loss" for name in LOSS_NAMES), "pre_ms", "inference_ms", "nms_ms")


@dataclass(frozen=True)
class StudyPoint:
    """One model at one size.

    Attributes:
        imgsz: Pixels of the longer side.
        values: Precision, recall, mAP50, mAP50-95, three losses, and milliseconds an image of pre-processing, inference
            and suppression.
    """

    imgsz: int
    values: tuple[float, ...]

    @property
    def map(self) -> float:
        """mAP50-95."""
        return self.values[3]

    @property
    def milliseconds(self) -> float:
        """Of inference and suppression, for one image."""
        return self.values[8] + self.values[9]


class Study:
    """Collects points and keeps the files of a study up to date, so that a break loses none."""

    def __init__(self, folder: Path, data: str) -> None:
        """Start empty.

        Args:
            folder: Where the files go: for each model `study_<data>_<weights>.txt`, and study.csv and study.png.
            data: Name of the data set, for the names of the files.
        """
        self.folder = folder
        self.data = data
        self.curves: dict[str, list[StudyPoint]] = {}
        self._labels: dict[str, str] = {}

    def add(self, weights: str, imgsz: int, evaluation: Evaluation) -> None:
        """Add a point and write the files again.

        Args:
            weights: File of the model.
            imgsz: Pixels of the longer side.
            evaluation: What was measured.
        """
        from utils.show.study_plot import save_study_plot

        if weights not in self._labels:
            self._labels[weights] = disambiguate(Path(weights).stem, self.curves.__contains__)
        metrics = evaluation.metrics
        accuracy = (metrics.precision, metrics.recall, metrics.map50, metrics.map)
        losses = (evaluation.losses[name] for name in LOSS_NAMES)
        times = (evaluation.speed_ms[stage] for stage in ("pre", "inference", "nms"))
        curve = self.curves.setdefault(self._labels[weights], [])
        curve.append(StudyPoint(imgsz, (*accuracy, *losses, *times)))
        self._write_text(self._labels[weights], curve)
        self._write_csv()
        save_study_plot(self.folder / "study.png", self.curves)

    def _write_text(self, label: str, curve: list[StudyPoint]) -> None:
        """YOLOv5's format: a row for each size, ten numbers."""
        rows = [" ".join(f"{value:10.4g}" for value in point.values) for point in curve]
        write_text(self.folder / f"study_{self.data}_{label}.txt", "\n".join(rows) + "\n")

    def _write_csv(self) -> None:
        rows = [(w, p.imgsz, *p.values) for w, label in self._labels.items() for p in self.curves[label]]
        write_csv(self.folder / "study.csv", [("weights", "imgsz", *_COLUMNS), *rows])
