"""An evaluation as tables: `per_class.csv` and `per_size.csv`, empty cells where there was nothing to measure."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.evaluation.evaluate import Evaluation
from utils.files import write_csv

CLASS_COLUMNS = ("class", "images", "instances", "P", "R", "mAP50", "mAP50-95")
COCO_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
SIZE_COLUMNS = ("size", "COCO AP", "COCO AR", "labels")


def write_tables(folder: Path, evaluation: Evaluation) -> None:
    """Write both tables.

    Args:
        folder: Of the run.
        evaluation: With the numbers of COCO for all of their columns.
    """
    columns = (*CLASS_COLUMNS, *(f"COCO {name}" for name in COCO_COLUMNS))
    write_csv(folder / "per_class.csv", [columns, *_classes(evaluation)])
    write_csv(folder / "per_size.csv", [SIZE_COLUMNS, *_sizes(evaluation)])


def _classes(evaluation: Evaluation) -> Iterable[list[Any]]:
    measured = {c.index: c for c in evaluation.metrics.per_class}
    official = {c.index: c for c in evaluation.coco.per_class} if evaluation.coco else {}
    names = {index: c.name for classes in (measured, official) for index, c in classes.items()}
    for index, name in sorted(names.items()):
        c = measured.get(index)
        cells = (c.images, c.instances, c.precision, c.recall, c.map50, c.map) if c else (0, 0, *[None] * 4)
        yield [name, *cells, *(getattr(official.get(index), column, None) for column in COCO_COLUMNS)]


def _sizes(evaluation: Evaluation) -> Iterable[list[Any]]:
    coco = evaluation.coco
    for size in ("small", "medium", "large"):
        values = [getattr(coco, f"{kind}{size[0]}", None) for kind in ("AP", "AR")]
        yield [size, *values, coco.labels[size] if coco else None]
