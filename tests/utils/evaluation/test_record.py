from pathlib import Path

import numpy as np
import pytest
import torch

from utils.errors import UserError
from utils.evaluation.consumers import BatchResult, ImageResult
from utils.evaluation.matching import GroundTruth
from utils.evaluation.record import FILE_NAME, MatchRecorder, Record, read_record, write_record
from utils.nms import Detections

NAMES = {0: "rod", 1: "star, large"}
LABELS = GroundTruth(torch.tensor([[0.0, 0, 10, 20], [50, 50, 90, 70]]), torch.tensor([0, 1]))
FOUND = Detections(
    torch.tensor([[0.0, 0, 10, 19], [50, 50, 90, 70], [0, 0, 10, 13]]),
    torch.tensor([0.9, 0.8, 0.7]),
    torch.tensor([0, 0, 0]),
)
NO_LABELS = GroundTruth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))


def batch(*images: tuple[str, Detections, GroundTruth]) -> BatchResult:
    results = [ImageResult(Path(path), (100, 120), found, labels) for path, found, labels in images]
    return BatchResult(torch.zeros(0), torch.zeros(0, 6), [], results)


@pytest.fixture
def recorder(tmp_path: Path) -> MatchRecorder:
    recorder = MatchRecorder(tmp_path / FILE_NAME, NAMES)
    recorder.update(batch(("/data/a/1.jpg", FOUND, LABELS), ("/data/b/1.jpg", NOTHING, LABELS)))
    recorder.update(batch(("/data/b/2.jpg", FOUND, NO_LABELS)))
    return recorder


def same(a: Record, b: Record) -> bool:
    return all(
        np.array_equal(value, getattr(b, name)) and value.dtype.kind == getattr(b, name).dtype.kind
        for name, value in vars(a).items()
    )


def test_what_is_recorded(recorder: MatchRecorder):
    record = recorder.record()
    assert record.classes.tolist() == ["rod", "star, large"]
    assert record.images.tolist() == ["a/1.jpg", "b/1.jpg", "b/2.jpg"]
    assert record.label_image.tolist() == [0, 0, 1, 1]
    assert record.label_cls.tolist() == [0, 1, 0, 1]
    assert record.detection_image.tolist() == [0, 0, 0, 2, 2, 2]
    assert record.conf.tolist() == FOUND.conf.tolist() * 2
    assert record.tp.sum(1).tolist() == [10, 0, 0, 0, 0, 0]


def test_comes_back_as_it_was(recorder: MatchRecorder, tmp_path: Path):
    recorder.finish()
    assert same(read_record(tmp_path), recorder.record())
    assert same(read_record(tmp_path / FILE_NAME), recorder.record())
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    with np.load(tmp_path / FILE_NAME, allow_pickle=False) as arrays:
        assert not any(arrays[name].dtype.hasobject for name in arrays)


def test_nothing_at_all(tmp_path: Path):
    recorder = MatchRecorder(tmp_path / FILE_NAME, NAMES)
    recorder.finish()
    record = read_record(tmp_path)
    assert (len(record.images), len(record.conf), record.tp.shape) == (0, 0, (0, 10))


def test_names_do_not_depend_on_where_the_data_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    records = []
    for root in ("/here", "/some/where/else", "below"):
        recorder = MatchRecorder(tmp_path / FILE_NAME, NAMES)
        recorder.update(batch((f"{root}/val/a/1.jpg", NOTHING, LABELS), (f"{root}/val/b/1.jpg", NOTHING, LABELS)))
        records.append(recorder.record().images.tolist())
    assert records == [["a/1.jpg", "b/1.jpg"]] * 3


def test_five_thousand_images_with_all_their_detections_are_small(tmp_path: Path):
    rng = np.random.default_rng(0)
    n, per = 500, 300  # a tenth of them
    record = Record(
        classes=np.array([f"class {i}" for i in range(80)]),
        images=np.array([f"{i:012d}.jpg" for i in range(n)]),
        label_counts=np.zeros(n, np.int32),
        label_cls=np.zeros(0, np.int32),
        label_xyxy=np.zeros((0, 4), np.float32),
        detection_counts=np.full(n, per, np.int32),
        conf=rng.random(n * per).astype(np.float32),
        cls=rng.integers(0, 80, n * per).astype(np.int32),
        tp=rng.random((n * per, 10)) < 0.02,
    )
    write_record(tmp_path / FILE_NAME, record)
    assert (tmp_path / FILE_NAME).stat().st_size < 1_500_000
    assert same(read_record(tmp_path), record)


def test_no_file(tmp_path: Path):
    with pytest.raises(UserError, match=r"matches\.npz: no such file; expected the folder of a run of val\.py"):
        read_record(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_record(tmp_path / "exp9")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"\x80\x04pickled", b"\x93NUMPY\x01\x00"])
def test_no_record(tmp_path: Path, content: bytes):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(UserError, match=r"not a record of val\.py"):
        read_record(tmp_path)


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.99])
def test_half_a_record(recorder: MatchRecorder, tmp_path: Path, cut: float):
    recorder.finish()
    whole = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(UserError, match=r"not a record of val\.py"):
        read_record(tmp_path)


def test_damage_inside(recorder: MatchRecorder, tmp_path: Path):
    recorder.finish()
    whole = (tmp_path / FILE_NAME).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / FILE_NAME).write_bytes(damaged)
        try:
            read_record(tmp_path)
        except UserError:
            continue


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("format", np.array(2), "format 2, expected 1"),
        ("conf", np.zeros(5, np.float32), r"conf has shape \(5,\), expected \(6,\)"),
        ("cls", np.full(6, 2, np.int32), "cls has a class beyond the 2 named"),
        ("label_cls", np.full(4, -1, np.int32), "label_cls has a class beyond"),
        ("images", np.array([{}, {}, {}], dtype=object), "would have to run code"),
        ("tp", np.zeros((6, 2), np.float32), "byte"),
        ("tp", np.zeros((5, 2), np.uint8), r"tp has shape \(5, 10\)"),
    ],
)
def test_wrong_content(recorder: MatchRecorder, tmp_path: Path, name: str, values: np.ndarray, message: str):
    recorder.finish()
    with np.load(tmp_path / FILE_NAME) as arrays:
        content = dict(arrays)
    np.savez(tmp_path / FILE_NAME, **{**content, name: values})
    with pytest.raises(UserError, match=message):
        read_record(tmp_path)


def test_missing_column(recorder: MatchRecorder, tmp_path: Path):
    recorder.finish()
    with np.load(tmp_path / FILE_NAME) as arrays:
        content = {name: arrays[name] for name in arrays if name != "conf"}
    np.savez(tmp_path / FILE_NAME, **content)
    with pytest.raises(UserError, match="conf"):
        read_record(tmp_path)
