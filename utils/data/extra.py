"""Rare blurs and greys by albumentations, if that package is installed."""

import functools
import importlib
import logging
import os
from importlib import metadata
from typing import Any

import cv2
from numpy.random import Generator

from utils.data.images import Image

logger = logging.getLogger(__name__)

_TRANSFORMS = ("Blur", "MedianBlur", "ToGray", "CLAHE")
_PROBABILITY = 0.01


@functools.cache
def installed() -> bool:
    """Whether albumentations 2 is there; albumentationsx, which has the same modules but is AGPL, does not count."""
    try:
        version = metadata.version("albumentations")
    except metadata.PackageNotFoundError:
        return False
    return version.startswith("2.")


def describe() -> None:
    """Say that the package is used, if so."""
    if installed():
        names = ", ".join(_TRANSFORMS)
        logger.info("albumentations is installed: %s, each with a probability of %g", names, _PROBABILITY)


def apply_extra(image: Image, rng: Generator) -> Image:
    """Change an image as rarely as YOLOv5 does.

    Args:
        image: (h, w, 3) BGR.
        rng: Source of the choice and of the changes.
    """
    chosen = [name for name in _TRANSFORMS if rng.random() < _PROBABILITY]
    if not chosen:
        return image
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    for name in chosen:
        transform = getattr(_package(), name)(p=1)
        transform.set_random_seed(int(rng.integers(2**32)))
        image = transform(image=image)["image"]
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR)


@functools.cache
def _package() -> Any:
    """The package, imported when it is needed for the first time, without its question for updates on the network."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    return importlib.import_module("albumentations")
