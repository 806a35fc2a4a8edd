import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.utils.evaluation.scenes import BOX, A, B, away, part, random_image, table
from utils.boxes import pairwise_iou
from utils.evaluation.error_kinds import Kind, error_table, join


@pytest.mark.parametrize(
    ("found", "labels", "kinds", "about", "missed"),
    [
        ([(A, part(0.9))], [(A, BOX)], ["CORRECT"], [0], []),
        ([(A, part(0.5))], [(A, BOX)], ["CORRECT"], [0], []),
        ([(A, part(0.49))], [(A, BOX)], ["LOCALISATION"], [0], []),
        ([(A, part(0.11))], [(A, BOX)], ["LOCALISATION"], [0], []),
        ([(A, part(0.09))], [(A, BOX)], ["BACKGROUND"], [-1], [0]),
        ([(B, part(0.9))], [(A, BOX)], ["CLASS"], [0], []),
        ([(B, part(0.51))], [(A, BOX)], ["CLASS"], [0], []),
        ([(B, part(0.3))], [(A, BOX)], ["BOTH"], [-1], [0]),
        ([(B, part(0.09))], [(A, BOX)], ["BACKGROUND"], [-1], [0]),
        ([(A, part(0.7)), (A, part(0.9))], [(A, BOX)], ["CORRECT", "DUPLICATE"], [0, -1], []),
        ([(A, part(0.3)), (A, part(0.9))], [(A, BOX)], ["LOCALISATION", "CORRECT"], [0, 0], []),
        ([(A, BOX)], [], ["BACKGROUND"], [-1], []),
        ([], [(A, BOX), (B, BOX)], [], [], [0, 1]),
        ([], [], [], [], []),
        ([(A, away(200))], [(A, BOX), (A, away(200))], ["CORRECT"], [1], [0]),
    ],
)
def test_each_kind(found: list, labels: list, kinds: list[str], about: list[int], missed: list[int]):
    result = table(found, labels)
    assert [Kind(kind).name for kind in result.kind] == kinds
    assert result.label.tolist() == about
    assert np.flatnonzero(result.missed).tolist() == missed


@pytest.mark.parametrize(
    ("found", "labels", "kind", "about"),
    [
        ([(A, BOX)], [(B, BOX), (A, part(0.3))], "LOCALISATION", 1),
        ([(A, BOX)], [(B, part(0.45)), (A, part(0.3))], "LOCALISATION", 1),
        ([(A, part(0.9)), (A, BOX)], [(A, part(0.9)), (B, BOX)], "CLASS", 1),
        ([(A, part(0.9)), (A, BOX)], [(A, part(0.9)), (B, part(0.4))], "DUPLICATE", -1),
        ([(A, BOX)], [(B, part(0.3)), (A, part(0.05))], "BOTH", -1),
    ],
)
def test_the_first_kind_that_fits(found: list, labels: list, kind: str, about: int):
    result = table(found, labels)
    assert Kind(result.kind[-1]).name == kind
    assert result.label[-1] == about


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 30), m=st.integers(0, 8))
def test_every_detection_meets_the_definition_of_its_kind(seed: int, n: int, m: int):
    found, labels = random_image(seed, n, m)
    result = error_table(found, labels)
    overlap = pairwise_iou(found.xyxy, labels.xyxy).numpy()
    taken: set[int] = set()
    for i in range(n):
        own = np.where(found.cls[i].item() == labels.cls.numpy(), overlap[i], 0).max(initial=0)
        other = np.where(found.cls[i].item() != labels.cls.numpy(), overlap[i], 0).max(initial=0)
        label, kind = result.label[i], Kind(result.kind[i])
        holds = {
            Kind.CORRECT: own >= 0.5 and label not in taken,
            Kind.LOCALISATION: 0.1 <= own < 0.5,
            Kind.CLASS: other >= 0.5 and not 0.1 <= own < 0.5,
            Kind.BOTH: 0.1 <= other < 0.5 and own < 0.1,
            Kind.DUPLICATE: own >= 0.5 and other < 0.5,
            Kind.BACKGROUND: max(own, other) < 0.1,
        }
        assert holds[kind]
        if label >= 0:
            right_class = kind in (Kind.CORRECT, Kind.LOCALISATION)
            assert (labels.cls[label] == found.cls[i]) == right_class
            assert overlap[i, label] == (own if right_class else other)
        if kind is Kind.CORRECT:
            taken.add(label)
    assert set(np.flatnonzero(~result.missed)) == set(result.label[result.label >= 0])


def test_joining_keeps_each_label_with_its_detections():
    images = [random_image(seed, n, m) for seed, (n, m) in enumerate([(9, 4), (0, 3), (5, 0), (12, 6)])]
    tables = [error_table(*image) for image in images]
    joined = join(tables)
    assert len(joined.conf) == 26
    assert joined.label_cls.tolist() == [cls for _, labels in images for cls in labels.cls.tolist()]
    about = joined.label_cls[joined.label[joined.label >= 0]]
    assert about.tolist() == [t.label_cls[i] for t in tables for i in t.label if i >= 0]
    assert joined.label[joined.label >= 0].max() >= 7
    assert [len(column) for column in join([])] == [0] * 6
