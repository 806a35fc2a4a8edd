import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import nms
from utils.nms import Detections, non_max_suppression


def predictions(n, nc, seed=0):
    rng = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 2, generator=rng) * 300
    size = torch.rand(n, 2, generator=rng) * 80 + 4
    return torch.cat((centre, size, torch.rand(n, 1 + nc, generator=rng)), dim=1)


def oracle(rows, conf_thres, iou_thres, max_det):
    """Greedy suppression of single numbers: best class per row."""
    found = []
    for row in rows.tolist():
        score, cls = max((row[4] * p, -i) for i, p in enumerate(row[5:]))
        x, y, w, h = row[:4]
        if row[4] > conf_thres and score > conf_thres:
            found.append((score, -cls, (x - w / 2, y - h / 2, x + w / 2, y + h / 2)))
    found.sort(key=lambda f: -f[0])

    def overlap(a, b):
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(w, 0) * max(h, 0)
        area = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
        return inter / (area - inter)

    kept = []
    for f in found:
        if all(f[1] != k[1] or overlap(f[2], k[2]) <= iou_thres for k in kept):
            kept.append(f)
    return kept[:max_det]


@settings(max_examples=20)
@given(n=st.integers(0, 60), nc=st.integers(1, 4), seed=st.integers(0, 99), iou=st.sampled_from([0.1, 0.45, 0.8]))
def test_equals_greedy_suppression(n, nc, seed, iou):
    rows = predictions(n, nc, seed)
    (found,) = non_max_suppression(rows[None], conf_thres=0.2, iou_thres=iou, max_det=20)
    expected = oracle(rows, 0.2, iou, 20)
    assert found.cls.tolist() == [cls for _, cls, _ in expected]
    if expected:
        torch.testing.assert_close(found.xyxy, torch.tensor([box for *_, box in expected]), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.conf, torch.tensor([conf for conf, *_ in expected]))


def test_class_by_class_is_the_same(monkeypatch):
    rows = predictions(900, 7)[None]
    options = {"conf_thres": 0.05, "iou_thres": 0.6, "multi_label": True}
    (at_once,) = non_max_suppression(rows, **options)
    monkeypatch.setattr(nms, "MANY", 10)
    (by_class,) = non_max_suppression(rows, **options)
    assert len(at_once) == 300
    for name in ("xyxy", "conf", "cls"):
        assert torch.equal(getattr(at_once, name), getattr(by_class, name))


def test_busy_rows_of_several_images_are_all_answered():
    found = non_max_suppression(torch.stack([predictions(400, 3, seed) for seed in range(6)]), conf_thres=0.001)
    assert all(len(image) > 100 for image in found)


def test_multi_label_agnostic_and_classes():
    rows = torch.tensor([[[50, 50, 20, 20, 1.0, 0.9, 0.8], [50, 50, 20, 20, 0.9, 0.1, 0.9]]])
    (several,) = non_max_suppression(rows, multi_label=True)
    assert sorted(zip(several.cls.tolist(), [round(c, 2) for c in several.conf.tolist()], strict=True)) == [
        (0, 0.9),
        (1, 0.81),
    ]
    (one,) = non_max_suppression(rows, agnostic=True)
    assert one.cls.tolist() == [0]
    (other,) = non_max_suppression(rows, classes=[1])
    assert other.cls.tolist() == [1]


def test_nothing_found_and_input_untouched():
    rows = predictions(5, 2)[None]
    before = rows.clone()
    (found,) = non_max_suppression(rows, conf_thres=1.0)
    assert len(found) == 0 and found.xyxy.shape == (0, 4)
    assert torch.equal(rows, before)
    assert non_max_suppression(rows[:0]) == []


def test_half_precision_boxes_are_exact_beyond_512_pixels():
    rows = torch.tensor([[[601, 3, 3, 3, 1.0, 1.0]]], dtype=torch.float16)
    (found,) = non_max_suppression(rows)
    assert found.xyxy.tolist() == [[599.5, 1.5, 602.5, 4.5]]


@pytest.mark.parametrize("name", ["conf_thres", "iou_thres"])
def test_thresholds_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} is 1.5"):
        non_max_suppression(predictions(1, 1)[None], **{name: 1.5})


def test_detections_check_their_shapes():
    with pytest.raises(ValueError, match=r"expected shapes \(n, 4\)"):
        Detections(torch.zeros(2, 4), torch.zeros(3), torch.zeros(2, dtype=torch.long))
