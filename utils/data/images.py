"""Images as the network wants them: read, resize, letterbox, reorder. OpenCV order (h, w, BGR) until the last step."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError

Image = NDArray[Any]  # uint8; OpenCV's own annotations do not tell

MAX_SIDE = 8192
"""Pixels of the largest input of a network; more would only end in a lack of memory."""
PAD_GREY = 114
"""The level that YOLOv5 weights were trained to see around an image."""
PAD_COLOUR = (PAD_GREY, PAD_GREY, PAD_GREY)


_JPEG = b"\xff\xd8\xff"
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def read_image(path: Path, *, shrink: int = 1) -> Image:
    """Read an image file as 8-bit BGR, turned upright as its EXIF orientation says.

    Args:
        path: Any format OpenCV decodes; grey, RGBA and 16-bit images are converted.
        shrink: 2, 4 or 8 decodes a JPEG that many times smaller, its sides rounded up: faster, and free of aliases.
            Other formats come in full size.

    Returns:
        (h, w, 3) BGR.

    Raises:
        UserError: If the file is missing, empty, cut off or no image.
    """
    try:
        content = path.read_bytes()  # cv2.imread cannot open every unicode path on every system
    except OSError as error:
        raise UserError(f"{path}: cannot read the image ({error.strerror}); restore the file") from error
    if not content:
        raise UserError(f"{path}: the image file is empty; restore or remove it")
    if _is_cut_off_jpeg(content):
        raise UserError(f"{path}: the JPEG file is cut off (no end marker); restore or remove it")
    try:
        flags = _REDUCED[shrink] if content.startswith(_JPEG) else cv2.IMREAD_COLOR
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:  # for example more pixels than OpenCV allows
        raise UserError(f"{path}: cannot decode the image ({error.err}); restore, shrink or remove it") from error
    if image is None:
        raise UserError(f"{path}: not an image OpenCV can decode, or damaged; restore, convert or remove it")
    return image


def _is_cut_off_jpeg(content: bytes) -> bool:
    """Whether a JPEG file has no end marker behind its image data; OpenCV 4 fills such an image up without a word.

    The headers are stepped over by their lengths (ITU-T T.81, annex B), since the thumbnail in an EXIF header has an
    end marker of its own. Bytes behind the end marker are harmless: some cameras append a film.
    """
    if not content.startswith(_JPEG):
        return False
    start = 2
    while content[start + 1 : start + 2] not in (b"\xda", b""):  # start of scan, end of file
        start += 2 + int.from_bytes(content[start + 2 : start + 4], "big")
    return content.rfind(b"\xff\xd9", start) < 0  # from behind, since it is nearly always at the very end


def read_resized(path: Path, shape: tuple[int, int], size: int, *, augment: bool) -> Image:
    """Read an image and resize it as `resize_long_side` does; when augmenting, large JPEGs are decoded smaller.

    Args:
        path: The file.
        shape: (h, w) that the image had when the data set was checked.
        size: Pixels of the long side of the result.
        augment: Be fast rather than exact.

    Returns:
        (h, w, 3) of `resized_shape(shape, size)`.

    Raises:
        UserError: If the image cannot be read or no longer has `shape`.
    """
    shrink = next((n for n in (8, 4, 2) if augment and max(shape) >= n * size), 1)
    image = read_image(path, shrink=shrink)
    found = image.shape[0], image.shape[1]
    if found not in (shape, (-(-shape[0] // shrink), -(-shape[1] // shrink))):
        raise UserError(
            f"{path}: found an image of {found[1]} x {found[0]} pixels, expected {shape[1]} x {shape[0]} as when the "
            "data set was checked; leave a data set alone while it is in use, and start again"
        )
    return _resize(image, resized_shape(shape, size), linear=augment or size > max(shape))


def resized_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """(h, w) with a long side of `size`; the short side is rounded up, never to 0."""
    # In integers: size / long side as a float sometimes makes the long side one pixel longer than asked.
    height, width = (-(-side * size // max(shape)) for side in shape)
    return height, width


def resize_long_side(image: Image, size: int, *, augment: bool) -> Image:
    """Resize so that the long side is `size`, keeping the aspect ratio; the short side is rounded up.

    Args:
        image: (h, w, 3).
        size: Pixels of the long side of the result.
        augment: Interpolate linearly, faster and a little noisier; else shrink by area.

    Returns:
        (h, w, 3) with max(h, w) == size; the same array if there is nothing to do.
    """
    shape = image.shape[0], image.shape[1]
    return _resize(image, resized_shape(shape, size), linear=augment or size > max(shape))


def _resize(image: Image, shape: tuple[int, int], *, linear: bool) -> Image:
    if image.shape[:2] == shape:
        return image
    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_LINEAR if linear else cv2.INTER_AREA)


def letterbox(
    image: Image,
    shape: int | tuple[int, int],
    *,
    auto: bool = True,
    scale_fill: bool = False,
    scale_up: bool = True,
    stride: int = 32,
    colour: tuple[int, int, int] = PAD_COLOUR,
) -> tuple[Image, tuple[float, float], tuple[float, float]]:
    """Fit an image into a shape without distorting it, and fill the rest of the shape with a colour.

    Args:
        image: (h, w, 3).
        shape: (h, w) to fit into; an int for a square.
        auto: Pad only to the next multiple of `stride`, so the result can be smaller than `shape`.
        scale_fill: Stretch to `shape` instead of padding; `auto` takes precedence.
        scale_up: Whether an image smaller than `shape` may be enlarged.
        stride: What the sides of the result are multiples of, when `auto` and when those of `shape` are.
        colour: BGR of the padding.

    Returns:
        The image, the (x, y) factor of the resize before rounding to pixels, and half of the (x, y) padding, of which
        `applied_pad` makes the pixels on the left and on the top.
    """
    height, width = image.shape[:2]
    target_height, target_width = (shape, shape) if isinstance(shape, int) else shape
    gain = min(target_height / height, target_width / width)
    if not scale_up:
        gain = min(gain, 1.0)
    ratio = gain, gain
    new_width, new_height = max(round(width * gain), 1), max(round(height * gain), 1)
    pad_x, pad_y = target_width - new_width, target_height - new_height
    if auto:
        pad_x, pad_y = pad_x % stride, pad_y % stride
    elif scale_fill:
        pad_x, pad_y = 0, 0
        new_width, new_height = target_width, target_height
        ratio = target_width / width, target_height / height
    if (width, height) != (new_width, new_height):
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    if pad_x or pad_y:
        left, top = pad_x // 2, pad_y // 2
        image = cv2.copyMakeBorder(image, top, pad_y - top, left, pad_x - left, cv2.BORDER_CONSTANT, value=colour)
    return image, ratio, (pad_x / 2, pad_y / 2)


def applied_pad(pad: tuple[float, float]) -> tuple[int, int]:
    """The pixels left and on top for the halved padding of `letterbox`; of an odd padding the smaller part."""
    return int(pad[0]), int(pad[1])


def to_chw_rgb(image: Image, out: Image | None = None) -> Image:
    """(h, w, 3) BGR as contiguous (3, h, w) RGB.

    Args:
        image: The pixels.
        out: uint8 (3, h, w), contiguous, to write to; a new array if not given.
    """
    planes = np.empty((3, *image.shape[:2]), np.uint8) if out is None else out
    cv2.split(image, [planes[2], planes[1], planes[0]])  # six times as fast as a transposed copy
    return planes
