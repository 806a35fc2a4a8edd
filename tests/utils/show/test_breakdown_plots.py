import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.evaluation.breakdown import Breakdown
from utils.evaluation.compare import ClassDifference, Comparison, Difference
from utils.show.breakdown import save_breakdown_plot
from utils.show.comparison import MAX_CLASSES, save_comparison_plot

AWKWARD = ("_underscore", "$x^", "a rather long name of a class", "%s{}\\alpha")


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def read(file: Path) -> np.ndarray:
    picture = cv2.imread(str(file))
    assert picture is not None
    assert picture.min() < picture.max(), "the picture is blank"
    return picture


@pytest.mark.parametrize("ap", [0.4, np.nan])
def test_breakdown(tmp_path: Path, ap: float):
    nc = len(AWKWARD)
    gain = np.arange(6) / 20
    breakdown = Breakdown(
        names=dict(enumerate(AWKWARD)),
        instances=np.ones(nc, int),
        counts=np.full((nc, 6), 1_000_000),
        ap50=np.full(nc, ap),
        repaired=np.full((nc, 6), ap) + gain,
        without_false_positives=np.full(nc, ap + 0.3),
        without_misses=np.full(nc, ap - 0.1),
    )
    save_breakdown_plot(tmp_path / "breakdown.png", breakdown)
    assert read(tmp_path / "breakdown.png").shape[:2] == (1500, 2250)


def comparison(classes: int, *, judged: bool = True) -> Comparison:
    def difference(i: int) -> Difference:
        delta = (i - classes / 2) / classes
        return Difference(0.5 + delta, 0.5, (delta - 0.1, delta + 0.2) if judged else None)

    rows = [ClassDifference(i, AWKWARD[i % len(AWKWARD)], 20, 30, difference(i), difference(i)) for i in range(classes)]
    return Comparison(99, 500, 1000, 0, difference(0), difference(classes // 2), rows)


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize("classes", [1, 4, MAX_CLASSES + 20])
def test_comparison(tmp_path: Path, classes: int, judged: bool):
    save_comparison_plot(tmp_path / "comparison.png", comparison(classes, judged=judged))
    picture = read(tmp_path / "comparison.png")
    assert picture.shape[0] < 2 * picture.shape[1]
