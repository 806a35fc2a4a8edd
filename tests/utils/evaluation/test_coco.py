import contextlib
import copy
import io
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.distributed import World
from utils.evaluation.annotations import Annotations, TrueObject
from utils.evaluation.coco import COCO_NAMES, CocoEvaluator, CocoMetrics, category_ids, coco_results, is_coco
from utils.evaluation.matching import GroundTruth
from utils.nms import Detections

NAMES = {0: "rod", 1: "star", 2: "leaf", 3: "never seen"}

Found = dict[Path, Detections]


def detections_of(rows: list[tuple[float, ...]]) -> Detections:
    """Rows of x1, y1, x2, y2, confidence, class."""
    values = torch.tensor(sorted(rows, key=lambda row: -row[4]), dtype=torch.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


def found_near(objects: dict[Path, list[TrueObject]], random: np.random.Generator, nc: int) -> Found:
    """Objects found more or less, many of them twice or under a wrong name, and others that are not there."""
    found = {}
    for path, image in objects.items():
        rows = []
        for true in image * 3:
            x, y, w, h = np.array(true.xywh) * random.normal(1, 0.05, 4)
            cls = true.cls if random.random() < 0.8 else random.integers(nc)
            rows.append((x, y, x + abs(w), y + abs(h), round(random.random(), 2), cls))
        for _ in range(random.integers(0, 130)):
            x, y, w, h = random.uniform(1, 200, 4)
            rows.append((x, y, x + w, y + h, random.random() / 2, random.integers(nc)))
        found[path] = detections_of(rows)
    return found


def synthetic(random: np.random.Generator, *, crowds: bool) -> dict[Path, list[TrueObject]]:
    """Objects of all sizes, in an order of images that is not that of their ids, with borders of sizes and images
    without objects."""
    objects: dict[Path, list[TrueObject]] = {}
    for number in random.permutation(40).tolist():
        image = []
        for _ in range(random.poisson(5)):
            w, h = np.exp(random.uniform(1, 5.5, 2)).tolist() if random.random() < 0.8 else (32.0, 32.0)
            area = w * h * random.uniform(0.5, 1) if crowds else w * h
            crowd = crowds and random.random() < 0.15
            xywh = (random.uniform(0, 300), random.uniform(0, 300), w, h)
            image.append(TrueObject(int(random.integers(3)), xywh, area, bool(crowd)))
        objects[Path(f"/set/{number}.jpg")] = image
    return objects


def official(objects: dict[Path, list[TrueObject]]) -> Annotations:
    return Annotations(Path("instances.json"), [3, 1, 4, 9], {path: int(path.stem) for path in objects}, objects)


def labels_of(objects: list[TrueObject]) -> GroundTruth:
    xywh = torch.tensor([true.xywh for true in objects], dtype=torch.float32).reshape(-1, 4)
    return GroundTruth(
        torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), 1),
        torch.tensor([true.cls for true in objects], dtype=torch.long),
    )


def evaluate(found: Found, truth: Annotations | dict[Path, GroundTruth]) -> CocoMetrics:
    evaluator = CocoEvaluator(NAMES, truth if isinstance(truth, Annotations) else None)
    nothing = GroundTruth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    for path, detections in found.items():
        evaluator.update(path, detections, nothing if isinstance(truth, Annotations) else truth[path])
    metrics = evaluator.compute()
    assert metrics is not None
    return metrics


def reference(
    content: dict, found: Found, image_ids: dict[Path, int], ids: list[int]
) -> tuple[list[float], np.ndarray]:
    """The twelve numbers of pycocotools, and its AP of each category in the order of ids."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = [
        {"image_id": image_ids[path], "category_id": ids[int(cls)], "bbox": box, "score": score}
        for path, image in found.items()
        for box, score, cls in zip(*(values.tolist() for values in (*coco_results(image), image.cls)), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.params.imgIds = sorted(image_ids.values())
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    order = [evaluation.params.catIds.index(key) for key in ids]
    return evaluation.stats.tolist(), np.array([precision[:, :, k].mean() for k in order])


def content_of(objects: dict[Path, list[TrueObject]], annotations: Annotations) -> dict:
    rows = [
        {
            "image_id": annotations.image_ids[path],
            "category_id": annotations.category_ids[true.cls],
            "bbox": list(true.xywh),
            "area": true.area,
            "iscrowd": int(true.crowd),
        }
        for path, image in objects.items()
        for true in image
    ]
    return {
        "images": [{"id": key} for key in annotations.image_ids.values()],
        "categories": [{"id": key, "name": NAMES[i]} for i, key in enumerate(annotations.category_ids)],
        "annotations": [{"id": i, **row} for i, row in enumerate(rows, start=1)],
    }


def assert_equal(metrics: CocoMetrics, expected: tuple[list[float], np.ndarray]) -> None:
    numbers = [-1 if (value := getattr(metrics, name)) is None else value for name in COCO_NAMES]
    assert numbers == pytest.approx(expected[0], abs=1e-9)
    per_class = [-1 if c.AP is None else c.AP for c in metrics.per_class]
    assert per_class == pytest.approx(expected[1].tolist(), abs=1e-9)
    assert metrics.AP is not None and 0.05 < metrics.AP < 0.95  # it says something


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_with_crowds_and_areas(seed: int):
    random = np.random.default_rng(seed)
    objects = synthetic(random, crowds=True)
    annotations = official(objects)
    found = found_near(objects, random, len(NAMES))
    ids = [3, 1, 4, 9]
    image_ids = {path: int(path.stem) for path in objects}
    metrics = evaluate(found, annotations)
    assert_equal(metrics, reference(content_of(objects, annotations), found, image_ids, ids))
    assert metrics.truth == "instances.json"
    assert metrics.per_class[3].AP is None


def test_equals_pycocotools_with_labels():
    random = np.random.default_rng(3)
    objects = synthetic(random, crowds=False)
    labels = {path: labels_of(image) for path, image in objects.items()}
    in_order = dict(sorted(objects.items(), key=lambda item: str(item[0])))
    rounded = {  # labels are float32 corners
        path: [
            TrueObject(cls, (x1, y1, x2 - x1, y2 - y1), (x2 - x1) * (y2 - y1))
            for cls, (x1, y1, x2, y2) in zip(
                labels[path].cls.tolist(), labels[path].xyxy.double().tolist(), strict=True
            )
        ]
        for path in in_order
    }
    image_ids = {path: i for i, path in enumerate(rounded)}
    annotations = Annotations(Path("x.json"), [0, 1, 2, 3], dict(image_ids), rounded)
    found = found_near(objects, random, len(NAMES))
    metrics = evaluate(found, labels)
    assert_equal(metrics, reference(content_of(rounded, annotations), found, image_ids, [0, 1, 2, 3]))
    assert metrics.truth == "labels"


def test_equals_pycocotools_on_real_annotations(shared: Path):
    file = shared / "data/cocomini/annotations/instances_val2017.json"
    if not file.exists():
        pytest.skip("no cocomini in shared/data")
    content = json.loads(file.read_bytes())
    categories = content["categories"]
    ids = {image["id"]: Path(image["file_name"]) for image in content["images"]}
    class_of = {category["id"]: index for index, category in enumerate(categories)}
    objects: dict[Path, list[TrueObject]] = {path: [] for path in ids.values()}
    for row in content["annotations"]:
        true = TrueObject(class_of[row["category_id"]], tuple(row["bbox"]), row["area"], bool(row["iscrowd"]))
        objects[ids[row["image_id"]]].append(true)
    assert any(true.crowd for image in objects.values() for true in image)
    image_ids = {path: key for key, path in ids.items()}
    annotations = Annotations(file, list(class_of), dict(image_ids), objects)
    found = found_near(objects, np.random.default_rng(4), len(categories))
    evaluator = CocoEvaluator({i: category["name"] for i, category in enumerate(categories)}, annotations)
    for path, detections in found.items():
        evaluator.update(path, detections, labels_of([]))
    metrics = evaluator.compute()
    assert metrics is not None
    assert_equal(metrics, reference(content, found, image_ids, list(class_of)))
    assert metrics.labels == {"small": 284, "medium": 162, "large": 173}


def test_detections_in_a_crowd_are_neither_right_nor_wrong():
    path = Path("/set/1.jpg")
    crowd = TrueObject(0, (0, 0, 100, 100), 10000, crowd=True)
    single = TrueObject(0, (200, 200, 50, 50), 2500)
    found = {path: detections_of([(10, 10, 40, 40, 0.9, 0), (60, 60, 90, 90, 0.8, 0), (200, 200, 250, 250, 0.7, 0)])}
    assert pytest.approx(1) == evaluate(found, official({path: [crowd, single]})).AP
    assert pytest.approx(1 / 3) == evaluate(found, official({path: [single]})).AP


def test_the_area_of_the_outline_decides_the_size():
    path = Path("/set/1.jpg")
    found = {path: detections_of([(0, 0, 50, 50, 0.9, 0)])}
    metrics = evaluate(found, official({path: [TrueObject(0, (0, 0, 50, 50), 1000)]}))
    assert (metrics.APs, metrics.APm, metrics.ARs) == (pytest.approx(1), None, pytest.approx(1))
    assert metrics.labels == {"small": 1, "medium": 0, "large": 0}
    metrics = evaluate(found, {path: labels_of([TrueObject(0, (0, 0, 50, 50), 0)])})
    assert (metrics.APs, metrics.APm) == (None, pytest.approx(1))


def test_at_most_a_hundred_detections_of_an_image_and_class():
    path = Path("/set/1.jpg")
    wrong = [(300.0, 300.0, 310.0, 310.0, 0.9, 0.0)] * 100
    found = {path: detections_of([*wrong, (0, 0, 50, 50, 0.1, 0)])}
    assert evaluate(found, official({path: [TrueObject(0, (0, 0, 50, 50), 2500)]})).AR100 == 0


@pytest.mark.parametrize("objects", [[], [TrueObject(0, (0, 0, 50, 50), 2500)]])
def test_nothing_found(objects: list[TrueObject]):
    path = Path("/set/1.jpg")
    metrics = evaluate({path: detections_of([])}, official({path: objects}))
    assert metrics.AP == metrics.AR100 == (0 if objects else None)
    assert metrics.APl is None


def test_no_images():
    metrics = evaluate({}, official({}))
    assert all(getattr(metrics, name) is None for name in COCO_NAMES)
    assert metrics.labels == {"small": 0, "medium": 0, "large": 0}


def test_processes_together_have_the_numbers_of_one():
    random = np.random.default_rng(5)
    objects = synthetic(random, crowds=True)
    annotations = official(objects)
    found = found_near(objects, random, len(NAMES))
    parts = [CocoEvaluator(NAMES, annotations) for _ in range(2)]
    for number, (path, detections) in enumerate(found.items()):
        parts[number % 2].update(path, detections, labels_of([]))

    class Two(World):
        def gathered(self, value):
            return [value, parts[1]._images]

    parts[0].gather(Two(0, 2))
    assert parts[0].compute() == evaluate(found, annotations)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    assert CocoEvaluator(NAMES).compute() is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no COCO numbers: " in caplog.text
    assert "pip install hotcoco" in caplog.text


@pytest.mark.slow
def test_500_images_with_300_detections_are_quick():
    random = np.random.default_rng(6)
    evaluator = CocoEvaluator({i: str(i) for i in range(80)})
    images = []
    for number in range(500):
        corners = torch.from_numpy(random.uniform(0, 500, (300, 2)).astype(np.float32))
        boxes = torch.cat((corners, corners + torch.from_numpy(random.uniform(5, 200, (300, 2)).astype(np.float32))), 1)
        cls = torch.from_numpy(random.integers(0, 80, 300))
        conf = torch.from_numpy(random.random(300).astype(np.float32)).sort(descending=True).values
        images.append((Path(f"{number}.jpg"), Detections(boxes, conf, cls), GroundTruth(boxes[:7], cls[:7])))
    start = time.perf_counter()
    for image in images:
        evaluator.update(*image)
    assert evaluator.compute() is not None
    assert time.perf_counter() - start < 5  # 0.3 s on an idle machine


def test_results_are_rounded_as_in_a_file():
    xywh, score = coco_results(detections_of([(1.23456, 2, 11.23401, 5.5, 0.123456789, 2)]))
    assert xywh.tolist() == [[1.235, 2.0, 9.999, 3.5]]
    assert score.tolist() == [0.12346]


def test_coco_numbers_its_classes_with_gaps():
    ids = category_ids({i: str(i) for i in range(80)}, coco=True)
    assert (ids[0], ids[11], ids[79], len(set(ids))) == (1, 13, 90, 80)
    assert category_ids(NAMES, coco=False) == [0, 1, 2, 3]
    assert not is_coco(NAMES, ["000000000001"])
