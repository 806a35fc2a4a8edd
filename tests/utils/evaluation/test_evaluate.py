import json
import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor, nn

from utils.data.dataset import ImageShape
from utils.data.loader import Batch
from utils.distributed import World
from utils.errors import UserError
from utils.evaluation.annotations import Id
from utils.evaluation.coco import CocoEvaluator
from utils.evaluation.consumers import CocoJsonWriter, TextWriter, ids_by_name
from utils.evaluation.evaluate import Evaluation, evaluate

NAMES = {0: "rod", 1: "star", 2: "leaf"}
SHAPE = ImageShape(original=(100, 240), ratio=(0.5, 0.5), pad=(4, 9))  # 240 x 100 -> 120 x 50 in 128 x 68
LABELS = torch.tensor([[0, 1, 40.0, 30.0, 30.0, 20.0], [1, 2, 70.0, 34.0, 40.0, 30.0]])  # pixels of the input


class Planted(nn.Module):
    """A model that finds exactly the boxes it was given: rows of image, class, cx, cy, w, h."""

    def __init__(self, boxes: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.norm = nn.BatchNorm2d(3)
        self.boxes = boxes
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(images)
        rows = torch.zeros(len(images), 1, 4, 1, 5 + len(NAMES))
        for slot, row in enumerate(self.boxes):
            image, cls = int(row[0]), int(row[1])
            rows[image, 0, slot, 0, :4] = row[2:]
            rows[image, 0, slot, 0, 4] = 1 - slot / 10
            rows[image, 0, slot, 0, 5 + cls] = 1
        return [rows]

    def decode(self, raw: list[Tensor]) -> Tensor:
        return torch.cat([level.flatten(1, 3) for level in raw], 1)


class OneBatch:
    def __init__(self, labels: Tensor = LABELS, count: int = 2) -> None:
        targets = labels.clone()
        targets[:, 2:] /= torch.tensor([128.0, 68.0, 128.0, 68.0])
        images = torch.arange(count * 3 * 68 * 128, dtype=torch.int64).remainder(256).to(torch.uint8)
        paths = [f"/set/a/{i:012d}.jpg" for i in range(count)]
        self.batch = Batch(images.reshape(count, 3, 68, 128), targets, paths, [SHAPE] * count)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        yield self.batch


class NoBatch:
    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Batch]:
        return iter(())


def run(boxes: Tensor = LABELS, loader: OneBatch | NoBatch | None = None, **options) -> Evaluation:
    return evaluate(Planted(boxes), OneBatch() if loader is None else loader, NAMES, progress=False, **options)


def test_a_perfect_model_is_perfect():
    metrics = run().metrics
    assert metrics.map == pytest.approx(0.995)
    assert metrics.precision == metrics.recall == pytest.approx(1)
    assert (metrics.images, metrics.instances) == (2, 2)


def test_images_reach_the_model_as_floats_from_0_to_1():
    model, loader = Planted(LABELS), OneBatch()
    evaluate(model, loader, NAMES, progress=False)
    torch.testing.assert_close(model.seen[0], loader.batch.images.float() / 255)


def test_a_shifted_box_counts_up_to_its_overlap():
    shifted = LABELS.clone()
    shifted[:, 2] += 4  # IoU 26/34 = 0.76 and 36/44 = 0.82
    metrics = run(shifted).metrics
    assert metrics.map50 == pytest.approx(0.995)
    assert metrics.map == pytest.approx(0.995 * (6 + 7) / 20)


def test_single_cls_ignores_the_predicted_class():
    labels = LABELS.clone()
    labels[:, 1] = 0
    assert run(loader=OneBatch(labels)).metrics.map50 == 0
    assert run(loader=OneBatch(labels), single_cls=True).metrics.map50 == pytest.approx(0.995)


def test_the_model_comes_back_as_it_was():
    model = Planted(LABELS).train()
    model.norm.eval()
    evaluate(model, OneBatch(), NAMES, progress=False)
    assert model.training
    assert not model.norm.training


def test_losses_are_means_over_batches():
    def loss(raw: list[Tensor], targets: Tensor, *, counts: bool) -> dict[str, Tensor]:
        assert counts
        assert targets.shape == (2, 6)
        return {"cls": torch.tensor(3.0), "box": raw[0].sum() * 0 + 1, "obj": torch.tensor(2.0)}

    assert run(loss=loss).losses == {"box": 1, "obj": 2, "cls": 3}
    assert run().losses == {"box": 0, "obj": 0, "cls": 0}


@pytest.mark.parametrize(("boxes", "labels"), [(LABELS[:0], LABELS), (LABELS, LABELS[:0]), (LABELS[:0], LABELS[:0])])
def test_nothing_found_or_nothing_to_find(boxes: Tensor, labels: Tensor, tmp_path: Path, caplog):
    with caplog.at_level(logging.INFO):
        evaluation = run(boxes, OneBatch(labels), save_dir=tmp_path, plots=True)
    assert evaluation.metrics.map == evaluation.metrics.precision == 0
    assert ("no labels" in caplog.text) == (len(labels) == 0)
    assert not (tmp_path / "PR_curve.png").exists()


def test_no_images_at_all():
    evaluation = run(loader=NoBatch())
    assert evaluation.metrics.images == 0
    assert evaluation.speed_ms == {"pre": 0, "inference": 0, "nms": 0}


def test_the_table(caplog):
    with caplog.at_level(logging.INFO):
        run(verbose=True)
    rows = [record.getMessage() for record in caplog.records]
    assert [row.split()[:3] for row in rows] == [["all", "2", "2"], ["star", "2", "1"], ["leaf", "2", "1"]]
    assert all(len(row) == 22 + 6 * 11 for row in rows)


def test_plots(tmp_path: Path):
    evaluation = run(save_dir=tmp_path, plots=True)
    assert evaluation.confusion is not None
    assert evaluation.confusion.matrix.diagonal().tolist() == [0, 1, 1, 0]
    assert {file.name for file in tmp_path.iterdir()} == {
        *("PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png", "confusion_matrix.png"),
        *("val_batch0_labels.jpg", "val_batch0_pred.jpg"),
    }
    assert all(cv2.imread(str(file)) is not None for file in tmp_path.iterdir())


def test_plots_need_a_folder():
    with pytest.raises(ValueError, match="save_dir"):
        run(plots=True)


def test_text_files_are_fractions_of_the_original_image(tmp_path: Path):
    writer = TextWriter(tmp_path, save_conf=True)
    run(LABELS[:1], consumers=[writer])
    # (40 - 4) / 0.5 = 72 of 240, (30 - 9) / 0.5 = 42 of 100, 60 of 240, 40 of 100
    assert (tmp_path / "000000000000.txt").read_text() == "1 0.3 0.42 0.25 0.4 1\n"
    assert writer.files == {tmp_path / "000000000000.txt"}


def test_text_files_of_one_name_do_not_overwrite_each_other(tmp_path: Path):
    loader = OneBatch()
    loader.batch.paths[:] = ["/set/a/x.jpg", "/set/b/x.jpg"]
    run(loader=loader, consumers=[TextWriter(tmp_path)])
    assert [(tmp_path / name).read_text().split()[0] for name in ("x.txt", "x-2.txt")] == ["1", "2"]


def test_coco_json(tmp_path: Path):
    loader = OneBatch()
    writer = CocoJsonWriter(tmp_path / "p.json", [7, 8, 9], ids_by_name(map(Path, loader.batch.paths)))
    run(LABELS[1:], loader, consumers=[writer])
    rows = json.loads((tmp_path / "p.json").read_text())
    assert rows == [{"image_id": 1, "category_id": 9, "bbox": [92.0, 20.0, 80.0, 60.0], "score": 1.0}]


def test_ids_by_name():
    assert ids_by_name([Path("a/007.jpg"), Path("x²9.png")]) == {Path("a/007.jpg"): 7, Path("x²9.png"): "x²9"}
    for other in ("b/7.png", "b/007.jpg"):
        with pytest.raises(UserError, match=f"a/007.jpg and {other} would both be image 7"):
            ids_by_name([Path("a/007.jpg"), Path("a/8.jpg"), Path(other)])


def test_coco_json_with_ids_of_annotations(tmp_path: Path):
    loader = OneBatch()
    ids: dict[Path, Id] = {Path(path): f"image {i}" for i, path in enumerate(loader.batch.paths)}
    run(LABELS[1:], loader, consumers=[CocoJsonWriter(tmp_path / "p.json", ["a", "b", "c"], ids)])
    (row,) = json.loads((tmp_path / "p.json").read_text())
    assert (row["image_id"], row["category_id"]) == ("image 1", "c")


def test_both_rules_are_reported_by_name(caplog):
    with caplog.at_level(logging.INFO):
        evaluation = run(coco=CocoEvaluator(NAMES))
    assert evaluation.coco is not None
    assert pytest.approx(1) == evaluation.coco.AP
    assert "By YOLOv5's rule: P 1.000, R 1.000, mAP50 0.995, mAP50-95 0.995" in caplog.messages
    assert "By COCO's rule, against labels: AP 1.000, AP50 1.000, AP75 1.000, APs -, APm 1.000" in caplog.text
    content = json.loads(json.dumps(evaluation.to_dict()))
    assert (content["rule"], content["coco"]["rule"], content["coco"]["truth"]) == ("yolov5", "coco", "labels")
    assert content["coco"]["APs"] is None
    assert run().to_dict()["coco"] is None


def test_the_process_that_writes_files_has_the_coco_numbers():
    class Second(World):
        def gathered(self, value):
            return [[], value]

        def total(self, values):
            return values

    assert run(coco=CocoEvaluator(NAMES), world=Second(1, 2)).coco is None
    first = run(coco=CocoEvaluator(NAMES), world=Second(0, 2)).coco
    assert first is not None
    assert pytest.approx(1) == first.AP


def test_hybrid_labels_are_found_before_all_else(tmp_path: Path):
    writer = TextWriter(tmp_path, save_conf=True)
    moved = LABELS[:1] + torch.tensor([0, 0, 5.0, 0, 0, 0])
    evaluation = run(moved, hybrid=True, consumers=[writer])
    assert evaluation.metrics.recall == pytest.approx(1)
    assert (tmp_path / "000000000001.txt").read_text().endswith(" 1\n")
    assert run(moved).metrics.recall < 0.6
