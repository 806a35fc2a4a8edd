"""Pascal VOC 2007 and 2012: one XML an image (http://host.robots.ox.ac.uk/pascal/VOC/)."""

import shutil
from pathlib import Path

from tqdm import tqdm

from utils.data.config import load_dataset_config
from utils.data.converters.image_files import move
from utils.data.listing import read_names
from utils.data.voc import write_labels
from utils.errors import UserError

_LISTS = (("2012", "train"), ("2012", "val"), ("2007", "train"), ("2007", "val"), ("2007", "test"))


def arrange(folder: Path) -> None:
    """Move the images to images/<list><year>, write labels/<list><year>, and drop the rest of VOC2007 and VOC2012.

    Those of the five lists (train and val of both years, test of 2007) are taken that are there. For the labels see
    `utils.data.voc_xml`.

    Args:
        folder: Holds VOCdevkit, as unpacked, or the VOC2007 and VOC2012 in it.

    Raises:
        UserError: If there is no list, or an image or annotation is missing or bad.
    """
    base = folder / "VOCdevkit" if (folder / "VOCdevkit").is_dir() else folder
    lists = {(year, name): base / f"VOC{year}" / "ImageSets" / "Main" / f"{name}.txt" for year, name in _LISTS}
    lists = {key: file for key, file in lists.items() if file.is_file()}
    if not lists:
        raise UserError(
            f"{folder}: found neither VOC2007 nor VOC2012 with lists in ImageSets/Main, expected what the official "
            "archives unpack to; for another data set in the format of Pascal VOC use python -m utils.data.voc"
        )
    shutil.rmtree(folder / "labels", ignore_errors=True)
    classes = tuple(load_dataset_config("VOC.yaml").names.values())
    for (year, name), file in lists.items():
        images, labels = folder / "images" / f"{name}{year}", folder / "labels" / f"{name}{year}"
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for stem in tqdm(read_names(file), desc=f"VOC{year} {name}", unit="img"):
            image = base / f"VOC{year}" / "JPEGImages" / f"{stem}.jpg"
            if not image.is_file():
                remedy = f"{file} names it, restore the official files"
                raise UserError(f"{image}: no such image, or it is in two lists; {remedy}")
            annotation = base / f"VOC{year}" / "Annotations" / f"{stem}.xml"
            write_labels(annotation, image, labels / f"{stem}.txt", classes)
            move(image, images / image.name)
    for year in ("2007", "2012"):
        shutil.rmtree(base / f"VOC{year}", ignore_errors=True)
    if base != folder and not any(base.iterdir()):
        base.rmdir()
