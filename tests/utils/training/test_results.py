import math

import pytest

from utils.errors import UserError
from utils.training.results import COLUMNS, read_rows, record_epoch


def values(seed):
    return {column: seed + i / 7 for i, column in enumerate(COLUMNS[1:])}


def test_columns_are_twenty_wide(tmp_path):
    file = tmp_path / "results.csv"
    record_epoch(file, 0, {**values(1), "val/obj_loss": math.nan, "x/lr0": 0.000012345678})
    header, row = file.read_text().splitlines()
    assert header.startswith("               epoch,      train/box_loss,")
    assert [cell.strip() for cell in header.split(",")] == list(COLUMNS)
    assert all(len(cell) == 20 for cell in row.split(","))
    assert all(len(cell) == max(20, len(name)) for cell, name in zip(header.split(","), COLUMNS, strict=True))
    cells = [cell.strip() for cell in row.split(",")]
    assert cells[:3] == ["0", "1", "1.1429"]
    assert (cells[9], cells[11]) == ("nan", "1.2346e-05")


def test_going_back_drops_later_rows(tmp_path):
    file = tmp_path / "results.csv"
    for epoch in range(12):
        record_epoch(file, epoch, values(epoch))
    record_epoch(file, 3, values(50))
    rows = [line.split(",") for line in file.read_text().splitlines()[1:]]
    assert [int(row[0]) for row in rows] == [0, 1, 2, 3]
    assert float(rows[3][1]) == 50
    assert float(rows[2][1]) == 2


def test_a_missing_value_is_an_error_and_leaves_the_file(tmp_path):
    file = tmp_path / "results.csv"
    record_epoch(file, 0, values(0))
    before = file.read_text()
    with pytest.raises(KeyError):
        record_epoch(file, 1, {"train/box_loss": 1.0})
    assert file.read_text() == before


@pytest.mark.parametrize("line", ["garbage", "", "1,2,3", "x" + ",1" * 13, "1.5" + ",1" * 13, "1" + ",?" * 13])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    file = tmp_path / "results.csv"
    assert read_rows(file) == []
    record_epoch(file, 0, values(0))
    assert [number for number, _ in read_rows(file)] == [0]
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"results\.csv:3: found"):
        read_rows(file)
