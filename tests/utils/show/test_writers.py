import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.sources import Frame
from utils.nms import Detections
from utils.show.writers import CropWriter, CsvWriter, LabelWriter, detection_rows, safe_name

NAMES = {0: "person", 1: "../up/down", 2: "..", 3: "a/b", 4: "a:b", 5: "Жук, красный"}


def frame(path: str, number: int | None = None, shape: tuple[int, int] = (100, 200)) -> Frame:
    rows = np.arange(shape[0], dtype=np.uint8)[:, None, None]
    image = np.ascontiguousarray(np.broadcast_to(rows, (*shape, 3)))
    if number is None:
        return Frame(Path(path), image, "image", 1, 1)
    return Frame(Path(path), image, "video", 1, 1, number, 5.0, 9)


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long())


TWO = found((20, 10, 60, 50, 0.9, 0), (0, 0, 200, 100, 0.25, 1))


def test_rows_by_hand() -> None:
    assert detection_rows(TWO, (100, 200)) == ["0 0.2 0.3 0.2 0.4\n", "1 0.5 0.5 1 1\n"]
    assert detection_rows(TWO, (100, 200), confidence=True)[0] == "0 0.2 0.3 0.2 0.4 0.9\n"
    assert detection_rows(TWO, (100, 200), corners=True)[0] == "0 0.1 0.1 0.3 0.5\n"
    assert detection_rows(found((0, 0, 1, 1, 0.5, 2)), (3, 7))[0] == "2 0.0714286 0.166667 0.142857 0.333333\n"
    assert detection_rows(found(), (3, 7)) == []


def test_label_files_have_the_weakest_first_and_are_truncated(tmp_path: Path) -> None:
    (tmp_path / "bus.txt").write_text("old\n")
    (tmp_path / "empty.txt").write_text("old\n")
    writer = LabelWriter(tmp_path, confidence=True)
    writer.write(frame("x/bus.jpg"), TWO)
    writer.write(frame("x/empty.jpg"), found())
    writer.write(frame("x/clip.mp4", 7), TWO)
    writer.write(frame("y/BUS.png"), TWO)
    assert (tmp_path / "bus.txt").read_text() == "1 0.5 0.5 1 1 0.25\n0 0.2 0.3 0.2 0.4 0.9\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["BUS-2.txt", "bus.txt", "clip_7.txt"]
    assert writer.count == 3


def test_crops(tmp_path: Path) -> None:
    writer = CropWriter(tmp_path / "crops", NAMES)
    writer.write(frame("bus.png"), found((20, 10, 60, 50, 0.9, 0), (100, 70, 120, 80, 0.5, 0), (0, 0, 4, 4, 0.4, 3)))
    writer.write(frame("bus.png"), found((190, 90, 200, 100, 0.4, 4)))
    writer.write(frame("clip.mp4", 12), found((199, 99, 200, 100, 0.4, 1)))
    files = sorted(str(path.relative_to(tmp_path / "crops")) for path in (tmp_path / "crops").rglob("*.jpg"))
    assert files == [
        "_up_down/clip_12.jpg",
        "a_b-2/bus.jpg",
        "a_b/bus.jpg",
        "person/bus-2.jpg",
        "person/bus.jpg",
    ]
    # 40 x 1.02 + 10 = 50.8 px around (40, 30): rows 4.6 .. 55.4, columns 14.6 .. 65.4, cut to whole pixels.
    strongest = cv2.imread(str(tmp_path / "crops/person/bus-2.jpg"))
    assert strongest.shape == (51, 51, 3)
    assert abs(int(strongest[0, 0, 0]) - 4) <= 1
    assert cv2.imread(str(tmp_path / "crops/person/bus.jpg")).shape == (21, 31, 3)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_no_crop_is_empty(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int], corner: tuple[float, ...]
) -> None:
    h, w = shape
    (x1, x2), (y1, y2) = sorted(corner[:2]), sorted(corner[2:])
    folder = tmp_path_factory.mktemp("crops")
    CropWriter(folder, NAMES).write(
        frame("a.png", shape=shape), found((round(x1 * w), round(y1 * h), round(x2 * w), round(y2 * h), 0.5, 0))
    )
    assert cv2.imread(str(folder / "person/a.jpg")).size > 0


def test_csv_is_a_fresh_table_with_quoted_names(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("old\n")
    writer = CsvWriter(path, NAMES)
    writer.write(frame("x/bus.jpg"), found((0, 0, 5, 5, 0.987, 5), (0, 0, 5, 5, 0.25, 0)))
    writer.close()
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["Image Name", "Prediction", "Confidence"],
        ["bus.jpg", "person", "0.25"],
        ["bus.jpg", "Жук, красный", "0.99"],
    ]


@given(st.text(max_size=90))
def test_safe_names_stay_in_their_folder(name: str) -> None:
    safe = safe_name(name)
    assert Path("base", safe).parent == Path("base")
    assert safe not in ("", ".", "..") and len(safe) <= 60 and safe[-1] not in " ."
