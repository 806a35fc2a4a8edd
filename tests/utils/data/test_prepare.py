import hashlib
import io
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import namedtuple
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import utils.data.config
import utils.data.fetch
import utils.data.prepare
from utils.cli import run_command
from utils.data.config import load_dataset_config
from utils.data.prepare import main, prepare, show_recipes
from utils.data.recipes import RECIPES, Archive, Recipe
from utils.data.scan import scan_samples
from utils.errors import UserError

SPACE = namedtuple("SPACE", "total used free")
PICTURE, TALL = (cv2.imencode(".jpg", np.zeros((*shape, 3), np.uint8))[1].tobytes() for shape in ((20, 40), (40, 20)))


def voc_xml(*objects: tuple) -> bytes:
    tags = ("xmin", "ymin", "xmax", "ymax")
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, box, strict=True))
        + "</bndbox></object>"
        for name, difficult, box in objects
    )
    return f"<annotation><size><width>40</width><height>20</height></size>{body}</annotation>".encode()


def coco_files() -> dict[str, bytes]:
    """annotations/, train2017/, val2017/ and test2017/ of three, one and two images."""
    names = load_dataset_config("coco.yaml").names
    categories = [{"id": index + 1, "name": name} for index, name in names.items()]
    files = {}
    for split, ids in {"train2017": (1, 2, 3), "val2017": (4,)}.items():
        images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 40, "height": 20} for i in ids]
        boxes = [{"image_id": ids[0], "category_id": 2, "bbox": [10, 5, 20, 10], "iscrowd": 0, "id": 1}]
        boxes += [{"image_id": ids[0], "category_id": 1, "bbox": [0, 0, 40, 20], "iscrowd": 1, "id": 2}]
        content = {"images": images, "annotations": boxes, "categories": categories}
        files[f"annotations/instances_{split}.json"] = json.dumps(content).encode()
        files |= {f"{split}/{image['file_name']}": PICTURE for image in images}
    test = {"images": [{"id": 6, "file_name": "000000000006.jpg"}], "categories": categories}
    files["annotations/image_info_test-dev2017.json"] = json.dumps(test).encode()
    return files | {f"test2017/{i:012d}.jpg": PICTURE for i in (5, 6)}


def voc_files() -> dict[str, bytes]:
    """VOC2007 and VOC2012, one image in each list."""
    files = {}
    for number, (year, split) in enumerate(
        [("2007", "train"), ("2007", "val"), ("2007", "test"), ("2012", "train"), ("2012", "val")]
    ):
        base = f"VOCdevkit/VOC{year}"
        boxes = [("dog", 0, (5, 3, 25, 13)), ("cat", 1, (1, 1, 40, 20))] if split != "val" else []
        files[f"{base}/ImageSets/Main/{split}.txt"] = f"{number:06d}\n".encode()
        files[f"{base}/ImageSets/Main/dog_{split}.txt"] = f"{number:06d} -1\n".encode()
        files[f"{base}/Annotations/{number:06d}.xml"] = voc_xml(*boxes)
        files[f"{base}/JPEGImages/{number:06d}.jpg"] = PICTURE
        files[f"{base}/SegmentationClass/{number:06d}.png"] = b"x"
    return files


def coco128_files() -> dict[str, bytes]:
    return {
        "coco128/images/train2017/000000000009.jpg": PICTURE,
        "coco128/labels/train2017/000000000009.txt": b"1 0.5 0.5 0.25 0.5\n",
        "coco128/LICENSE": b"free",
        "__MACOSX/coco128/._LICENSE": b"x",
    }


def visdrone_files() -> dict[str, bytes]:
    files = {}
    for number, split in enumerate(("train", "val", "test-dev")):
        files[f"VisDrone2019-DET-{split}/images/{number}.jpg"] = PICTURE
        files[f"VisDrone2019-DET-{split}/annotations/{number}.txt"] = b"0,0,8,4,1,4,0,0\n0,0,9,9,0,0,0,0\n"
    return files


def as_zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def as_tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def part(files: dict[str, bytes], *starts: str) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.startswith(starts)}


def labels_of(file: Path, split: str) -> dict[str, list]:
    config = load_dataset_config(str(file))
    samples = scan_samples(config.sources(split), config.nc, require_labels=False)
    return {sample.path.stem: sample.labels.tolist() for sample in samples}


@pytest.fixture(autouse=True)
def impatient(monkeypatch, tmp_path):
    monkeypatch.setattr(utils.data.fetch, "WAITS", (0, 0.01))
    monkeypatch.setattr("utils.data.scan.CACHE_FOLDER", tmp_path / "cache")


@pytest.fixture
def served(server, monkeypatch):
    """Puts the archives of a data set on the server, and makes its recipe point there."""

    def serve(name: str, contents: list[tuple[bytes, Archive]]) -> None:
        archives = tuple(
            Archive(server.serve(f"/{archive.name}", content), len(content), archive.into, archive.splits, checksum)
            for content, archive in contents
            for checksum in [archive.checksum and f"md5:{hashlib.md5(content).hexdigest()}"]
        )
        recipe = RECIPES[name]
        monkeypatch.setattr(
            utils.data.prepare, "RECIPES", {name: Recipe(recipe.page, recipe.size, recipe.converter, archives)}
        )

    return serve


@pytest.fixture
def coco(served):
    files = coco_files()
    starts = {
        "annotations_trainval2017.zip": "annotations/instances",
        "image_info_test2017.zip": "annotations/image_info",
        "val2017.zip": "val2017/",
        "train2017.zip": "train2017/",
        "test2017.zip": "test2017/",
    }
    served("coco", [(as_zip(part(files, starts[archive.name])), archive) for archive in RECIPES["coco"].archives])


@pytest.fixture
def coco128(served):
    served("coco128", [(as_zip(coco128_files()), RECIPES["coco128"].archives[0])])


def test_coco128(coco128, tmp_path):
    out = tmp_path / "sets" / "coco128"
    file = prepare("coco128", out=out)
    assert file == out / "coco128.yaml"
    assert labels_of(file, "train") == {"000000000009": [[1, 0.5, 0.5, 0.25, 0.5]]}
    assert sorted(path.name for path in out.iterdir()) == ["coco128", "coco128.yaml", "images", "labels"]
    assert [path.name for path in out.parent.iterdir()] == ["coco128"]  # archives and all are gone
    content = yaml.safe_load(file.read_text())
    assert content["path"] == str(out)
    assert "download" not in content
    assert len(content["names"]) == 80


def test_coco(coco, tmp_path):
    file = prepare("coco", out=tmp_path / "coco")
    assert labels_of(file, "train") == {
        "000000000001": [[1, 0.5, 0.5, 0.5, 0.5]],  # without the crowd
        "000000000002": [],
        "000000000003": [],
    }
    assert labels_of(file, "val") == {"000000000004": [[1, 0.5, 0.5, 0.5, 0.5]]}
    assert labels_of(file, "test") == {"000000000006": []}  # not the image that is only in test2017
    assert (tmp_path / "coco/val2017.txt").read_text() == "./images/val2017/000000000004.jpg\n"
    assert (tmp_path / "coco/labels/train2017/000000000002.txt").read_text() == ""
    assert (tmp_path / "coco/annotations/instances_val2017.json").is_file()


def test_splits(coco, server, tmp_path):
    file = prepare("coco", out=tmp_path / "coco", splits=["val"])
    assert [path for path, *_ in server.requests] == ["/annotations_trainval2017.zip", "/val2017.zip"]
    assert list(labels_of(file, "val")) == ["000000000004"]
    content = yaml.safe_load(file.read_text())
    assert list(content) == ["path", "val", "names"]
    assert content["val"] == "val2017.txt"
    with pytest.raises(UserError, match="found no `train`"):
        load_dataset_config(str(file)).sources("train")


def test_voc(served, tmp_path):
    files = voc_files()
    test = {name: content for name, content in files.items() if "test" in name or "000002" in name}
    trainval = {name: content for name, content in files.items() if name not in test}
    contents = [test, part(trainval, "VOCdevkit/VOC2007"), part(trainval, "VOCdevkit/VOC2012")]
    served("VOC", [(as_tar(c), archive) for c, archive in zip(contents, RECIPES["VOC"].archives, strict=True)])
    file = prepare("VOC", out=tmp_path / "VOC")
    dog = [[11, *np.float32([14 / 40, 7 / 20, 0.5, 0.5]).tolist()]]
    assert labels_of(file, "train") == {"000000": dog, "000001": [], "000003": dog, "000004": []}
    assert labels_of(file, "val") == labels_of(file, "test") == {"000002": dog}
    assert sorted(path.name for path in (tmp_path / "VOC").iterdir()) == ["VOC.yaml", "images", "labels"]


def test_visdrone(served, tmp_path):
    archives = RECIPES["VisDrone"].archives
    files = visdrone_files()
    served("VisDrone", [(as_zip(part(files, Path(archive.url).stem)), archive) for archive in archives])
    file = prepare("VisDrone", out=tmp_path / "VisDrone")
    for split, name in (("train", "0"), ("val", "1"), ("test", "2")):
        assert labels_of(file, split) == {name: [[3, *np.float32([0.1, 0.1, 0.2, 0.2]).tolist()]]}


def test_interrupted_downloads_go_on(coco, server, tmp_path):
    server.files["/train2017.zip"].plan = [server.break_off(100), *[server.status(500)] * 9]
    out = tmp_path / "coco"
    with pytest.raises(UserError, match="gave up"):
        prepare("coco", out=out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco.archives"]
    assert "images/train2017.zip.part" in tree(tmp_path / "coco.archives")
    server.files["/train2017.zip"].plan = []
    server.requests.clear()
    prepare("coco", out=out)
    assert server.requests[0] == ("/train2017.zip", "bytes=100-", '"1"')
    assert [path for path, *_ in server.requests] == ["/train2017.zip", "/test2017.zip"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco"]


def test_a_corrupt_archive_is_fetched_anew(coco128, server, tmp_path):
    good = server.files["/coco128.zip"].content
    server.files["/coco128.zip"].content = good[: len(good) // 2]
    for _ in range(2):
        with pytest.raises(UserError, match=r"coco128\.zip: is damaged .*; it was deleted, run the same command again"):
            prepare("coco128", out=tmp_path / "set")
        assert not (tmp_path / "set").exists()
        assert tree(tmp_path) == {}
    server.files["/coco128.zip"].content = good
    prepare("coco128", out=tmp_path / "set")
    assert len(server.requests) == 3


def test_a_wrong_checksum(served, tmp_path, monkeypatch, server):
    served("coco128", [(as_zip(coco128_files()), Archive("http://x/coco128.zip", 1, checksum="md5:"))])
    server.files["/coco128.zip"].content += b"more"
    with pytest.raises(UserError, match="found the MD5 checksum"):
        prepare("coco128", out=tmp_path / "set")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["../../evil.jpg", "/tmp/evil.jpg"])
def test_a_hostile_archive(served, tmp_path, name):
    served("coco128", [(as_zip({**coco128_files(), name: b"x"}), RECIPES["coco128"].archives[0])])
    with pytest.raises(UserError, match="with paths inside of the archive"):
        prepare("coco128", out=tmp_path / "a" / "set")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["set.archives"]
    assert not list(tmp_path.rglob("evil*"))


def test_an_archive_that_lacks_something(served, tmp_path):
    served("coco128", [(as_zip({"coco128/labels/train2017/a.txt": b""}), RECIPES["coco128"].archives[0])])
    with pytest.raises(UserError, match=r"coco128.yaml: train: found no images for images/train2017; val: .*--splits"):
        prepare("coco128", out=tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set.archives"]


def test_archives_may_be_kept(coco, server, tmp_path):
    prepare("coco", out=tmp_path / "coco", splits=["val"], keep=True)
    assert sorted(tree(tmp_path / "coco.archives")) == ["annotations_trainval2017.zip", "images/val2017.zip"]
    shutil.rmtree(tmp_path / "coco")
    server.requests.clear()
    prepare("coco", out=tmp_path / "coco", splits=["val"])
    assert server.requests == []
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]


def test_files_of_others_beside_the_archives_stay(coco, tmp_path):
    write(tmp_path / "coco.archives", {"images/mine.zip": b"x"})
    prepare("coco", out=tmp_path / "coco")
    assert tree(tmp_path / "coco.archives") == {"images/mine.zip": b"x"}


def test_a_symbolic_link_to_nothing_exists(tmp_path):
    source = write(tmp_path / "official", coco128_files())
    (tmp_path / "out").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="out: exists already and is never changed"):
        prepare("coco128", source=source, out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["official", "out"]


def test_an_error_leaves_no_folder_that_was_not_there(tmp_path):
    source = write(tmp_path / "official", {"labels/train2017/a.txt": b""})
    with pytest.raises(UserError):
        prepare("coco128", source=source, out=tmp_path / "new" / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["official"]


@pytest.mark.parametrize("existing", ["folder", "file"])
def test_what_exists_is_never_touched(coco128, server, tmp_path, existing):
    out = tmp_path / "set"
    if existing == "folder":
        write(out, {"mine.txt": b"mine"})
    else:
        out.write_bytes(b"mine")
    before = {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))}
    with pytest.raises(UserError, match="exists already and is never changed; remove it, or choose another one"):
        prepare("coco128", out=out)
    assert {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))} == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert server.requests == []


def test_a_small_disk_is_told_before_anything_is_asked_for(coco, server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SPACE(10**9, 0, 5000))
    with pytest.raises(
        UserError, match=r"coco: its archives, unpacked beside each other, needs .* only 5.0 kB are free"
    ):
        prepare("coco", out=tmp_path / "deep" / "coco")
    assert server.requests == []
    assert tree(tmp_path) == {}


def test_a_disk_that_becomes_full(coco128, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(utils.data.prepare, "unpack", full)
    with pytest.raises(UserError, match="the disk is full; free some space and run the same command again"):
        prepare("coco128", out=tmp_path / "set")
    assert list(tree(tmp_path)) == ["set.archives/coco128.zip"]


def test_two_at_a_time(coco128, tmp_path, monkeypatch):
    unpack = utils.data.prepare.unpack
    second = []

    def unpack_slowly(*arguments):
        with pytest.raises(UserError, match="another process is making it") as caught:
            prepare("coco128", out=tmp_path / "set")
        second.append(caught)
        unpack(*arguments)

    monkeypatch.setattr(utils.data.prepare, "unpack", unpack_slowly)
    prepare("coco128", out=tmp_path / "set")
    assert len(second) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


KILLED = """
import signal, sys, time
from pathlib import Path
import utils.data.prepare as program
import utils.data.unpack
from utils.data.recipes import Archive, Recipe
name, url, out, size = sys.argv[1:]
utils.data.unpack.require_space = lambda *_: time.sleep(0.005)  # so that it can be killed while it unpacks
signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a process that ignores it do so too
program.RECIPES = {name: Recipe("", 1, name, (Archive(url, int(size)),))}
program.prepare(name, out=Path(out))
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("stage", ["download", "unpack"])
def test_a_killed_process_leaves_nothing_half_written(served, server, tmp_path, stage, ending):
    many = {f"coco128/images/train2017/{n:012d}.jpg": PICTURE + bytes(2000) for n in range(1000)}
    content = as_zip(many)
    served("coco128", [(content, RECIPES["coco128"].archives[0])])
    server.files["/coco128.zip"].pace = 0.001 if stage == "download" else 0
    out = tmp_path / "set"
    command = [sys.executable, "-c", KILLED, "coco128", server.url("/coco128.zip"), str(out), str(len(content))]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)
    seen = "set.archives/*.part" if stage == "download" else ".set.preparing/set/coco128/images/train2017/*9.jpg"
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in tmp_path.glob(seen)) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(ending)
    process.wait()
    assert not out.exists()
    assert (tmp_path / ".set.preparing").exists() == (ending == signal.SIGKILL)
    server.files["/coco128.zip"].pace = 0
    prepare("coco128", out=out)
    assert len(list((out / "images/train2017").iterdir())) == 1000
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    wanted = server.ranges()[1:]
    assert (wanted == []) if stage == "unpack" else (len(wanted) == 1 and wanted[0].startswith("bytes="))


@pytest.mark.parametrize(
    ("name", "files", "split", "images"),
    [
        ("coco", coco_files(), "train", 3),
        ("VOC", voc_files(), "train", 4),
        ("VisDrone", visdrone_files(), "test", 1),
        ("coco128", coco128_files(), "val", 1),
    ],
)
def test_from_a_folder(tmp_path, name, files, split, images):
    source = write(tmp_path / "official", files)
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    file = prepare(name, source=source, out=tmp_path / "out")
    assert len(labels_of(file, split)) == images
    assert tree(source) == files
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
    picture = next((tmp_path / "out").rglob("*.jpg"))
    assert picture.stat().st_nlink == 2  # takes no space
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "official", "out"]


def test_from_the_folder_inside_of_voc(tmp_path):
    source = write(tmp_path / "official", voc_files())
    prepare("VOC", source=source / "VOCdevkit", out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["VOC.yaml", "images", "labels"]


def test_from_a_folder_that_has_labels_already(tmp_path):
    files = {**part(coco_files(), "annotations", "val2017"), "labels/val2017/000000000004.txt": b"7 0.5 0.5 1 1\n"}
    files |= {"labels/val2017/other.txt": b"", "val2017.txt": b"mine"}
    source = write(tmp_path / "official", files)
    file = prepare("coco", source=source, out=tmp_path / "out", splits=["val"])
    assert labels_of(file, "val") == {"000000000004": [[1, 0.5, 0.5, 0.5, 0.5]]}
    assert not (tmp_path / "out/labels/val2017/other.txt").exists()
    assert tree(source) == files


def test_from_a_folder_with_some_splits(tmp_path, caplog):
    source = write(tmp_path / "official", part(coco_files(), "annotations", "val2017"))
    file = prepare("coco", source=source, out=tmp_path / "out")
    assert list(labels_of(file, "val")) == ["000000000004"]
    for gap in ("train: found no images for train2017.txt", "test: found no images for test-dev2017.txt"):
        assert gap in caplog.messages
    assert list(yaml.safe_load(file.read_text())) == ["path", "val", "names"]


def test_missing_lists_are_all_named_and_the_yaml_has_the_others(tmp_path, caplog):
    source = write(tmp_path / "official", part(voc_files(), "VOCdevkit/VOC2007"))
    file = prepare("VOC", source=source, out=tmp_path / "out")
    assert caplog.messages == ["train: found no images for images/train2012, images/val2012"]
    content = yaml.safe_load(file.read_text())
    assert content["train"] == ["images/train2007", "images/val2007"]
    assert content["val"] == content["test"] == "images/test2007"
    assert sorted(labels_of(file, "train")) == ["000000", "000001"]


@pytest.mark.parametrize(
    ("files", "use"),
    [
        (("val2017", "train2017"), "train with --data {}"),
        (
            ("val2017",),
            "it can be evaluated only: it has no train split, .*; evaluate with val.py --data {} --task val",
        ),
        (
            ("train2017",),
            "it can be evaluated only: it has no val split, .*; evaluate with val.py --data {} --task train",
        ),
        (("test2017",), "it can be evaluated only: it has no train and no val split, .* --task test"),
    ],
)
@pytest.mark.parametrize("place", ["default", "other"])
def test_the_last_line_says_what_the_set_is_good_for(tmp_path, monkeypatch, caplog, files, use, place):
    caplog.set_level("INFO")
    out = tmp_path / "out"
    if place == "default":
        root = tmp_path / "program"
        shutil.copytree(Path(__file__).parents[3] / "data", root / "data")
        monkeypatch.setattr(utils.data.config, "PROGRAM_ROOT", root)
        monkeypatch.setattr("utils.files.PROGRAM_ROOT", root)
        out = tmp_path / "datasets" / "coco"
    source = write(tmp_path / "official", part(coco_files(), "annotations", *files))
    main(["coco", "--from", str(source), *([] if place == "default" else ["--out", str(out)])])
    assert re.fullmatch("done: " + use.format(re.escape(f"{out}/coco.yaml")), caplog.messages[-1])
    config = load_dataset_config(str(out / "coco.yaml"))
    assert config.root == out
    for split in ("train", "val", "test"):
        assert bool(getattr(config, split)) == (f"{split}2017" in files)


@pytest.mark.parametrize(
    ("name", "files", "splits", "missing"),
    [
        ("coco", part(coco_files(), "annotations", "val2017"), ["test"], "no test2017"),
        ("coco", part(coco_files(), "val2017"), ["val", "train"], "no train2017, no instances_train2017.json, no inst"),
        ("VOC", part(voc_files(), "VOCdevkit/VOC2007"), ["train"], "no VOC2012"),
        ("VisDrone", part(visdrone_files(), "VisDrone2019-DET-train"), ["train", "val"], "no VisDrone2019-DET-val"),
    ],
)
def test_wanted_splits_are_looked_for_before_anything_is_converted(tmp_path, monkeypatch, name, files, splits, missing):
    source = write(tmp_path / "official", files)
    monkeypatch.setattr(Recipe, "arrange", None)
    with pytest.raises(UserError, match=rf"official: found {missing}.*, expected all official files of .*--splits"):
        prepare(name, source=source, out=tmp_path / "out", splits=splits)
    assert [path.name for path in tmp_path.iterdir()] == ["official"]


@pytest.mark.parametrize(
    ("name", "files", "broken", "kept"),
    [
        ("coco", coco_files(), "annotations/instances_train2017.json", "images/val2017"),
        ("VOC", voc_files(), "VOCdevkit/VOC2012/Annotations/000003.xml", "images/test2007"),
        ("VOC", voc_files(), "VOCdevkit/VOC2007/Annotations/000001.xml", "images/test2007"),
        ("VisDrone", visdrone_files(), "VisDrone2019-DET-train/annotations/0.txt", "VisDrone2019-DET-val/images"),
    ],
)
def test_only_the_wanted_splits_are_looked_at(tmp_path, name, files, broken, kept):
    source = write(tmp_path / "official", {**files, broken: b"x"})
    with pytest.raises(UserError, match=Path(broken).name):
        prepare(name, source=source, out=tmp_path / "out")
    file = prepare(name, source=source, out=tmp_path / "out", splits=["val"])
    assert {str(path.parent.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.jpg")} == {kept}
    assert "train" not in yaml.safe_load(file.read_text())


def test_lists_of_other_programs_in_the_official_folder_do_not_count(tmp_path):
    lists = {"train2017.txt": b"./images/train2017/000000000001.jpg\n"}
    source = write(tmp_path / "official", part(coco_files(), "annotations", "val2017") | lists)
    assert list(yaml.safe_load(prepare("coco", source=source, out=tmp_path / "out").read_text())) == [
        "path",
        "val",
        "names",
    ]


def test_the_log_has_no_temporary_paths(tmp_path, caplog):
    caplog.set_level("INFO")
    row = b"0,0,8,4,1,4,0,0\n"
    files = {**visdrone_files(), "VisDrone2019-DET-val/annotations/1.txt": row * 3 + b"0,0,0,4,1,4,0,0\n"}
    files["VisDrone2019-DET-val/images/Thumbs.db"] = b"x"
    prepare("VisDrone", source=write(tmp_path / "official", files), out=tmp_path / "out")
    assert "preparing" not in caplog.text
    for line in (
        "VisDrone2019-DET-val/labels: left out 1 boxes without an area inside of their image",
        "VisDrone2019-DET-val/labels: left out 2 boxes that repeat another of their image",
        "VisDrone2019-DET-val/images: 1 files of other types left out (.db)",
    ):
        assert line in caplog.messages
    assert not any(handler.filters for handler in logging.getLogger().handlers)


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("coco", {"a.txt": b""}, "found no train2017 and no val2017"),
        ("coco", part(coco_files(), "val2017"), r"instances_val2017\.json: cannot be read"),
        ("coco", part(coco_files(), "annotations", "train2017/000000000001"), "found no image .*2.jpg"),
        ("VOC", {"a.txt": b""}, "found neither VOC2007 nor VOC2012 .*utils.data.voc"),
        ("VOC", {k: v for k, v in voc_files().items() if "000001.xml" not in k}, r"000001\.xml: no such annotation"),
        ("VOC", {k: v for k, v in voc_files().items() if "000001.jpg" not in k}, r"000001\.jpg: no such image"),
        ("VOC", {**voc_files(), "VOCdevkit/VOC2007/ImageSets/Main/val.txt": b"000000\n"}, "in two lists"),
        (
            "VOC",
            {**voc_files(), "VOCdevkit/VOC2007/JPEGImages/000001.jpg": TALL},
            r"official/.*000001\.xml: found a size of 40 x 20 for .*official/.*/000001\.jpg, expected 20 x 40",
        ),
        (
            "coco",
            {**coco_files(), "val2017/000000000004.jpg": TALL},
            r"instances_val2017\.json: found a size of 40 x 20 for .*4\.jpg, expected 20 x 40 as the image",
        ),
        ("coco128", {"coco128/images/train2017/a.png": b"", "images/a": b""}, "found it and"),
        ("coco128", {"labels/train2017/a.txt": b""}, "found no images for images/train2017"),
    ],
)
def test_bad_folders(tmp_path, name, files, message):
    source = write(tmp_path / "official", files)
    with pytest.raises(UserError, match=message) as caught:
        prepare(name, source=source, out=tmp_path / "out")
    assert ".preparing" not in str(caught.value)  # what the user has is named
    assert tree(source) == files
    assert [path.name for path in tmp_path.iterdir()] == ["official"]


def test_out_may_not_lie_in_from(tmp_path):
    for out in (tmp_path, tmp_path / "deep" / "out"):
        with pytest.raises(UserError, match="which is never changed; choose another folder"):
            prepare("coco", source=tmp_path, out=out)
    assert tree(tmp_path) == {}


def test_by_default_the_folder_of_the_yaml_is_made(coco128, tmp_path, monkeypatch):
    root = tmp_path / "program"
    shutil.copytree(Path(__file__).parents[3] / "data", root / "data")
    monkeypatch.setattr(utils.data.config, "PROGRAM_ROOT", root)
    monkeypatch.setattr("utils.files.PROGRAM_ROOT", root)
    with pytest.raises(UserError, match=r"get the data set with `python -m utils.data.prepare coco128`$"):
        load_dataset_config("coco128.yaml").sources("train")
    assert prepare("coco128") == root / "data" / "coco128.yaml"
    assert labels_of(Path("coco128.yaml"), "train") == {"000000000009": [[1, 0.5, 0.5, 0.25, 0.5]]}
    assert "coco128.yaml" not in tree(tmp_path / "datasets" / "coco128")


@pytest.mark.parametrize("name", ["Argoverse", "xView"])
def test_what_takes_a_person(name, tmp_path):
    with pytest.raises(UserError, match=rf"{name} has to be downloaded by hand, from {RECIPES[name].page}; .*--from"):
        prepare(name, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected the name of a data set, or --list"),
        (["coco12"], "coco12: no data set of that name; did you mean coco128?"),
        (["imagenet"], "known are coco, coco128, VOC"),
        (["coco128", "--splits", "test"], "has only train, val"),
        (["coco128", "--splits", "all"], "invalid choice"),
        (["coco", "--from", "nothing-there", "--out", "new-folder"], "nothing-there: no such folder"),
    ],
)
def test_mistakes_of_the_command_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(lambda: main(arguments)) == 1
    assert message in capsys.readouterr().err
    assert tree(tmp_path) == {}


def test_command(tmp_path):
    source = write(tmp_path / "official", voc_files())
    command = [sys.executable, "-m", "utils.data.prepare", "VOC", "--from", str(source), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"done: train with --data {tmp_path}/out/VOC.yaml\n")


def test_list():
    table = show_recipes()
    assert len(table.splitlines()) == len(RECIPES) + 1
    assert "VOC                2.8 GB" in table
    assert "(by hand, then --from FOLDER)" in table


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_the_shipped_yaml_files(name):
    recipe, config = RECIPES[name], load_dataset_config(f"{name}.yaml")
    splits = {split for split in ("train", "val", "test") if getattr(config, split)}
    assert not recipe.archives or splits <= {split for archive in recipe.archives for split in archive.splits}
    places = [(archive.into, archive.name) for archive in recipe.archives]
    assert len(set(places)) == len(places)
    assert all(archive.url.startswith("http") and archive.size > 0 for archive in recipe.archives)
    assert all(archive.name.endswith((".zip", ".tar", ".tar.gz", ".json")) for archive in recipe.archives)
    assert {split for needing in recipe.parts.values() for split in needing} <= splits
    assert callable(import_module(f"utils.data.converters.{recipe.converter}").arrange)


def test_cocomini_has_the_labels_of_the_published_conversion(shared, tmp_path):
    source = shared / "data" / "cocomini"
    prepare("coco", source=source, out=tmp_path / "out", splits=["val"])
    ours, theirs = tmp_path / "out" / "labels" / "val2017", source / "labels" / "val2017"
    assert sorted(file.name for file in ours.iterdir()) == sorted(file.name for file in theirs.iterdir())
    for file in theirs.iterdir():
        rows = [np.loadtxt(folder / file.name, ndmin=2) for folder in (ours, theirs)]
        np.testing.assert_allclose(*rows, rtol=0, atol=1e-6)
