"""A clean data set, and one in which every kind of defect is planted."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from utils.cli import run_command
from utils.data.config import load_dataset_config
from utils.data.lint.__main__ import lint, main
from utils.data.lint.findings import LEVEL_OF
from utils.data.scan import scan_samples
from utils.errors import UserError

GOOD = "0 0.3 0.4 0.2 0.5\n1 0.7 0.5 0.25 0.3\n"


def picture(seed: int, size=(60, 80)):
    """Something that looks like no other seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)


def encode(suffix: str, pixels) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def put(root: Path, name: str, label: str | None = GOOD, *, seed: int = 0, content: bytes | None = None) -> None:
    image = root / "images" / name
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(encode(image.suffix, picture(seed)) if content is None else content)
    file = (root / "labels" / name).with_suffix(".txt")
    file.parent.mkdir(parents=True, exist_ok=True)
    if label is not None:
        file.write_text(label)


def write_config(root: Path, **changes) -> Path:
    content = {"path": str(root), "train": "images/train", "val": "images/val", "names": ["cat", "dog"], **changes}
    file = root / "data.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return file


@pytest.fixture
def clean(tmp_path):
    root = tmp_path / "set"
    for number in range(4):
        put(root, f"train/a{number}.png", seed=number)
        put(root, f"val/b{number}.jpg", seed=10 + number)
    write_config(root)
    return root


def findings_of(root: Path, **options) -> list[dict[str, str]]:
    run = root.parent / f"runs{len(list(root.parent.glob('runs*')))}"
    counts = lint(str(root / "data.yaml"), project=str(run), **options)
    with (run / "exp" / "problems.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["file"] = str(Path(row["file"]).relative_to(root))
        assert row["level"] == LEVEL_OF[row["kind"]]
        assert row["found"] and row["expected"] and row["remedy"]
    assert counts == {level: sum(row["level"] == level for row in rows) for level in counts}
    return rows


def told(rows) -> set[tuple[str, str, str]]:
    return {(row["kind"], row["file"], row["line"]) for row in rows}


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def plant(root: Path) -> set[tuple[str, str, str]]:
    """Defects of nearly every kind; what has to be found of them: kind, file, line."""
    expected = set()
    rows = {  # second row of a label file -> its kind
        "1 0.5 0.5 0.2": "columns",
        "1 0.5 0.5 0.2 0.2 0.9": "columns",
        "1 0.1 0.1 0.2 0.2 0.3 0.3 0.4": "odd polygon",
        "1 0.5 0,5 0.2 0.2": "no number",
        "1 0.5 nan 0.2 0.2": "not finite",
        "1 0.5 0.5 inf 0.2": "not finite",
        "2 0.5 0.5 0.2 0.2": "class out of range",
        "-1 0.5 0.5 0.2 0.2": "class out of range",
        "0.5 0.5 0.5 0.2 0.2": "fractional class",
        "1 0.5 1.2 0.2 0.2": "coordinate outside",
        "1 320 240 50 60": "coordinate outside",
        "1 0.5 0.5 0 0.2": "no size",
        "1 0.1 0.5 0.3 0.5 0.7 0.5": "no size",
        "0 0.3 0.4 0.2 0.5": "duplicate row",
        "1 0.5 0.5 0.2 1.0005": "clipped coordinate",
        "1 0.05 0.5 0.3 0.3": "box over the border",
        "0 0.301 0.4 0.2 0.5": "overlapping boxes",
        "1 0.3 0.4 0.2 0.5": "two classes in one box",
        "1 0.5 0.5 0.02 0.5": "tiny box",
        "1 0.5 0.5 0.995 0.995": "giant box",
        "1 0.5 0.5 1 0.0501": "extreme shape",
    }
    for number, (row, kind) in enumerate(rows.items()):
        put(root, f"train/r{number:02}.png", f"0 0.3 0.4 0.2 0.5\n{row}\n", seed=100 + number)
        expected.add((kind, f"labels/train/r{number:02}.txt", "2"))
    put(root, "train/blank.png", f"\n\n{GOOD}\n1 0.5 0.5 0.01 0.3\n", seed=140)  # line numbers count blank lines
    expected.add(("tiny box", "labels/train/blank.txt", "6"))

    whole = encode(".jpg", picture(200))
    put(root, "train/empty.jpg", content=b"")
    put(root, "train/cut.jpg", content=whole[: len(whole) * 3 // 4])
    put(root, "train/broken.png", content=encode(".png", picture(201))[:300])
    put(root, "train/text.jpg", content=b"not an image at all")
    put(root, "train/small.png", content=encode(".png", picture(202, size=(9, 40))))
    for name, kind in (
        ("empty.jpg", "empty image file"),
        ("cut.jpg", "cut-off image"),
        ("broken.png", "broken image"),
        ("text.jpg", "broken image"),
        ("small.png", "small image"),
    ):
        expected.add((kind, f"images/train/{name}", ""))
    (root / "images/train/old.gif").write_bytes(b"GIF89a")
    expected.add(("unused file", "images/train/old.gif", ""))

    put(root, "train/a1.jpg", None, seed=210)  # beside a1.png
    expected.add(("shared label file", "images/train/a1.png", ""))
    put(root, "train/copy.png", seed=0)
    expected.add(("duplicate image", "images/train/copy.png", ""))
    put(root, "train/other.png", "1 0.6 0.6 0.2 0.3\n", seed=2)
    expected.add(("contradicting labels", "images/train/other.png", ""))
    (root / "images/train/leak.jpg").write_bytes((root / "images/val/b0.jpg").read_bytes())
    (root / "labels/train/leak.txt").write_text(GOOD)
    put(root, "train/stored.png", content=encode(".png", cv2.imread(str(root / "images/val/b1.jpg"))))
    put(root, "train/again.webp", seed=12)  # compressed with loss, val/b2.jpg
    expected |= {("leaked image", f"images/train/{name}", "") for name in ("leak.jpg", "stored.png")}
    expected.add(("lookalike image", "images/train/again.webp", ""))

    put(root, "train/bare.png", None, seed=220)
    expected.add(("no label file", "images/train/bare.png", ""))
    put(root, "train/nothing.png", "\n", seed=221)
    expected.add(("empty label file", "labels/train/nothing.txt", ""))
    (root / "labels/train/lost.txt").write_text(GOOD)
    (root / "labels/train/deep").mkdir()
    (root / "labels/train/deep/gone.txt").write_text(GOOD)
    (root / "labels/train/classes.txt").write_text("cat\ndog\n")  # of a labelling program
    expected |= {("orphan labels", f"labels/train/{name}.txt", "") for name in ("lost", "deep/gone")}
    put(root, "train/wide.png", None, seed=223)
    (root / "labels/train/wide.txt").write_text(f"{GOOD}\n", encoding="utf-16")
    expected.add(("unreadable labels", "labels/train/wide.txt", ""))
    (root / "labels/train/folder.txt").mkdir()
    put(root, "train/folder.png", None, seed=222)
    expected.add(("unreadable labels", "labels/train/folder.txt", ""))

    (root / "images/test").mkdir()
    put(root, "test/c.png", seed=230)
    (root / "test.txt").write_text("./images/test/c.png\n\n./images/test/d.png\n./data.yaml\n./images/test/c.png\n")
    expected |= {
        ("missing image", "test.txt", "3"),
        ("no image", "test.txt", "4"),
        ("repeated in list", "test.txt", "5"),
    }
    write_config(root, train=["images/train", "images/more"], test="test.txt", names=["cat", "dog", "cow", " Dog", "7"])
    (root / "data.yaml").write_text((root / "data.yaml").read_text())
    expected |= {(kind, "data.yaml", "") for kind in ("missing source", "class name", "class without objects")}
    return expected


def test_a_clean_data_set_has_no_findings(clean):
    assert findings_of(clean, imgsz=640) == []
    directory = clean.parent / "runs0" / "exp"
    assert sorted(path.name for path in directory.iterdir()) == ["overview.png", "problems.csv", "report.json"]
    main([str(clean / "data.yaml"), "--strict", "--project", str(clean.parent / "strict")])


def test_every_planted_defect_is_named_by_file_and_line(clean):
    expected = plant(clean)
    write_config(clean, train=["images/train", "images/more"], test="test.txt", names=["cat", "dog"])
    before = snapshot(clean)
    expected -= {("class name", "data.yaml", ""), ("class without objects", "data.yaml", "")}
    rows = findings_of(clean)
    assert told(rows) == expected
    assert len({kind for kind, _, _ in expected}) >= 25
    assert len(rows) == len(expected)
    assert snapshot(clean) == before


def test_report_and_pictures(clean):
    plant(clean)
    write_config(clean, test="test.txt")
    counts = lint(str(clean / "data.yaml"), project=str(clean.parent / "runs"))
    directory = clean.parent / "runs" / "exp"
    report = json.loads((directory / "report.json").read_text())
    assert report["findings"] == counts
    assert report["kinds"]["tiny box"] == {"level": "warning", "count": 2}
    val = report["splits"]["val"]
    assert (val["images"], val["objects"], val["backgrounds"], val["unusable images"]) == (4, 8, 0, 0)
    assert val["objects of a class"] == {"0 cat": 4, "1 dog": 4}
    assert val["side of a box"]["most"] == pytest.approx((16 * 30) ** 0.5, abs=0.01)
    assert val["objects in an image"]["50 %"] == 2
    assert report["splits"]["train"]["unusable images"] == 5
    pictures = {path.name for path in directory.glob("*.jpg")}
    assert {"warning-tiny-box.jpg", "error-leaked-image.jpg", "error-columns.jpg", "warning-giant-box.jpg"} <= pictures
    assert not {"error-broken-image.jpg", "error-cut-off-image.jpg"} & pictures
    assert all(cv2.imread(str(path)) is not None for path in directory.glob("*.jpg"))


def test_exit_code(clean, capsys):
    def code(*flags):
        return run_command(lambda: main([str(clean / "data.yaml"), "--project", str(clean.parent / "runs"), *flags]))

    assert code("--strict") == 0
    (clean / "labels/val/lost.txt").write_text(GOOD)
    assert code() == 0
    assert code("--strict") == 1
    (clean / "labels/val/b0.txt").write_text("9 0.5 0.5 0.2 0.2\n")
    assert code() == 1
    assert "found 1 errors and 1 warnings" in capsys.readouterr().err
    assert code("--imgsz", "0") == 1
    assert code("--nonsense") == 1


def test_tiny_depends_on_the_size_in_training(clean):
    put(clean, "train/a0.png", "0 0.3 0.4 0.2 0.5\n1 0.5 0.5 0.05 0.3\n", seed=0)  # 4 pixels wide
    assert findings_of(clean, imgsz=640) == []
    assert told(findings_of(clean, imgsz=32)) == {("tiny box", "labels/train/a0.txt", "2")}


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_split_without_labels(clean, elsewhere):
    for file in (clean / "labels/train").iterdir():
        file.unlink()
    (clean / "labels/train").rmdir()
    if elsewhere:
        (clean / "images/train/labels").mkdir()
        (clean / "images/train/labels/a0.txt").write_text(GOOD)
    (row,) = findings_of(clean)
    assert (row["kind"], row["file"]) == ("no labels", "data.yaml")
    assert str(clean / "labels/train/a0.txt") in row["expected"]
    assert (str(clean / "images/train/labels/a0.txt") in row["remedy"]) == elsewhere


def test_names_and_counts(clean):
    write_config(clean, names=["cat", "dog", "Dog ", "3"])
    rows = findings_of(clean)
    assert [row["kind"] for row in rows] == ["class name"] * 2 + ["class without objects"] * 4
    assert any("'Dog ' for the classes 1 and 2" in row["found"] for row in rows)
    assert any("no object of class 3 (3) in val" in row["found"] for row in rows)


def test_missing_and_shared_splits(clean):
    write_config(clean, val=None)
    assert told(findings_of(clean)) == {("missing split", "data.yaml", "")}
    write_config(clean, val="images/train")
    assert told(findings_of(clean)) == {("shared source", "data.yaml", "")}
    write_config(clean, val="images")
    rows = findings_of(clean)
    assert told(rows) == {("leaked image", f"images/train/a{number}.png", "") for number in range(4)}
    assert all(row["found"] == "the same file in val" for row in rows)
    write_config(clean, train="images/nowhere", val="data.yaml")
    assert {row["kind"] for row in findings_of(clean)} == {"missing source", "bad source"}
    (clean / "images/void").mkdir()
    write_config(clean, train="images/void")
    assert told(findings_of(clean)) == {("bad source", "images/void", "")}


def test_a_leak_tells_that_its_labels_differ(clean):
    put(clean, "train/one.png", GOOD, seed=70)
    put(clean, "train/two.png", "", seed=70)
    put(clean, "val/one.png", GOOD, seed=70)
    leaks = {row["file"]: row["found"] for row in findings_of(clean) if row["kind"] == "leaked image"}
    assert leaks["images/train/one.png"].endswith("val/one.png in val")
    assert leaks["images/train/two.png"].endswith("val/one.png in val, with other labels")


def test_labels_beside_the_images(tmp_path):
    root = tmp_path / "flat"
    for number in range(2):
        put(root, f"{number}.png", seed=number)
    (root / "images").rename(root / "pictures")
    for file in (root / "labels").iterdir():
        file.rename(root / "pictures" / file.name)
    (root / "pictures/lost.txt").write_text(GOOD)
    (root / "pictures/train.txt").write_text("./0.png\n")
    (root / "pictures/val.txt").write_text("./1.png\n")
    write_config(root, train="pictures/train.txt", val="pictures/val.txt")
    assert told(findings_of(root)) == {("orphan labels", "pictures/lost.txt", "")}


def test_fix(clean, tmp_path):
    plant(clean)
    write_config(clean, test="test.txt")
    before = snapshot(clean)
    out = tmp_path / "fixed"
    lint(str(clean / "data.yaml"), project=str(tmp_path / "runs"), fix=out)
    assert snapshot(clean) == before
    rows = findings_of(out)
    assert {row["kind"] for row in rows if row["level"] == "error"} == set()
    mended = {"duplicate row", "clipped coordinate", "box over the border", "duplicate image", "orphan labels"}
    assert not mended & {row["kind"] for row in rows}

    images = {path.name for path in (out / "images/train").iterdir()}
    left_out = {"empty.jpg", "cut.jpg", "broken.png", "text.jpg", "small.png", "a1.png", "copy.png"}
    left_out |= {"leak.jpg", "stored.png", "folder.png", "wide.png", "old.gif"}
    originals = {path.name for path in (clean / "images/train").iterdir()}
    assert images == originals - left_out  # other.png, of which a2.png has other objects, stays with it
    assert {path.stem for path in (out / "labels/train").iterdir()} == {Path(name).stem for name in images}
    assert (out / "labels/train/a0.txt").read_text() == GOOD
    assert (out / "images/train/a0.png").read_bytes() == (clean / "images/train/a0.png").read_bytes()
    assert (out / "labels/train/r02.txt").read_text().split() == ["0", "0.3", "0.4", "0.2", "0.5"]
    np.testing.assert_allclose(
        np.loadtxt(out / "labels/train/r15.txt")[1], [1, 0.1, 0.5, 0.2, 0.3], atol=1e-6
    )  # 1 0.05 0.5 0.3 0.3, cut on the left

    with (out / "changes.csv").open(newline="") as stream:
        changes = {(Path(row["file"]).name, row["line"]): row for row in csv.DictReader(stream)}
    assert {name for name, line in changes if not line} >= left_out - {"old.gif"}
    assert changes["r06.txt", "2"]["change"] == "dropped"
    assert "class 2" in changes["r06.txt", "2"]["reason"]
    assert changes["r15.txt", "2"]["change"] == "mended"
    assert ("test.txt", "3") in changes

    config = load_dataset_config(str(out / "data.yaml"))
    assert [len(scan_samples(config.sources(split), config.nc)) for split in ("val", "test")] == [4, 1]


def test_fix_keeps_a_shared_source_and_tells_images_of_one_name_apart(clean, tmp_path):
    put(clean, "more/a0.png", GOOD, seed=50)
    write_config(clean, train=["images/train", "images/more"], val=["images/train", "images/more"])
    lint(str(clean / "data.yaml"), project=str(tmp_path / "runs"), fix=tmp_path / "fixed")
    content = yaml.safe_load((tmp_path / "fixed/data.yaml").read_text())
    assert (content["train"], content["val"]) == ("images/train", "images/train")
    names = sorted(path.name for path in (tmp_path / "fixed/images/train").iterdir())
    assert names == ["a0-2.png", "a0.png", "a1.png", "a2.png", "a3.png"]
    assert told(findings_of(tmp_path / "fixed")) == {("shared source", "data.yaml", "")}


def fixed(root: Path, out: Path) -> tuple[set[str], dict[str, str]]:
    """split/name of the images of a mended copy, and why the others were left out."""
    lint(str(root / "data.yaml"), project=str(out.with_name("runs")), fix=out)
    with (out / "changes.csv").open(newline="") as stream:
        reasons = {"/".join(Path(row["file"]).parts[-2:]): row["reason"] for row in csv.DictReader(stream)}
    return {f"{path.parent.name}/{path.name}" for path in out.glob("images/*/*")}, reasons


ONE, OTHER, UNUSABLE = "0 0.3 0.4 0.2 0.5\n", "1 0.6 0.6 0.2 0.3\n", "7 0.5 0.5 0.1 0.1\n"


@pytest.mark.parametrize(
    ("labels", "left_out"),
    [
        ({"train/s1": "", "train/s2": ONE}, {"train/s1": "the same image as {train/s2}, which has objects"}),
        ({"train/s1": None, "train/s2": ONE}, {"train/s1": "the same image as {train/s2}, which has objects"}),
        ({"train/s1": ONE, "train/s2": ""}, {"train/s2": "the same image as {train/s1}, which has objects"}),
        ({"train/s1": "", "train/s2": None}, {"train/s2": "the same image as {train/s1}"}),
        ({"train/s1": ONE, "train/s2": OTHER}, {}),
        ({"train/s1": ONE, "train/s2": ONE + OTHER}, {}),
        (
            {"train/s1": ONE, "train/s2": "", "train/s3": OTHER, "train/s4": OTHER},
            {
                "train/s2": "the same image as {train/s1}, which has objects",
                "train/s4": "the same image as {train/s3}",
            },
        ),
        ({"train/s1": ONE, "val/s2": ONE}, {"train/s1": "is in val too: {val/s2}"}),
        ({"train/s1": "", "val/s2": ONE}, {"train/s1": "is in val too: {val/s2}, which has objects"}),
        ({"train/s1": ONE, "val/s2": ""}, {"val/s2": "is in train too: {train/s1}, which has objects"}),
        ({"train/s1": ONE, "val/s2": OTHER}, {"train/s1": "is in val too: {val/s2}, with other objects"}),
        (
            {"train/s1": OTHER, "val/s2": "", "val/s3": ONE, "val/s4": OTHER},
            {
                "train/s1": "is in val too: {val/s4}",
                "val/s2": "the same image as {val/s3}, which has objects",
            },
        ),
        # what cannot be used is no reason to leave out what can
        (
            {"train/s1": UNUSABLE, "train/s2": ONE, "val/s3": UNUSABLE},
            {"train/s1": "no row of (train/s1) can be used", "val/s3": "no row of (val/s3) can be used"},
        ),
    ],
)
def test_of_same_images_the_copy_keeps_those_with_objects(clean, tmp_path, labels, left_out):
    places = {}
    for name, label in labels.items():
        put(clean, f"{name}.png", label, seed=70)
        places |= {f"{{{name}}}": clean / f"images/{name}.png", f"({name})": clean / f"labels/{name}.txt"}
    before = snapshot(clean)
    images, reasons = fixed(clean, tmp_path / "fixed")
    assert snapshot(clean) == before
    for place, file in places.items():
        left_out = {name: reason.replace(place, str(file)) for name, reason in left_out.items()}
    assert {name: reasons[f"{name}.png"] for name in labels if f"{name}.png" not in images} == left_out
    kept = [name for name in labels if name not in left_out]
    for name in kept:
        assert (tmp_path / f"fixed/labels/{name}.txt").read_text() == (labels[name] or "")
    rows = findings_of(tmp_path / "fixed")
    assert not [row for row in rows if row["level"] == "error"]
    assert sum(row["kind"] == "contradicting labels" for row in rows) == len(kept) - 1


def test_fix_keeps_the_second_of_two_images_with_one_label_file_if_the_first_is_broken(clean, tmp_path):
    put(clean, "train/a1.jpg", None, content=b"no image")  # before a1.png
    images, reasons = fixed(clean, tmp_path / "fixed")
    assert "train/a1.png" in images
    assert set(reasons) == {"train/a1.jpg"}


def test_fix_loses_no_image_between_splits_that_share_their_source(clean, tmp_path):
    put(clean, "train/s.png", ONE, seed=70)
    put(clean, "val/s.png", ONE, seed=70)
    write_config(clean, test="images/train")  # so that there is a later split with the image for each
    images, reasons = fixed(clean, tmp_path / "fixed")
    assert "val/s.png" in images
    assert set(reasons) == {"train/s.png"}


def refuse(root: Path, fix: Path, monkeypatch) -> str:
    monkeypatch.setattr("utils.data.lint.__main__.survey_dataset", None)  # nothing is read
    before = snapshot(root)
    with pytest.raises(UserError, match="which is never changed; choose another folder") as error:
        lint(str(root / "data.yaml"), project=str(root.with_name("runs")), fix=fix)
    assert snapshot(root) == before
    assert not fix.exists()
    assert not root.with_name("runs").exists()
    return str(error.value)


@pytest.mark.parametrize("inside", ["fixed", "images/fixed", "images/train/deep/fixed", "labels/train/fixed"])
def test_fix_inside_the_data_set_is_refused(clean, inside, monkeypatch):
    assert f"--fix {clean / inside}: lies in {clean}" in refuse(clean, clean / inside, monkeypatch)


def test_fix_inside_the_data_set_is_refused_through_a_link_too(clean, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(clean / "images")
    refuse(clean, tmp_path / "link/fixed", monkeypatch)


@pytest.mark.parametrize("listed", [True, False])
def test_fix_beside_images_that_are_elsewhere_is_refused(clean, tmp_path, listed, monkeypatch):
    away = tmp_path / "away"
    put(away, "x.png", seed=60)
    (clean / "list.txt").write_text(f"{away / 'images/x.png'}\n")
    write_config(clean, train=str(clean / "list.txt") if listed else str(away / "images"))
    refuse(clean, away / "images/fixed", monkeypatch)
    refuse(clean, away / "labels/fixed", monkeypatch)


def test_fix_below_a_root_that_has_nothing_of_the_data_set(clean, tmp_path):
    (tmp_path / "home").mkdir()
    write_config(clean, path=str(tmp_path / "home"), train=str(clean / "images/train"), val=str(clean / "images/val"))
    images, _ = fixed(clean, tmp_path / "home/fixed")
    assert len(images) == 8


def test_fix_is_all_or_nothing(clean, tmp_path, capsys):
    def code(out):
        return run_command(
            lambda: main([str(clean / "data.yaml"), "--project", str(tmp_path / "runs"), "--fix", str(out)])
        )

    assert code(clean) == 1
    assert "never overwritten" in capsys.readouterr().err
    for number in range(4):
        (clean / f"labels/train/a{number}.txt").write_text("7 0.5 0.5 0.1 0.1\n")
    assert code(tmp_path / "out") == 1
    assert "nothing is left of train" in capsys.readouterr().err
    write_config(clean, val="images/nowhere")
    assert code(tmp_path / "out") == 1
    assert "cannot be mended" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"set", "runs"}
