import dataclasses

import pytest

from utils.files import PROGRAM_ROOT
from utils.training.hyp import Hyp, load_hyp, parse_hyp
from utils.training.search_space import search_space


def test_ranges_of_the_default():
    space = search_space(Hyp())
    assert (space["lr0"].low, space["lr0"].high, space["lr0"].log) == (
        pytest.approx(0.01 / 3),
        pytest.approx(0.03),
        True,
    )
    assert (space["momentum"].low, space["momentum"].high) == (pytest.approx(0.937 / 3**0.3), 0.98)
    assert (space["degrees"].low, space["degrees"].high, space["degrees"].log) == (0, 15, False)
    assert (space["mosaic"].low, space["mosaic"].high) == (pytest.approx(1 / 3), 1)
    assert not {"iou_t", "perspective", "fliplr", "fl_gamma", "anchors", "offset_lr", "nbs"} & set(space)
    assert (search_space(Hyp(anchors=3.0))["anchors"].low, search_space(Hyp(anchors=3.0))["anchors"].high) == (2, 10)


def test_the_start_lies_in_every_range():
    space = search_space(Hyp(lr0=0.5, momentum=0.1))
    assert space["lr0"].high == 0.5
    assert space["momentum"].low == 0.1


@pytest.mark.parametrize("file", sorted((PROGRAM_ROOT / "data" / "hyps").glob("*.yaml")), ids=lambda file: file.stem)
def test_all_that_is_tried_is_allowed(file):
    base = load_hyp(str(file))
    for key, tried in search_space(base).items():
        assert tried.low <= getattr(base, key) <= tried.high
        assert tried.low > 0 or not tried.log
        for value in (tried.low, tried.high):
            parse_hyp(dataclasses.replace(base, **{key: value}).to_dict(), "test")
