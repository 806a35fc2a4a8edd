import math

import pytest
import torch
import torch.nn.functional as F

from utils.boxes import paired_iou
from utils.training.assign import assign_targets
from utils.training.hyp import Hyp
from utils.training.loss import DetectionLoss, LossGains, decode_boxes, loss_gains, total_loss

ANCHORS = torch.tensor([[[1.25, 2.0], [3.0, 1.5]], [[2.0, 2.0], [0.75, 3.0]]])
SHAPES = [(6, 10), (3, 5)]
GAINS = LossGains(box=0.5, obj=2.0, cls=3.0)
NC = 3


def make_raw(batch=2, nc=NC, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 2, h, w, 5 + nc, generator=generator).requires_grad_() for h, w in SHAPES]


def make_targets(count=9, seed=1):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 4, generator=generator) * torch.tensor((1, 1, 0.4, 0.4)) + torch.tensor((0, 0, 0.1, 0.1))
    image = torch.arange(count) % 2
    cls = torch.arange(count) % NC
    return torch.cat((torch.stack((image, cls), 1).float(), boxes), 1)


def oracle(raw, targets, hyp, smoothing):
    """The loss, one match and one cell after the other."""
    box = obj = cls = 0.0
    for logits, match, balance in zip(raw, assign_targets(targets, SHAPES, ANCHORS, hyp.anchor_t), (4, 1), strict=True):
        wanted = torch.zeros(logits.shape[:4])
        overlaps, entropies = [], []
        for i in range(len(match.row)):
            place = (match.image[i], match.anchor[i], match.row[i], match.col[i])
            p = logits[place]
            predicted = decode_boxes(p[None], match.anchors[i : i + 1])
            overlap = paired_iou(predicted, match.boxes[i : i + 1], kind="ciou")[0]
            overlaps.append(1 - overlap)
            wanted[place] = max(overlap.item(), 0)  # the last one stays
            for c in range(NC):
                t = 1 - smoothing / 2 if c == match.classes[i] else smoothing / 2
                entropies.append(entropy(p[5 + c], t, hyp.cls_pw, hyp.fl_gamma))
        box = box + torch.stack(overlaps).mean()
        cls = cls + torch.stack(entropies).mean()
        cells = [
            entropy(x, t, hyp.obj_pw, hyp.fl_gamma)
            for x, t in zip(logits[..., 4].flatten(), wanted.flatten().tolist(), strict=True)
        ]
        obj = obj + balance * torch.stack(cells).mean()
    return {"box": GAINS.box * box, "obj": GAINS.obj * obj, "cls": GAINS.cls * cls}


def entropy(x, t, weight, gamma):
    p = x.sigmoid()
    loss = -(weight * t * p.log() + (1 - t) * (1 - p).log())
    if gamma:
        loss = loss * (0.25 * t + 0.75 * (1 - t)) * (1 - (t * p + (1 - t) * (1 - p))) ** gamma
    return loss


@pytest.mark.parametrize(
    ("hyp", "smoothing"),
    [(Hyp(anchors=None), 0.0), (Hyp(cls_pw=0.5, obj_pw=2.0), 0.1), (Hyp(fl_gamma=1.5, anchor_t=3.0), 0.0)],
)
def test_agrees_with_the_formulas_written_out(hyp, smoothing):
    raw, targets = make_raw(), make_targets()
    losses = DetectionLoss(ANCHORS, NC, hyp, GAINS, label_smoothing=smoothing)(raw, targets)
    expected = oracle(raw, targets, hyp, smoothing)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(total_loss(losses, 2), raw)
    expected_gradients = torch.autograd.grad(total_loss(expected, 2), raw)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-4)


def test_of_two_matches_of_one_place_the_last_counts():
    # Two equal targets but for their heights: all their matches fall on the same places.
    targets = torch.tensor([[0, 0, 0.55, 0.58, 0.15, 0.30], [0, 1, 0.55, 0.58, 0.15, 0.50]])
    raw = make_raw(batch=1)
    both = DetectionLoss(ANCHORS, NC, Hyp(), GAINS)(raw, targets)["obj"]
    second = DetectionLoss(ANCHORS, NC, Hyp(), GAINS)(raw, targets[1:])["obj"]
    first = DetectionLoss(ANCHORS, NC, Hyp(), GAINS)(raw, targets[:1])["obj"]
    shared = [len(level.row) for level in assign_targets(targets, SHAPES, ANCHORS, 4.0)]
    alone = [len(level.row) for level in assign_targets(targets[1:], SHAPES, ANCHORS, 4.0)]
    assert shared == [2 * n for n in alone]
    assert both.item() == second.item() != first.item()


def test_without_targets_only_objectness_remains():
    raw = make_raw()
    losses = DetectionLoss(ANCHORS, NC, Hyp(), GAINS)(raw, torch.zeros(0, 6))
    assert losses["box"] == losses["cls"] == 0
    expected = sum(b * F.softplus(level[..., 4]).mean() for b, level in zip((4, 1), raw, strict=True)) * GAINS.obj
    torch.testing.assert_close(losses["obj"], expected)
    total_loss(losses, 2).backward()
    assert raw[0].grad is not None


def test_a_single_class_has_no_class_loss():
    raw = make_raw(nc=1)
    targets = make_targets()
    targets[:, 1] = 0
    losses = DetectionLoss(ANCHORS, 1, Hyp(), GAINS)(raw, targets)
    assert losses["cls"] == 0
    assert losses["box"] > 0


def test_half_precision_outputs_give_a_float_loss():
    raw = [level.detach().half() for level in make_raw()]
    losses = DetectionLoss(ANCHORS, NC, Hyp(), GAINS)(raw, make_targets())
    assert all(value.dtype == torch.float32 for value in losses.values())


def test_batches_add_up():
    raw, targets = make_raw(), make_targets()
    loss = DetectionLoss(ANCHORS, NC, Hyp(), GAINS)
    twice = torch.cat((targets, targets + torch.tensor((2, 0, 0, 0, 0, 0))))
    doubled = [torch.cat((level, level)) for level in raw]
    torch.testing.assert_close(loss(doubled, twice), loss(raw, targets))
    assert math.isclose(
        total_loss(loss(doubled, twice), 4).item(), 2 * total_loss(loss(raw, targets), 2).item(), rel_tol=1e-5
    )


def test_gains_follow_classes_size_and_levels():
    hyp = Hyp(box=0.05, obj=1.0, cls=0.5)
    assert loss_gains(hyp, nc=80, imgsz=640, levels=3) == LossGains(box=0.05, obj=1.0, cls=0.5)
    gains = loss_gains(hyp, nc=20, imgsz=320, levels=4)
    assert (gains.box, gains.obj, gains.cls) == pytest.approx((0.0375, 0.1875, 0.09375))
    assert hyp == Hyp(box=0.05, obj=1.0, cls=0.5)


def test_decoding_reaches_its_limits():
    logits = torch.tensor([[100.0, -100, 0, 100, 7], [0, 0, 0, 0, 7]])
    boxes = decode_boxes(logits, torch.tensor([[2.0, 3.0], [1.0, 5.0]]))
    torch.testing.assert_close(boxes, torch.tensor([[1.5, -0.5, 2, 12], [0.5, 0.5, 1, 5]]))
