import pickle
from pathlib import Path

import numpy as np
import pytest

from utils.data.packed import PackedSamples
from utils.data.scan import Sample


def labels(*classes):
    return np.array([(c, 0.5, 0.5, 0.1, 0.2) for c in classes], np.float32).reshape(-1, 5)


SAMPLES = [
    Sample(Path("/a/zażółć 图.jpg"), (3, 4), labels(), []),
    Sample(Path("/a/\udcff.jpg"), (30, 4), labels(2, 5), [None, np.array([[0, 0], [1, 0], [1, 1]], np.float32)]),
    Sample(Path("b.png"), (5, 6), labels(1), [np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], np.float32)]),
]


@pytest.mark.parametrize("samples", [SAMPLES, SAMPLES[:1], [], SAMPLES[::-1]])
@pytest.mark.parametrize("copy", [lambda packed: packed, lambda packed: pickle.loads(pickle.dumps(packed))])
def test_samples_come_out_as_they_went_in(samples, copy):
    packed = copy(PackedSamples(samples))
    assert len(packed) == len(samples)
    for found, expected in zip(packed, samples, strict=True):
        assert (found.path, found.shape) == (expected.path, expected.shape)
        assert np.array_equal(found.labels, expected.labels) and found.labels.shape[1] == 5
        for a, b in zip(found.polygons, expected.polygons, strict=True):
            assert (a is None and b is None) or np.array_equal(a, b)
    with pytest.raises(IndexError):
        packed[len(samples)]
