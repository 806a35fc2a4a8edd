"""detect.py as its users run it: as a command, and as a function."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detect import DetectOptions, detect_objects, main, run, summarize
from models import Model, load_model
from tests.onnx_files import reshaping_detector
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.cli import run_command
from utils.data.images import read_image
from utils.errors import UserError
from utils.nms import Detections

ROOT = Path(__file__).resolve().parents[1]
NAMES = {0: "cat", 1: "Жук", 2: "a/b"}


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights whose confidence is high enough to find something everywhere."""
    torch.manual_seed(3)
    model = Model("yolov5n.yaml", names=NAMES)
    with torch.no_grad():
        for conv in model.head.m:
            conv.bias.view(model.head.na, -1)[:, 4:] += 6
            conv.weight *= 30
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_checkpoint(path, Checkpoint(dict(model.cfg), NAMES, model.stride.tolist(), state))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two images and a video of seven frames."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(5)
    cv2.imwrite(str(folder / "bus.jpg"), random.integers(0, 255, (90, 160, 3), np.uint8))
    cv2.imwrite(str(folder / "tall.png"), random.integers(0, 255, (151, 70, 3), np.uint8))
    video = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for _ in range(7):
        video.write(random.integers(0, 255, (64, 96, 3), np.uint8))
    video.release()
    return folder


def detect(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "detect.py"), *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", env=env)


def rows_of(path: Path) -> list[list[float]]:
    return [[float(value) for value in line.split()] for line in path.read_text().splitlines()]


def test_all_outputs_of_a_folder(tmp_path: Path, weights: Path, pictures: Path) -> None:
    flags = "--imgsz 96 --conf-thres 0.02 --max-det 5 --save-txt --save-conf --save-csv --save-crop --vid-stride 2"
    done = detect(tmp_path, "--weights", weights, "--source", pictures, "--device", "cpu", *flags.split())
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "runs/detect/exp"
    assert f"image 1/3 {pictures / 'bus.jpg'}: 64x96 " in done.stdout
    assert f"image 2/3 {pictures / 'tall.png'}: 96x64 " in done.stdout
    assert f"video 3/3 (3/3) {pictures / 'clip.avi'}: 64x96 " in done.stdout
    assert "at shape (1, 3, 96, 96)" in done.stdout
    assert f"5 label files in {out / 'labels'}" in done.stdout

    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and "crops" not in path.parts}
    labels = {f"labels/{name}.txt" for name in ("bus", "tall", "clip_1", "clip_2", "clip_3")}
    assert files == {"bus.jpg", "tall.png", "clip.mp4", "predictions.csv"} | labels
    assert read_image(out / "bus.jpg").shape == (90, 160, 3)
    assert (read_image(out / "tall.png") != read_image(pictures / "tall.png")).any()
    video = cv2.VideoCapture(str(out / "clip.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (3, 5)

    rows = rows_of(out / "labels/bus.txt")
    assert len(rows) == 5
    confidences = [row[5] for row in rows]
    assert confidences == sorted(confidences) and min(confidences) > 0.02
    for cls, x, y, w, h, _ in rows:
        assert cls in NAMES
        corners = np.array([(x - w / 2) * 160, (y - h / 2) * 90, (x + w / 2) * 160, (y + h / 2) * 90])
        assert np.abs(corners - corners.round()).max() < 1e-3, "boxes are whole pixels of the image"
        assert (corners.round() >= 0).all() and (corners.round() <= (160, 90, 160, 90)).all()

    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["Image Name", "Prediction", "Confidence"]
    assert [row[0] for row in table[1:]] == ["bus.jpg"] * 5 + ["tall.png"] * 5 + ["clip.avi"] * 15
    assert [row[1:] for row in table[1:6]] == [[NAMES[int(row[0])], f"{row[5]:.2f}"] for row in rows]
    crops = list((out / "crops").rglob("*.jpg"))
    assert len(crops) == 25
    assert {crop.parent.name for crop in crops} <= {"cat", "Жук", "a_b"}
    assert {crop.parent.parent for crop in crops} == {out / "crops"}


def test_a_second_run_gets_a_new_folder_and_exist_ok_replaces_files(
    tmp_path: Path, weights: Path, pictures: Path
) -> None:
    options = DetectOptions(
        weights=(str(weights),),
        source=str(pictures / "bus.jpg"),
        imgsz=(64,),
        conf_thres=0.02,
        max_det=3,
        device="cpu",
        save_txt=True,
        nosave=True,
        project=str(tmp_path),
    )
    first, second = run(options), run(options)
    again = run(replace(options, exist_ok=True, save_format=1))
    assert [done.directory.name for done in (first, second, again)] == ["exp", "exp2", "exp"]
    assert (first.frames, first.objects) == (1, 3)
    centres, corners = (rows_of(done.directory / "labels/bus.txt") for done in (second, again))
    assert len(centres) == len(corners) == 3
    for (_, x, y, w, h), (_, x1, y1, x2, y2) in zip(centres, corners, strict=True):
        assert (x1, y1, x2, y2) == pytest.approx((x - w / 2, y - h / 2, x + w / 2, y + h / 2), abs=2e-6)
    assert [path.name for path in second.directory.iterdir()] == ["labels"]


def test_classes_are_filtered(tmp_path: Path, weights: Path, pictures: Path) -> None:
    model, image = load_model(weights), read_image(pictures / "bus.jpg")
    options = DetectOptions(conf_thres=0.0, max_det=300)
    everything, shape, seconds = detect_objects(model, image, (64, 96), 32, options)
    assert set(everything.cls.tolist()) > {1} and shape == (64, 96) and (seconds > 0).all()
    only, _, _ = detect_objects(model, image, (64, 96), 32, replace(options, classes=(1,)))
    assert set(only.cls.tolist()) == {1}


def test_several_models_and_views_find_more(tmp_path: Path, weights: Path, pictures: Path) -> None:
    options = DetectOptions(
        (str(weights),), str(pictures / "bus.jpg"), imgsz=(96,), device="cpu", project=str(tmp_path), conf_thres=0.02
    )
    twice = replace(options, weights=(str(weights),) * 2)
    plain, augmented, both = (run(changed).objects for changed in (options, replace(options, augment=True), twice))
    assert both == plain and augmented > plain > 0


def test_opencv_computes_an_onnx_file(tmp_path: Path, pictures: Path) -> None:
    model = str(reshaping_detector(tmp_path / "a.onnx", shape=(1, 3, 64, 64), names="['Käfer']"))
    options = DetectOptions(
        (model,), str(pictures / "bus.jpg"), imgsz=(64,), dnn=True, project=str(tmp_path), conf_thres=0.1, save_csv=True
    )
    done = run(options)
    assert done.objects > 0
    assert "Käfer" in (done.directory / "predictions.csv").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.onnx: takes images of 64 x 64 pixels, not of 64 x 96"):
        run(replace(options, imgsz=(64, 96)))


@pytest.mark.parametrize("flag", ["--save-conf", "--save-format"])
def test_a_flag_that_changes_nothing_is_told(
    tmp_path: Path, weights: Path, pictures: Path, caplog: pytest.LogCaptureFixture, flag: str
) -> None:
    value = ["1"] if flag == "--save-format" else []
    where = ["--source", str(pictures), "--project", str(tmp_path / "runs")]
    with caplog.at_level("WARNING"):
        main(["--weights", str(weights), *where, "--imgsz", "64", flag, *value])
    assert f"{flag} has no effect without --save-txt" in caplog.messages


def test_summary() -> None:
    cls = torch.tensor([2, 0, 2])
    assert summarize(Detections(torch.zeros(3, 4), torch.ones(3), cls), {0: "bus", 2: "person"}) == "1 bus, 2 persons"
    assert summarize(Detections(torch.zeros(0, 4), torch.ones(0), cls[:0]), {}) == "(no detections)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--source gone.jpg", "--source gone.jpg: no such file"),
        ("--source pictures --weights gone.pt", "gone.pt"),
        ("--source 0", "webcams are not supported"),
        ("--source pictures --conf-thres 2", "--conf-thres 2.0: expected a value from 0 to 1"),
        ("--source pictures --classes 1 7", "--classes 7: the model has the classes 0 to 2"),
        ("--source pictures --imgsz 64 64 64", "--imgsz 64 64 64"),
        ("--source pictures --save-format 2", "--save-format 2"),
        ("--source pictures --vid-stride 0", "--vid-stride 0"),
        ("--source pictures --max-det 0", "--max-det 0"),
        ("--source pictures --half --device cpu", "--half needs a CUDA GPU"),
        ("--source pictures --view-img", "--view-img"),
        ("--source pictures --visualize", "--visualize is not supported"),
        ("--source pictures --update", "--update is not supported"),
        ("--source pictures --dnn", "leave --dnn out"),
        ("--source pictures --weights a.onnx", "add --dnn"),
        ("--source pictures --weights a.onnx --dnn", "a.onnx: no such file"),
        ("--source pictures --weights a.pt b.pt", "a.pt"),
        ("--source damaged.jpg", "damaged.jpg"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    tmp_path: Path,
    weights: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    (tmp_path / "damaged.jpg").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "-8")
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "")
    given = arguments if "--weights" in arguments else f"{arguments} --weights {weights}"
    monkeypatch.setattr(sys, "argv", ["detect.py", *given.split()])
    assert run_command(main) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1 and message in errors
    assert not (tmp_path / "runs").exists()


def test_a_mistake_ends_the_command_with_one_line(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    done = detect(tmp_path, "--source", "damaged.mp4", "--weights", weights)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: damaged.mp4: ") and done.stderr.count("\n") == 1


def test_a_damaged_picture_does_not_keep_others_from_being_looked_at(
    tmp_path: Path, weights: Path, pictures: Path
) -> None:
    (pictures / "0_damaged.jpg").write_bytes(b"no picture")
    done = detect(tmp_path, "--source", pictures, "--weights", weights, "--project", "out")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {pictures / '0_damaged.jpg'}: ") and done.stderr.count("\n") == 1
    assert "(1 of 4 files cannot be used)" in done.stderr
    assert sorted(path.stem for path in (tmp_path / "out" / "exp").iterdir()) == ["bus", "clip", "tall"]
    assert f"Results in {tmp_path / 'out' / 'exp'}" in done.stdout


def test_missing_weights_name_the_newest_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"train\.py makes one"):
        run(DetectOptions())
    for age, name in ((100, "exp"), (0, "exp2")):
        path = tmp_path / "runs/train" / name / "weights/best.pt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    with pytest.raises(UserError, match=r"for example --weights runs/train/exp2/weights/best\.pt"):
        run(DetectOptions())


def test_the_source_is_never_overwritten(tmp_path: Path, weights: Path, pictures: Path) -> None:
    before = {path.name: path.read_bytes() for path in pictures.iterdir()}
    options = DetectOptions(
        weights=(str(weights),), source=str(pictures), project=str(tmp_path), name="pictures", exist_ok=True
    )
    with pytest.raises(UserError, match="could be overwritten"):
        run(options)
    assert {path.name: path.read_bytes() for path in pictures.iterdir()} == before


def test_published_weights_find_the_bus(shared: Path, tmp_path: Path) -> None:
    image = shared / "data/cocomini/images/val2017/000000568290.jpg"
    weights = shared / "weights/yolov5n_coco.pt"
    if not (image.is_file() and weights.is_file()):
        pytest.skip("no COCO image and weights in the folder 'shared'")
    options = DetectOptions((str(weights),), str(image), device="cpu", save_txt=True, project=str(tmp_path))
    done = run(options)
    cls, x, y, w, h = rows_of(done.directory / "labels" / f"{image.stem}.txt")[-1]
    assert cls == 5
    assert (x, y, w, h) == pytest.approx((0.516, 0.506, 0.444, 0.379), abs=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imgsz": (1_000_000,)}, "--imgsz 1000000: .* from 1 to 8192"),
        ({"data": "nope.yaml"}, r"nope\.yaml: no such file"),
        ({"project": str(ROOT / "detect.py")}, "is a file"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_read(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(DetectOptions(weights=("missing.pt",), **changes))  # type: ignore[arg-type]
