"""Test-time augmentation."""

import math

import pytest
import torch
from torch import Tensor, nn

from models import Model
from models.augmented import Augmented

STRIDES = (8, 16, 32)


class Centres(nn.Module):
    """Finds in each cell of each level one object: at its centre, 8 x 16 pixels, its objectness telling the level."""

    def __init__(self, strides=STRIDES) -> None:
        super().__init__()
        self.names, self.nc = {0: "dot"}, 1
        self.stride = torch.tensor([float(stride) for stride in strides])
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        self.seen.append(images)
        b, _, h, w = images.shape
        return [torch.zeros(b, 1, h // int(s), w // int(s), 6) for s in self.stride]

    def decode(self, raw: list[Tensor]) -> Tensor:
        return torch.cat([self._level(level, int(s)) for level, s in zip(raw, self.stride, strict=True)], 1)

    def _level(self, level: Tensor, stride: int) -> Tensor:
        b, _, h, w, _ = level.shape
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        rest = (torch.full((h, w), float(value)) for value in (8, 16, stride, 1))
        return torch.stack((x * stride, y * stride, *rest), -1).view(1, h * w, 6).repeat(b, 1, 1)


def test_views_are_smaller_and_padded_to_the_stride_and_one_is_mirrored():
    model = Centres()
    images = torch.zeros(2, 3, 96, 160)
    images[..., :80] = 1  # bright on the left
    Augmented(model)(images)
    large, middle, small = model.seen
    assert large is images
    assert middle.shape == (2, 3, 96, 160) and small.shape == (2, 3, 96, 128)  # 79.68 x 132.8 and 64.32 x 107.2
    assert (middle[..., :79, 68:132] > 0.9).all() and (middle[..., :79, :64] < 0.1).all()
    assert (small[..., :64, :52] > 0.9).all() and (small[..., :64, 55:107] < 0.1).all()
    for view, h, w in ((middle, 79, 132), (small, 64, 107)):
        border = torch.cat((view[..., h:, :].flatten(), view[..., w:].flatten()))
        assert (border == 0.447).all()
    assert (middle[..., 78, 131] != 0.447).all() and (small[..., 63, 106] != 0.447).all()


def test_boxes_return_to_the_pixels_of_the_image():
    model = Augmented(Centres())
    images = torch.zeros(1, 3, 64, 96)
    large, middle, small = model(images)
    torch.testing.assert_close(large[0, 0, :4], torch.tensor([4.0, 4.0, 8.0, 16.0]))
    expected = torch.tensor([96 - 4 / 0.83, 4 / 0.83, 8 / 0.83, 16 / 0.83])
    torch.testing.assert_close(middle[0, 0, :4], expected)
    torch.testing.assert_close(small[0, 0, :4], torch.tensor([8.0, 8.0, 8.0, 16.0]) / 0.67)
    assert model.decode([large, middle, small]).shape == (1, large.shape[1] + middle.shape[1] + small.shape[1], 6)


@pytest.mark.parametrize("strides", [(8, 16), (8, 16, 32), (8, 16, 32, 64)])
def test_the_large_view_lacks_the_coarsest_level_and_the_small_one_the_finest(strides):
    found = Augmented(Centres(strides))(torch.zeros(1, 3, 128, 192))
    levels = [view[0, :, 4].unique().tolist() for view in found]
    assert levels == [list(strides[:-1]), list(strides), list(strides[1:])]
    g = sum(4**k for k in range(len(strides)))
    coarsest = strides[-1]
    cells = [math.ceil(128 * size / coarsest) * math.ceil(192 * size / coarsest) for size in (1, 0.83, 0.67)]
    n = [g * count for count in cells]
    assert [view.shape[1] for view in found] == [n[0] - n[0] // g, n[1], n[2] - n[2] // g * 4 ** (len(strides) - 1)]


def test_one_level_is_kept():
    found = Augmented(Centres((16,)))(torch.zeros(1, 3, 64, 64))
    assert [view.shape[1] for view in found] == [16, 16, 9]


def test_a_real_model_under_autocast_gives_float32():
    model = Augmented(Model("yolov5n.yaml", nc=2).eval())
    assert (model.nc, model.stride.tolist()) == (2, [8, 16, 32])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model.decode(model(torch.rand(2, 3, 64, 96)))
    assert found.dtype == torch.float32 and found.shape == (2, 3 * (120 + 126 + 30), 7)
