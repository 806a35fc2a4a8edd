import warnings
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import UserError
from utils.evaluation.metrics import ClassCurves, average_precision
from utils.nms import Detections
from utils.show.curves import save_confusion_matrix, save_curves
from utils.show.mosaic import save_detections_mosaic, save_targets_mosaic
from utils.show.training_plots import (
    gaussian_smooth,
    save_labels_correlogram,
    save_labels_plot,
    save_results_plot,
)

AWKWARD = {0: "_underscore", 1: "$x^", 2: "a rather long name of a class", 3: "%s{}\\alpha"}
COLUMNS = [
    "epoch",
    *(f"train/{part}_loss" for part in ("box", "obj", "cls")),
    *(f"metrics/{name}" for name in ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")),
    *(f"val/{part}_loss" for part in ("box", "obj", "cls")),
    *(f"x/lr{group}" for group in range(3)),
]


@pytest.fixture(autouse=True)
def _no_warnings_no_settings():
    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert dict(mpl.rcParams) == before


def curves_of(classes: int) -> ClassCurves:
    rng = np.random.default_rng(classes)
    n = 20 * classes
    return average_precision(
        rng.random((n, 10)) < 0.5, rng.random(n), rng.integers(0, classes, n), rng.integers(0, classes, n)
    )


def size_of(file: Path) -> tuple[int, int]:
    picture = cv2.imread(str(file))
    assert picture is not None
    assert picture.min() < picture.max(), "the picture is blank"
    return picture.shape[1], picture.shape[0]


@pytest.mark.parametrize("classes", [1, 4, 30])
def test_curves(classes: int, tmp_path: Path):
    save_curves(tmp_path, curves_of(classes), AWKWARD)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "F1_curve.png",
        "PR_curve.png",
        "P_curve.png",
        "R_curve.png",
    ]
    assert {size_of(file) for file in tmp_path.iterdir()} == {(2250, 1500)}


@pytest.mark.parametrize("nc", [1, 4, 40, 120])
def test_confusion_matrix(nc: int, tmp_path: Path):
    matrix = np.random.default_rng(0).integers(0, 9, (nc + 1, nc + 1))
    matrix[:, 0] = 0  # a class without labels
    save_confusion_matrix(tmp_path / "m.png", matrix, AWKWARD)
    assert size_of(tmp_path / "m.png") == (3000, 2250)


@pytest.mark.parametrize("n", [0, 1, 1200])
@pytest.mark.parametrize("nc", [1, 4, 80])
def test_labels(n: int, nc: int, tmp_path: Path):
    rng = np.random.default_rng(n)
    labels = np.c_[rng.integers(0, nc, n), rng.random((n, 4))].astype(np.float32)
    kept = labels.copy()
    save_labels_plot(tmp_path / "labels.jpg", labels, dict.fromkeys(range(nc), "$x^") | AWKWARD if nc > 3 else {0: "_"})
    assert size_of(tmp_path / "labels.jpg") == (1500, 1500)
    np.testing.assert_array_equal(labels, kept)


def test_correlogram(tmp_path: Path):
    save_labels_correlogram(tmp_path / "c.jpg", np.random.default_rng(0).random((50, 5)).astype(np.float32))
    assert size_of(tmp_path / "c.jpg") == (1500, 1500)
    save_labels_correlogram(tmp_path / "c.jpg", np.zeros((0, 5), np.float32))


def write_results(file: Path, epochs: int, columns: list[str] = COLUMNS) -> None:
    rows = [columns, *([str(epoch), *["0.5"] * (len(columns) - 1)] for epoch in range(epochs))]
    file.write_text("".join(",".join(f"{cell:>20}" for cell in row) + "\n" for row in rows))


@pytest.mark.parametrize("epochs", [0, 1, 30])
def test_results(epochs: int, tmp_path: Path):
    write_results(tmp_path / "results.csv", epochs)
    write_results(tmp_path / "results2.csv", 3)
    assert save_results_plot(tmp_path) == tmp_path / "results.png"
    assert size_of(tmp_path / "results.png") == (2800, 1200)


def test_results_that_cannot_be_plotted(tmp_path: Path):
    with pytest.raises(UserError, match=r"no results\*\.csv"):
        save_results_plot(tmp_path)
    file = tmp_path / "results.csv"
    file.write_text("")
    with pytest.raises(UserError, match=r"results\.csv:1: no column epoch"):
        save_results_plot(tmp_path)
    write_results(file, 2, COLUMNS[:-4])
    with pytest.raises(UserError, match="val/cls_loss"):
        save_results_plot(tmp_path)
    write_results(file, 2)
    file.write_text(file.read_text() + "2,0.5,oops\n")
    with pytest.raises(UserError, match=r"results\.csv:4: expected 14 numbers, found 2,0\.5,oops"):
        save_results_plot(tmp_path)


def test_smoothing_of_a_step_and_a_gap():
    step = np.r_[np.zeros(40), np.ones(40)]
    smooth = gaussian_smooth(step, 3.0)
    assert smooth[39] + smooth[40] == pytest.approx(1)
    assert smooth[36] == pytest.approx(0.1217, abs=0.003)  # normal distribution below -3.5 / 3
    gap = np.full(20, 2.0)
    gap[7] = np.nan
    np.testing.assert_allclose(gaussian_smooth(gap, 3.0), 2)


@settings(max_examples=20)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50))
def test_smoothing_stays_within_the_values(values: list[float]):
    smooth = gaussian_smooth(np.array(values), 3.0)
    assert len(smooth) == len(values)
    assert min(values) - 1e-6 <= smooth.min()
    assert smooth.max() <= max(values) + 1e-6


@pytest.mark.parametrize(("count", "size"), [(1, (324, 164)), (2, (648, 164)), (5, (972, 328)), (20, (1296, 656))])
def test_mosaic_grid(count: int, size: tuple[int, int], tmp_path: Path):
    images = torch.randint(0, 255, (count, 3, 160, 320), dtype=torch.uint8)
    kept = images.clone()
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.2, 0.4], [count - 1, 2, 0.5, 0.5, 0.2, 0.4]])
    file = tmp_path / "m.jpg"
    save_targets_mosaic(file, images, targets, AWKWARD, ["画像.jpg", *["x" * 99] * (count - 1)])
    assert size_of(file) == size
    assert torch.equal(images, kept)


def test_mosaic_is_never_larger_than_1920_pixels(tmp_path: Path):
    images = torch.randint(0, 255, (9, 3, 1000, 700), dtype=torch.uint8)
    save_targets_mosaic(tmp_path / "m.jpg", images, torch.zeros(0, 6), AWKWARD, ["a"] * 9)
    width, height = size_of(tmp_path / "m.jpg")
    assert max(width, height) <= 1920
    assert height > 1900


def test_mosaic_fills_columns_and_draws_boxes_where_they_are(tmp_path: Path):
    images = torch.zeros(3, 3, 200, 400, dtype=torch.uint8)
    images[1, 0] = 255  # red
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    found = Detections(torch.tensor([[100.0, 60.0, 300.0, 160.0]]), torch.tensor([0.8]), torch.tensor([2]))
    save_detections_mosaic(tmp_path / "m.png", images, [nothing, nothing, found], AWKWARD, ["", "", ""])
    picture = cv2.imread(str(tmp_path / "m.png"))
    assert picture[204 + 50, 200].tolist() == [0, 0, 255], "the second image is below the first"
    assert picture[160, 404 + 200].max() > 100, "lower edge of the box"
    assert picture[110, 404 + 200].max() == 0, "inside of the box"
    assert picture[350, 404 + 200].tolist() == [255, 255, 255], "free place"


def test_mosaic_captions_are_not_limited_to_ascii(tmp_path: Path):
    files = []
    for title in ("жук", "???", "a\nb"):
        files.append(tmp_path / f"{len(files)}.png")
        save_targets_mosaic(files[-1], torch.zeros(1, 3, 64, 96, dtype=torch.uint8), torch.zeros(0, 6), {}, [title])
    assert len({file.read_bytes() for file in files}) == 3
