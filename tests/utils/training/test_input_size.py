import random

import pytest
import torch

from utils.training.input_size import fitting_size, resize_randomly


@pytest.mark.parametrize(("wished", "size"), [(640, 640), (641, 672), (1, 64), (33, 64), (100, 128)])
def test_rounds_up_to_the_stride(wished, size):
    assert fitting_size(wished, 32) == size


def test_random_sizes_keep_the_shape_and_cover_the_range():
    random.seed(0)
    shapes = {tuple(resize_randomly(torch.rand(1, 3, 64, 128), 32).shape[2:]) for _ in range(200)}
    assert shapes == {(32, 64), (64, 96), (64, 128), (96, 160), (96, 192)}


def test_the_nominal_size_is_left_alone():
    images = torch.rand(1, 3, 64, 64)
    random.seed(3)
    results = [resize_randomly(images, 32) for _ in range(30)]
    assert any(result is images for result in results)
    assert {result.shape[-1] for result in results} == {64, 96}


def test_a_quad_of_images_stays_twice_as_large():
    random.seed(0)
    sizes = {resize_randomly(torch.rand(1, 3, 128, 128), 32).shape[-1] for _ in range(100)}
    assert sizes == {64, 96, 128, 160, 192}
