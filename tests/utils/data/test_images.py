import struct

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from utils.boxes import unletterbox
from utils.data.images import (
    PAD_GREY,
    applied_pad,
    letterbox,
    read_image,
    read_resized,
    resize_long_side,
    resized_shape,
    to_chw_rgb,
)
from utils.errors import UserError


def smooth(height, width):
    rows, columns = np.mgrid[:height, :width]
    return np.stack((rows * 200 // height, columns * 200 // width, rows * 0 + 30), axis=2).astype(np.uint8)


def encoded(image, suffix):
    return cv2.imencode(suffix, image)[1].tobytes()


def oriented_jpeg(image, orientation):
    """A JPEG with an EXIF header of one entry (EXIF 2.3: tag 0x0112 is the orientation) and a fake thumbnail's end."""
    entry = struct.pack("<HHHHI", 1, 0x0112, 3, 1, 0)[:10] + struct.pack("<HH", orientation, 0)
    tiff = b"II*\0" + struct.pack("<I", 8) + entry + struct.pack("<I", 0) + b"\xff\xd9"
    segment = b"Exif\0\0" + tiff
    jpeg = encoded(image, ".jpg")
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".webp"])
def test_read_image_keeps_the_colours_whatever_the_path(tmp_path, suffix):
    image = smooth(24, 40)
    path = tmp_path / f"zażółć 图{suffix}"
    path.write_bytes(encoded(image, suffix))
    read = read_image(path)
    assert read.dtype == np.uint8 and read.shape == (24, 40, 3)
    assert np.abs(read.astype(int) - image).mean() < 3


def test_read_image_makes_8_bit_bgr_of_grey_alpha_and_16_bit(tmp_path):
    grey = smooth(12, 17)[..., 0]
    alpha = np.dstack((smooth(12, 17), np.full((12, 17), 7, np.uint8)))
    for name, image in {"grey": grey, "alpha": alpha, "deep": smooth(12, 17).astype(np.uint16) * 256}.items():
        (tmp_path / name).write_bytes(encoded(image, ".png"))
    assert np.array_equal(read_image(tmp_path / "grey"), np.dstack((grey, grey, grey)))
    assert np.array_equal(read_image(tmp_path / "alpha"), smooth(12, 17))
    assert np.abs(read_image(tmp_path / "deep").astype(int) - smooth(12, 17)).max() <= 1


@pytest.mark.parametrize(("orientation", "turn"), [(3, cv2.ROTATE_180), (6, cv2.ROTATE_90_CLOCKWISE), (5, None)])
def test_read_image_turns_upright(tmp_path, orientation, turn):
    image = smooth(24, 40)
    (tmp_path / "a.jpg").write_bytes(oriented_jpeg(image, orientation))
    upright = image.transpose(1, 0, 2) if turn is None else cv2.rotate(image, turn)
    read = read_image(tmp_path / "a.jpg")
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).mean() < 4


def test_read_image_accepts_bytes_behind_the_end_of_a_jpeg(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(smooth(24, 40), ".jpg") + b"\xff\xda film of the camera")
    assert read_image(tmp_path / "a.jpg").shape == (24, 40, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (encoded(smooth(64, 90), ".jpg")[:-200], "cut off"),
        (encoded(smooth(64, 90), ".jpg")[:-2], "cut off"),
        (oriented_jpeg(smooth(64, 90), 1)[:-100], "cut off"),  # the end marker of its thumbnail does not count
        (b"\xff\xd8\xff", "cut off"),
        (encoded(smooth(64, 90), ".png")[:-60], "damaged"),
    ],
)
def test_read_image_names_a_bad_file(tmp_path, content, message):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_image(path)
    assert str(path) in str(error.value)


def test_read_image_names_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            read_image(path)


@given(height=st.integers(1, 700), width=st.integers(1, 700), size=st.integers(8, 96), augment=st.booleans())
@settings(max_examples=40)
def test_resize_long_side_is_exact(height, width, size, augment):
    resized = resize_long_side(np.zeros((height, width, 3), np.uint8), size, augment=augment)
    assert max(resized.shape[:2]) == size
    short = min(height, width) * size / max(height, width)
    assert short - 1e-9 <= min(resized.shape[:2]) < short + 1


@pytest.mark.parametrize("width", [147, 281, 533, 615])  # where floats give a long side of 641
def test_resize_long_side_does_not_exceed_by_rounding(width):
    assert resize_long_side(np.zeros((100, width, 3), np.uint8), 640, augment=True).shape[1] == 640


def test_resize_long_side_shrinks_by_area_unless_augmenting():
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, ::4] = 200
    assert np.all(resize_long_side(image, 4, augment=False) == 50)
    assert not np.all(resize_long_side(image, 4, augment=True) == 50)
    assert resize_long_side(image, 16, augment=False) is image


def test_letterbox_pads_the_larger_half_right_and_below():
    image = np.full((10, 20, 3), 200, np.uint8)
    boxed, ratio, pad = letterbox(image, (15, 20), auto=False)
    assert boxed.shape == (15, 20, 3) and ratio == (1, 1) and pad == (0, 2.5)
    assert applied_pad(pad) == (0, 2)
    assert np.all(boxed[:2] == PAD_GREY) and np.all(boxed[2:12] == 200) and np.all(boxed[12:] == PAD_GREY)


def test_letterbox_options():
    image = np.zeros((30, 50, 3), np.uint8)
    assert letterbox(image, 96, stride=32)[0].shape == (64, 96, 3)
    assert letterbox(image, 96, auto=False)[0].shape == (96, 96, 3)
    boxed, ratio, pad = letterbox(image, 96, auto=False, scale_up=False)
    assert boxed.shape == (96, 96, 3) and ratio == (1, 1) and pad == (23, 33)
    boxed, ratio, pad = letterbox(image, (60, 25), auto=False, scale_fill=True)
    assert boxed.shape == (60, 25, 3) and ratio == (0.5, 2) and pad == (0, 0)
    assert letterbox(np.zeros((1, 500, 3), np.uint8), 64, auto=False)[0].shape == (64, 64, 3)


@given(
    shape=st.tuples(st.integers(20, 200), st.integers(20, 200)),
    target=st.tuples(st.integers(32, 160), st.integers(32, 160)),
    auto=st.booleans(),
    scale_up=st.booleans(),
)
@settings(max_examples=40)
def test_letterbox_geometry_leads_back(shape, target, auto, scale_up):
    """A rectangle drawn into the image is found in the letterboxed pixels where the returned geometry says."""
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 4 : height * 3 // 4, width // 4 : width // 2] = 255
    boxed, ratio, pad = letterbox(image, target, auto=auto, scale_up=scale_up)
    assume(min(width, height) // 4 * min(ratio) >= 2)  # a thinner rectangle fades as it is made smaller
    left, top = applied_pad(pad)
    inner = boxed[top : boxed.shape[0] - top or None, left:, 0].astype(int)
    rows, columns = np.nonzero(inner > 180)
    found = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=torch.float32)
    back = unletterbox(found + torch.tensor([left, top, left, top]), shape, ratio, (left, top))
    drawn = torch.tensor([[width // 4, height // 4, width // 2, height * 3 // 4]], dtype=torch.float32)
    assert (back - drawn).abs().max() <= 1.5 / min(*ratio, 1) + 0.5


def test_to_chw_rgb():
    image = smooth(5, 7)
    planes = to_chw_rgb(image)
    assert planes.shape == (3, 5, 7) and planes.flags["C_CONTIGUOUS"]
    assert np.array_equal(planes[0], image[..., 2]) and np.array_equal(planes[2], image[..., 0])


def test_to_chw_rgb_writes_where_it_is_told():
    image = smooth(5, 7)
    memory = np.zeros((2, 3, 5, 7), np.uint8)
    planes = to_chw_rgb(image[:, ::-1][:, ::-1], memory[1])
    assert np.shares_memory(planes, memory) and not memory[0].any()
    assert np.array_equal(memory[1], image[:, :, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_a_jpeg_can_be_decoded_smaller(tmp_path, shrink, orientation):
    path = tmp_path / "a.jpg"
    path.write_bytes(oriented_jpeg(smooth(167, 251), orientation))
    whole, small = read_image(path), read_image(path, shrink=shrink)
    assert small.shape[:2] == tuple(-(-side // shrink) for side in whole.shape[:2])
    area = cv2.resize(whole, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - area).mean() < 2


def test_other_formats_come_in_full_size(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(smooth(40, 60), ".png"))
    assert np.array_equal(read_image(path, shrink=4), smooth(40, 60))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(("shape", "size"), [((167, 251), 31), ((90, 33), 45), ((251, 250), 125), ((20, 31), 64)])
def test_read_resized_has_the_planned_shape(tmp_path, suffix, shape, size):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(smooth(*shape), suffix))
    exact = read_resized(path, shape, size, augment=False)
    assert np.array_equal(exact, resize_long_side(read_image(path), size, augment=False))
    fast = read_resized(path, shape, size, augment=True)
    assert fast.shape == exact.shape == (*resized_shape(shape, size), 3)
    assert np.abs(fast.astype(int) - exact).mean() < 4


@pytest.mark.parametrize("augment", [True, False])
def test_read_resized_names_an_image_that_has_changed(tmp_path, augment):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(smooth(40, 60), ".png"))
    with pytest.raises(UserError, match=r"a\.png: found an image of 60 x 40 pixels, expected 50 x 40"):
        read_resized(path, (40, 50), 16, augment=augment)
