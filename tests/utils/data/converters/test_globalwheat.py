import pytest

from utils.data.converters import globalwheat
from utils.errors import UserError

FIELDS = [f"arvalis_{number}" for number in (1, 2, 3)]
FIELDS += ["ethz_1", "rres_1", "inrae_1", "usask_1", "utokyo_1", "utokyo_2", "nau_1", "uq_1"]


@pytest.fixture
def official(tmp_path, draw):
    folder = tmp_path / "GlobalWheat2020"
    for number, field in enumerate(FIELDS):
        draw(folder / "global-wheat-codalab-official" / field / f"{number}.png", (20, 30))
        (folder / "global-wheat-codalab-official" / f"{field}.json").write_text("{}")
        label = folder / "labels" / field / f"{number}.txt"
        label.parent.mkdir(parents=True)
        label.write_text("0 0.5 0.5 0.25 0.5\n")
    return folder


@pytest.mark.parametrize("place", ["labels", "GlobalWheat2020/labels"])
def test_fields_are_moved(official, scanned, place, snapshot):
    if place != "labels":
        (official / "GlobalWheat2020").mkdir()
        (official / "labels").rename(official / place)
    globalwheat.arrange(official)
    assert {name: len(rows) for name, rows in scanned("GlobalWheat2020", official, "train").items()} == {
        f"{number}.png": 1 for number in range(7)
    }
    assert list(scanned("GlobalWheat2020", official, "val")) == ["3.png"]
    assert len(scanned("GlobalWheat2020", official, "test")) == 4
    assert sorted(p.stem for p in (official / "annotations").iterdir()) == sorted(FIELDS)
    once = snapshot(official)
    globalwheat.arrange(official)
    assert snapshot(official) == once


def test_missing_or_doubled_parts_are_named(official, draw, tmp_path):
    with pytest.raises(UserError, match="images/arvalis_1: found none with images of arvalis_1"):
        globalwheat.arrange(tmp_path / "none")
    (official / "labels/nau_1/9.txt").unlink()
    with pytest.raises(UserError, match="labels/nau_1: found none with labels"):
        globalwheat.arrange(official)
    (official / "labels/nau_1/9.txt").touch()
    draw(official / "again/uq_1/a.png", (20, 30))
    with pytest.raises(UserError, match=r"uq_1, .*uq_1 with images of uq_1, expected one folder"):
        globalwheat.arrange(official)
