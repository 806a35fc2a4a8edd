"""The official annotations of a data set, object by object as they are: crowds, areas, ids of images and categories."""

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, NamedTuple

from utils.data.annotated import AnnotatedImages
from utils.data.config import DatasetConfig, Split
from utils.data.scan import Sample
from utils.errors import UserError

logger = logging.getLogger(__name__)

Id = int | str


class TrueObject(NamedTuple):
    """One object of the ground truth.

    Attributes:
        cls: Class index.
        xywh: Left, top, width and height in pixels of the image.
        area: Square pixels; of the object's outline where there is one, else of its box.
        crowd: Whether it is a region of many objects, in which detections are neither right nor wrong.
    """

    cls: int
    xywh: tuple[float, ...]
    area: float
    crowd: bool = False


@dataclass(frozen=True)
class Annotations:
    """What a COCO JSON says about the images that are evaluated.

    Attributes:
        file: The JSON.
        category_ids: Class index -> its id there.
        image_ids: Image file -> its id there.
        objects: Image file -> its objects.
    """

    file: Path
    category_ids: list[Id]
    image_ids: dict[Path, Id]
    objects: dict[Path, list[TrueObject]]


def official_annotations(
    dataset: DatasetConfig, split: Split, samples: Sequence[Sample], *, single_cls: bool = False
) -> Annotations | None:
    """The COCO JSON of a split, if there is one: its source, or `annotations/instances_<source>.json` in its root.

    One that does not fit the images or classes is not used; the log says why.

    Args:
        dataset: The data set.
        split: Which of its splits.
        samples: The images to evaluate.
        single_cls: Make all objects class 0.
    """
    sources = getattr(dataset, split)
    files = [
        source.annotations
        if isinstance(source, AnnotatedImages)
        else dataset.root / "annotations" / f"instances_{source.stem}.json"
        for source in sources
    ]
    if not any(file.is_file() for file in files):
        return None
    try:
        if len(files) > 1:
            raise UserError(f"{dataset.file}: {split} has {len(files)} sources, whose ids could be the same")
        folder = sources[0].images if isinstance(sources[0], AnnotatedImages) else None
        annotations = read_annotations(files[0], folder, samples, dataset.names)
    except UserError as error:
        logger.warning("%s; COCO's numbers are taken from the labels instead", error)
        return None
    if single_cls:
        objects = {path: [found._replace(cls=0) for found in all_] for path, all_ in annotations.objects.items()}
        return Annotations(annotations.file, [0], annotations.image_ids, objects)
    return annotations


def read_annotations(
    file: Path, folder: Path | None, samples: Iterable[Sample], names: Mapping[int, str]
) -> Annotations:
    """Read a COCO JSON (https://cocodataset.org/#format-data, object detection).

    Categories become classes by name; objects of other categories are left out.

    Args:
        file: The JSON.
        folder: Where its `file_name`s start; None to find images by their name without folder and suffix.
        samples: The images to evaluate.
        names: Class index -> name.

    Raises:
        UserError: If the file is no such JSON, lacks a class or an image, or knows one in another size.
    """
    try:
        content = json.loads(file.read_bytes())
        categories = [(_id(category), category["name"]) for category in content["categories"]]
        images = [(_id(image), image) for image in content["images"]]
        key_of = _key(folder)
        entries = {key_of(Path(image["file_name"])): (key, image) for key, image in images}
        annotations = [(annotation["image_id"], annotation) for annotation in content["annotations"]]
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise UserError(f"{file}: not a COCO JSON of the object detection task ({error!r})") from error
    ids = {name: key for key, name in categories}
    missing = [name for name in names.values() if name not in ids]
    if missing or len(ids) < len(categories):
        raise UserError(
            f"{file}: " + (f"has no category {missing[0]}" if missing else "has two categories of one name")
        )
    if len(entries) < len(images):
        raise UserError(f"{file}: has two images of one name")
    image_ids = {sample.path: _find(file, entries.get(key_of(sample.path)), sample) for sample in samples}
    if len(set(image_ids.values())) < len(image_ids):
        raise UserError(f"{file}: has one entry for two images of one name")
    path_of = {key: path for path, key in image_ids.items()}
    class_of = {ids[name]: index for index, name in names.items()}
    objects: dict[Path, list[TrueObject]] = {path: [] for path in image_ids}
    for image, annotation in annotations:
        if image in path_of and (found := _read_object(file, annotation, class_of)):
            objects[path_of[image]].append(found)
    return Annotations(file, [ids[name] for name in names.values()], image_ids, objects)


def _id(entry: Mapping[str, Any]) -> Id:
    key = entry["id"]
    if not isinstance(key, int | str):
        raise TypeError(f"id {shortened(key)}")
    return key


def _key(folder: Path | None) -> Callable[[Path], str]:
    """By what an image on disk and a `file_name` are the same."""
    if folder is None:
        return lambda path: path.stem
    return lambda path: os.path.abspath(folder / path)  # noqa: PTH100 - an absolute path stays as it is


def _find(file: Path, found: tuple[Id, Mapping[str, Any]] | None, sample: Sample) -> Id:
    if found is None:
        raise UserError(f"{file}: does not know the image {sample.path}")
    key, image = found
    height, width = sample.shape
    size = image.get("width", width), image.get("height", height)
    if size != (width, height):
        raise UserError(f"{file}: has {sample.path} in {size[0]} x {size[1]} pixels, but it has {width} x {height}")
    return key


def _read_object(file: Path, annotation: Mapping[str, Any], class_of: Mapping[Id, int]) -> TrueObject | None:
    """One object; None if it is of another category."""
    try:
        if annotation["category_id"] not in class_of:
            return None
        x, y, w, h = map(float, annotation["bbox"])
        area = float(annotation.get("area", w * h))
        if not all(map(math.isfinite, (x, y, w, h, area))):
            raise ValueError("not finite")
    except (LookupError, ValueError, TypeError) as error:
        raise UserError(f"{file}: found the annotation {shortened(annotation)}, expected a bbox and an area") from error
    return TrueObject(class_of[annotation["category_id"]], (x, y, w, h), area, annotation.get("iscrowd") == 1)
