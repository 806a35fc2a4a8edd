"""xView, objects from above: one GeoJSON for all images (https://challenge.xviewdataset.org)."""

import logging
import random
from collections import defaultdict
from pathlib import Path
from reprlib import repr as shortened

from tqdm import tqdm

from utils.data.converters.image_files import list_names, move, upright_shape, warn_of_missing
from utils.data.converters.json_stream import stream_entries
from utils.data.converters.label_files import LabelledImage, PixelBox, write_label_files
from utils.data.converters.number_rows import read_number, split_row
from utils.data.labels import BadRow
from utils.errors import UserError
from utils.files import write_text

logger = logging.getLogger(__name__)

_SHARES = (0.9, 0.1)  # of the lists of training and validation images
_TYPE_IDS = [
    *(*range(11, 14), 15, *range(17, 22), *range(23, 30), *range(32, 39), *range(40, 43), 44, 45, 47, *range(49, 58)),
    *(*range(59, 67), *range(71, 75), 76, 77, 79, 83, 84, 86, 89, 91, 93, 94),
]
_CLASSES = {type_id: index for index, type_id in enumerate(_TYPE_IDS)}


def arrange(folder: Path) -> None:
    """Move the images to images/train and images/val, write labels/train, and split the annotated images in two lists.

    The lists images/autosplit_train.txt and images/autosplit_val.txt have nine and one tenth of images/train, drawn
    with a fixed seed as by YOLOv5.

    Args:
        folder: Holds xView_train.geojson and train_images (perhaps val_images, which has no public boxes), as unpacked,
            at any depth.

    Raises:
        UserError: If the images or the GeoJSON are missing, or it is bad.
    """
    for split in ("train", "val"):
        for unpacked in sorted(path for path in folder.rglob(f"{split}_images") if path.is_dir()):
            move(unpacked, folder / "images" / split)
    images = folder / "images" / "train"
    names = sorted(list_names(images)) if images.is_dir() else []
    if not names:
        raise UserError(f"{images}: found no images, expected those of train_images.zip; unpack it in {folder}")
    file = next(iter(sorted(folder.rglob("xView_train.geojson"))), None)
    if file is None:
        raise UserError(f"{folder}: found no xView_train.geojson; unpack train_labels.zip there")
    boxes = _read_boxes(file)
    warn_of_missing(file, sorted(boxes.keys() - names))
    if not boxes.keys() & set(names):
        raise UserError(f"{file}: found none of its images in {images}; unpack train_images.zip in {folder}")
    labelled = (LabelledImage(images / n, upright_shape(images / n), boxes.get(n, [])) for n in names)
    write_label_files(folder / "labels", labelled, len(names))
    _write_lists(names, folder / "images")


def _read_boxes(file: Path) -> dict[str, list[PixelBox]]:
    """Name of each image -> its objects."""
    boxes: dict[str, list[PixelBox]] = defaultdict(list)
    unknown = 0
    for number, (_, feature) in enumerate(tqdm(stream_entries(file, ("features",)), desc=f"reading {file.name}")):
        try:
            properties = feature["properties"]
            bounds = properties["bounds_imcoords"]
            if not bounds:
                continue
            name, index = str(properties["image_id"]), _CLASSES.get(properties["type_id"])
            left, top, right, bottom = map(read_number, split_row(bounds, ("x1", "y1", "x2", "y2")))
        except BadRow as bad:
            found, expected, remedy = bad.args
            raise UserError(f"{file}: found {found} in features[{number}], expected {expected}; {remedy}") from bad
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"{file}: found features[{number}] {shortened(feature)}, expected one of xView ({error!r}); restore "
                "the official file"
            ) from error
        if index is None:
            unknown += 1
        else:
            boxes[name].append((index, left, top, right, bottom))
    if unknown:
        logger.info("%s: left out %d objects of a type that is none of the %d classes", file, unknown, len(_CLASSES))
    return boxes


def _write_lists(names: list[str], images: Path) -> None:
    draw = random.Random(0)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for name in names:
        (split,) = draw.choices(list(lists), _SHARES)
        lists[split].append(f"./train/{name}\n")
    for split, lines in lists.items():
        write_text(images / f"autosplit_{split}.txt", "".join(lines))
