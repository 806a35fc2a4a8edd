"""What is wrong with the detections, and how much AP each kind of error costs.

Kinds and their repairs are those of TIDE (Bolya, Foley, Hays, Hoffman: TIDE: A General Toolbox for Identifying Object
Detection Errors, 2020, https://arxiv.org/abs/2008.08115), and so is the AP: beyond the recall reached, the precision
is 0. By the rule of `metrics`, which draws a line from there to recall 1, removing a false positive would be paid with
recall that nobody reached.
"""

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.evaluation.consumers import BatchResult
from utils.evaluation.error_kinds import BACKGROUND, ERRORS, FOREGROUND, MEANINGS, ErrorTable, Kind, error_table, join
from utils.evaluation.metrics import Floats
from utils.files import write_csv, write_text

logger = logging.getLogger(__name__)

_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Breakdown:
    """The errors of a data set; AP is at IoU 0.5, and NaN for a class without labels.

    Attributes:
        names: Class index -> name.
        instances: (nc,) labels of each class.
        counts: (nc, 6) errors of each kind in `ERRORS`, by the class of the detection, for missed ones of the label.
        ap50: (nc,)
        repaired: (nc, 6) the AP if all errors of one kind were repaired and nothing else.
        without_false_positives: (nc,) the AP if every false positive were gone.
        without_misses: (nc,) the AP if only the labels counted that were found.
    """

    names: dict[int, str]
    instances: NDArray[np.int64]
    counts: NDArray[np.int64]
    ap50: Floats
    repaired: Floats
    without_false_positives: Floats
    without_misses: Floats

    @property
    def mean_ap50(self) -> float:
        """Mean AP over the classes that have labels."""
        return _mean(self.ap50)

    def gain(self, kind: Kind) -> float:
        """Mean AP that repairing all errors of a kind would add: dAP50."""
        return _mean(self.repaired[:, ERRORS.index(kind)]) - self.mean_ap50

    @property
    def gain_false_positives(self) -> float:
        """Mean AP that removing every false positive would add."""
        return _mean(self.without_false_positives) - self.mean_ap50

    @property
    def gain_misses(self) -> float:
        """Mean AP that counting only the labels that were found would add."""
        return _mean(self.without_misses) - self.mean_ap50

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        totals = self.counts.sum(0).tolist()
        kinds = {
            kind.name.lower(): {"count": count, "d_ap50": self.gain(kind)}
            for kind, count in zip(ERRORS, totals, strict=True)
        }
        return {
            "ap50": self.mean_ap50,
            "iou_foreground": FOREGROUND,
            "iou_background": BACKGROUND,
            "kinds": kinds,
            "false_positives": {"count": sum(totals[:-1]), "d_ap50": self.gain_false_positives},
            "false_negatives": {"d_ap50": self.gain_misses},
        }


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


class Matches(NamedTuple):
    """What AP is computed of: detections that are right or wrong, and labels to be found."""

    correct: NDArray[np.bool_]
    conf: NDArray[np.float32]
    cls: NDArray[np.int64]
    label_cls: NDArray[np.int64]


def repair(table: ErrorTable, *kinds: Kind) -> Matches:
    """Repair all errors of some kinds, and leave the others as they are.

    Of the detections that would be right about a label if their class or place were mended, only the most confident is,
    and only if the label was not found anyway. All other false positives of these kinds go, and missed labels do not
    count.
    """
    correct = (table.kind == Kind.CORRECT) | (_is_best(table) & np.isin(table.kind, kinds))
    stay = correct | ~np.isin(table.kind, kinds)
    cls = table.cls.copy()
    cls[correct] = table.label_cls[table.label[correct]]
    labels = table.label_cls[~table.missed] if Kind.MISSED in kinds else table.label_cls
    return Matches(correct[stay], table.conf[stay], cls[stay], labels)


def _is_best(table: ErrorTable) -> NDArray[np.bool_]:
    """(n,) whether a detection is the first about its label: correct ones come first, then the more confident."""
    about = np.flatnonzero(table.label >= 0)
    about = about[np.lexsort((-table.conf[about], table.kind[about] != Kind.CORRECT))]
    best = np.zeros(len(table.kind), dtype=bool)
    best[about[np.unique(table.label[about], return_index=True)[1]]] = True
    return best


def class_ap50(matches: Matches, classes: NDArray[np.int64], nc: int) -> Floats:
    """(nc,) AP of some classes, NaN for the others and for those that have no labels left.

    Args:
        matches: Detections and labels.
        classes: (c,) classes to measure.
        nc: Number of classes.
    """
    ap = np.full(nc, np.nan)
    labels = np.bincount(matches.label_cls, minlength=nc)
    order = np.lexsort((-matches.conf, matches.cls))
    correct, cls = matches.correct[order], matches.cls[order]
    for i, start, stop in zip(
        classes, np.searchsorted(cls, classes), np.searchsorted(cls, classes, side="right"), strict=True
    ):
        ap[i] = _area(correct[start:stop], labels[i]) if labels[i] else np.nan
    return ap


def _area(correct: NDArray[np.bool_], labels: int) -> float:
    """Mean over 101 recalls of the best precision at that recall or beyond, 0 where it is not reached (COCO).

    Args:
        correct: (n,) most confident first.
        labels: At least 1.
    """
    hits = correct.cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best[np.searchsorted(hits / labels, _RECALLS)].mean())


def break_down(table: ErrorTable, names: dict[int, str]) -> Breakdown:
    """Count the errors, and measure what repairing each kind would add.

    Args:
        table: Of all images.
        names: Class index -> name.
    """
    nc = len(names)
    classes = np.unique(table.label_cls)
    as_it_is = repair(table)
    right = as_it_is.correct
    only_right = Matches(right[right], as_it_is.conf[right], as_it_is.cls[right], as_it_is.label_cls)
    found = table.label_cls[table.label[table.kind == Kind.CORRECT]]
    counts = [np.bincount(table.cls[table.kind == kind], minlength=nc) for kind in ERRORS[:-1]]
    return Breakdown(
        names=names,
        instances=np.bincount(table.label_cls, minlength=nc),
        counts=np.stack((*counts, np.bincount(table.label_cls[table.missed], minlength=nc)), axis=1),
        ap50=class_ap50(as_it_is, classes, nc),
        repaired=np.stack([class_ap50(repair(table, kind), classes, nc) for kind in ERRORS], axis=1),
        without_false_positives=class_ap50(only_right, classes, nc),
        without_misses=class_ap50(as_it_is._replace(label_cls=found), classes, nc),
    )


class ErrorBreakdown:
    """Sorts the errors of an evaluation and writes breakdown.json, breakdown.csv and breakdown.png."""

    def __init__(self, folder: Path, names: dict[int, str]) -> None:
        """Start empty.

        Args:
            folder: Where the files go.
            names: Class index -> name.
        """
        self.folder = folder
        self._names = names
        self._tables: list[ErrorTable] = []

    def update(self, result: BatchResult) -> None:
        """Add the images of one batch."""
        self._tables += [error_table(image.detections, image.labels) for image in result.images]

    @cached_property
    def result(self) -> Breakdown:
        """The errors of all images; to be asked for after the last."""
        return break_down(join(self._tables), self._names)

    def finish(self) -> None:
        """Write the files."""
        save_breakdown(self.folder, self.result)


def save_breakdown(folder: Path, breakdown: Breakdown) -> None:
    """Write breakdown.json, breakdown.csv (a row for each class) and breakdown.png.

    Args:
        folder: Where the files go.
        breakdown: What to write.
    """
    from utils.show.breakdown import save_breakdown_plot

    write_text(folder / "breakdown.json", json.dumps(breakdown.to_dict(), indent=2) + "\n")
    kinds = [kind.name.lower() for kind in ERRORS]
    columns = [f"{kind}_errors" for kind in kinds] + [f"d_ap50_{kind}" for kind in kinds]
    rows: list[tuple[object, ...]] = [("class", "name", "instances", "ap50", *columns)]
    ap50, gains = breakdown.ap50, breakdown.repaired - breakdown.ap50[:, None]
    for cls, name in sorted(breakdown.names.items()):
        found = (*breakdown.counts[cls].tolist(), *gains[cls].tolist())
        rows.append((cls, name, int(breakdown.instances[cls]), float(ap50[cls]), *found))
    write_csv(folder / "breakdown.csv", rows)
    save_breakdown_plot(folder / "breakdown.png", breakdown)


def log_breakdown(breakdown: Breakdown) -> None:
    """Log what each kind of error costs, most expensive first."""
    title = f"TIDE's AP50, {breakdown.mean_ap50:.3f}, would gain dAP50 if all of a kind were repaired"
    logger.info("%22s%11s%11s   %s", "Error", "Number", "dAP50", title)
    for kind in sorted(ERRORS, key=breakdown.gain, reverse=True):
        number = breakdown.counts[:, ERRORS.index(kind)].sum()
        logger.info("%22s%11d%+11.3f   %s", kind.name.lower(), number, breakdown.gain(kind), MEANINGS[kind])
