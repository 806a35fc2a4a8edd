"""The images of an official data set: where they are, and how large."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import ExifTags, Image

from utils.data.listing import list_images
from utils.data.scan import same_proportions
from utils.errors import UserError

logger = logging.getLogger(__name__)

_QUARTER_TURNS = range(5, 9)  # EXIF orientations that swap width and height
_SHOWN = 5


def list_names(folder: Path) -> set[str]:
    """Paths of all images below a folder, relative to it.

    Raises:
        UserError: If there is no such folder.
    """
    base = os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118 - for a data set of millions of files
    return {image.removeprefix(base) for image in list_images(folder)}


def upright_shape(image: Path) -> tuple[int, int]:
    """(h, w) in pixels, upright as the EXIF orientation says, from the header of the file alone.

    Raises:
        UserError: If it is missing or no image.
    """
    try:
        with Image.open(image) as file:
            width, height = file.size
            turned = file.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{image}: cannot read the size of the image ({error}), expected an image file; restore it"
        ) from error
    return (width, height) if turned else (height, width)


def check_shape(annotation: Path, shape: tuple[float, float], image: Path) -> None:
    """Make sure that the size in an annotation is that of its image, or that of the image before it was resized.

    Args:
        annotation: The file, for the message.
        shape: (h, w) in pixels that it says.
        image: The image; only its header is read.

    Raises:
        UserError: If the proportions differ, or the image cannot be read.
    """
    real = upright_shape(image)
    if not same_proportions(shape, real):
        found, expected = (f"{width:g} x {height:g}" for height, width in (shape, real))
        raise UserError(
            f"{annotation}: found a size of {found} for {image}, expected {expected} as the image, upright by its EXIF "
            "orientation; correct the annotation, or restore the image"
        )


def move(source: Path, target: Path) -> None:
    """Move a file or a folder to a place where nothing is yet.

    Raises:
        UserError: If there is something.
    """
    if target.exists():
        raise UserError(
            f"{target}: found it and {source}, expected one of the two; remove the one that is not official"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def warn_of_missing(annotations: Path, names: Sequence[str]) -> None:
    """Say in the log which annotated images are not there; some official data sets lack a few."""
    if names:
        shown = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
        logger.warning("%s: %d of its images are not there and were left out (%s)", annotations, len(names), shown)
