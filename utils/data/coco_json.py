"""COCO annotation files: one JSON with the images, the categories and the objects of a split."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np

from utils.data.labels import TOLERANCE, Array, BadRow, LabelOrigin, LabelProblem, Labels
from utils.data.listing import SHOWN_SUFFIXES, is_image
from utils.data.outline import Points, joined_outline
from utils.errors import UserError

Entry = dict[str, Any]

_MOST_PIXELS = 1e9  # neither NaN nor the infinities that JSON of some programs has are less


def read_category_names(file: Path) -> list[str]:
    """Names of the categories of a COCO JSON, in the order of their ids.

    Raises:
        UserError: If the file is no such JSON.
    """
    return list(_names_by_id(file, _load(file)["categories"]).values())


def read_coco(file: Path, folder: Path, names: Sequence[str]) -> dict[str, LabelOrigin]:
    """Read a COCO JSON (https://cocodataset.org/#format-data, object detection).

    Categories become classes by name. Crowds (`iscrowd: 1`) and objects without area are left out. Boxes are those of
    `bbox`, or of the polygons where there is none, cut at the border of the image. Polygons become outlines, those of
    an object in several parts joined; run-length masks do not.

    Args:
        file: The JSON.
        folder: Where its `file_name`s start.
        names: Class names by index.

    Returns:
        Absolute path of each image -> its objects; those of an image are looked at when they are read.

    Raises:
        UserError: If the file is no such JSON, its categories are not `names`, or an image is missing.
    """
    content = _load(file)
    index = _class_indices(file, content, names)
    images = _find_images(file, content["images"], folder)
    objects: dict[Any, list[tuple[str, Entry]]] = {key: [] for key in images}
    for number, annotation in enumerate(content["annotations"]):
        name = f"annotation {annotation['id']}" if "id" in annotation else f"annotations[{number}]"
        image = _get(annotation, "image_id")
        if image not in objects:
            found = f"image_id {shortened(image)} in {name}"
            raise UserError(f"{file}: found {found}, expected the id of an entry in images; correct or delete it")
        objects[image].append((name, annotation))
    return {
        path: LabelOrigin(str(file), partial(_read_objects, file, size, objects[key], index))
        for key, (path, size) in images.items()
    }


def _load(file: Path) -> dict[str, list[Entry]]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}), expected a COCO JSON; correct the path") from error
    except json.JSONDecodeError as error:
        problem = f"{error.msg.rstrip(': ').removesuffix(' at')} at column {error.colno}"
        raise UserError(f"{file}:{error.lineno}: not valid JSON ({problem}); correct that line") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error}); write it again as UTF-8") from error
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            found = f"{key}: {shortened(entries)}" if isinstance(content, dict) else type(content).__name__
            raise UserError(
                f"{file}: found {found}, expected a COCO JSON with the lists images, annotations and categories; "
                "name the file of the object detection task"
            )
    return content


def _get(entry: Entry, key: str) -> Any:
    """An id or a name, or None where there is none that could be one."""
    value = entry.get(key)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _names_by_id(file: Path, categories: list[Entry]) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for category in categories:
        key, name = _get(category, "id"), _get(category, "name")
        if key is None or not isinstance(name, str) or key in names or name in names.values():
            raise UserError(
                f"{file}: found the category {shortened(category)}, expected an id and a name that no other has; "
                "correct it"
            )
        names[key] = name
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _class_indices(file: Path, content: dict[str, list[Entry]], names: Sequence[str]) -> dict[Any, int]:
    """Category id -> class index; a category without objects need not be a class."""
    known = _names_by_id(file, content["categories"])
    used = {_get(annotation, "category_id") for annotation in content["annotations"]}
    extra = [name for key, name in known.items() if key in used and name not in names]
    missing = [name for name in names if name not in known.values()]
    if extra or missing:
        found = [f"has objects of {', '.join(extra)}, which are not in names"] if extra else []
        found += [f"has no category {', '.join(missing)}"] if missing else []
        raise UserError(
            f"{file}: {' and '.join(found)}, expected the classes of the data set YAML; correct `names` there, or "
            "leave it out to take the categories as they are"
        )
    return {key: names.index(name) for key, name in known.items() if name in names}


def _find_images(file: Path, entries: list[Entry], folder: Path) -> dict[Any, tuple[str, tuple[float, float]]]:
    """Image id -> path and (h, w)."""
    images: dict[Any, tuple[str, tuple[float, float]]] = {}
    paths: set[str] = set()
    missing: list[str] = []
    for entry in entries:
        key, name = _get(entry, "id"), _get(entry, "file_name")
        size: tuple[Any, Any] = entry.get("height"), entry.get("width")
        if key is None or key in images or not isinstance(name, str) or not is_image(name):
            expected = f"an id of its own and a file_name that ends in {SHOWN_SUFFIXES}"
            raise UserError(f"{file}: found the image {shortened(entry)}, expected {expected}; correct it")
        if not all(_is_number(side) and side > 0 for side in size):
            found = f"a size of {size[1]!r} x {size[0]!r} for {name}"
            raise UserError(f"{file}: found {found}, expected width and height in pixels; correct it")
        path = os.path.abspath(folder / name)  # noqa: PTH100
        if path in paths:
            raise UserError(f"{file}: found two images called {name}, expected each once; join the two")
        if not os.path.isfile(path):  # noqa: PTH113 - for hundreds of thousands of files
            missing.append(path)
        paths.add(path)
        images[key] = path, size
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(
            f"{file}: found no image {missing[0]}{more}, expected every file_name below {folder}; restore the images, "
            "or correct `images` in the data set YAML"
        )
    return images


def _read_objects(
    file: Path, size: tuple[float, float], entries: list[tuple[str, Entry]], index: Mapping[Any, int]
) -> Labels:
    """The objects of one image of (h, w) pixels."""
    labels = Labels(size=size)
    limit = np.array(size[::-1], np.float64)
    boxes: list[tuple[float, ...]] = []
    for name, entry in entries:
        if entry.get("iscrowd") == 1:
            continue
        try:
            key = _get(entry, "category_id")
            if key not in index:
                raise BadRow(f"category_id {shortened(key)}", "the id of a category", "correct or delete it")
            parts = _parse_parts(entry.get("segmentation"))
            corners = _parse_corners(entry.get("bbox"), parts)
            if not (corners[1] > corners[0]).all():
                labels.warnings.append(f"{file}: {name}: left out, it has no area")
                continue
            low, high = np.clip(corners, 0, limit) / limit
            if not (high > low).all():
                expected = f"a box inside the {size[1]:g} x {size[0]:g} image"
                raise BadRow(f"the bbox {shortened(entry.get('bbox'))}", expected, "correct or delete it")
        except BadRow as bad:
            found, expected, remedy = bad.args
            labels.problems.append(LabelProblem(file, None, f"{found} in {name}", expected, remedy))
            continue
        if (corners < -TOLERANCE * limit).any() or (corners > (1 + TOLERANCE) * limit).any():
            labels.warnings.append(f"{file}: {name}: cut at the border of the image")
        box = (index[key], *((low + high) / 2).tolist(), *(high - low).tolist())
        if box in boxes:
            labels.warnings.append(f"{file}: {name}: duplicate left out")
            continue
        boxes.append(box)
        labels.polygons.append(_outline(parts, limit))
    if boxes:
        labels.boxes = np.array(boxes, np.float32)
    return labels


def _parse_corners(bbox: Any, parts: list[Points]) -> Points:
    """(2, 2) low and high corner in pixels, of the box or else of the polygons."""
    if not bbox and parts:
        points = np.concatenate(parts)
        return np.stack((points.min(axis=0), points.max(axis=0)))
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)) or min(bbox[2:]) < 0:
        raise BadRow(f"the bbox {shortened(bbox)}", "left, top, width and height in pixels", "correct or delete it")
    left, top, width, height = bbox
    return np.array(((left, top), (left + width, top + height)), np.float64)


def _parse_parts(segmentation: Any) -> list[Points]:
    """The outlines (k, 2) in pixels of the parts of an object; none of a mask."""
    if segmentation is None or isinstance(segmentation, dict):
        return []
    expected = "a list of polygons [x1, y1, x2, y2, ...] in pixels"
    if not isinstance(segmentation, list):
        raise BadRow(f"the segmentation {shortened(segmentation)}", expected, "correct or remove it")
    for part in segmentation:
        if not isinstance(part, list) or len(part) % 2 or not all(map(_is_number, part)):
            raise BadRow(f"the polygon {shortened(part)}", expected, "correct or remove it")
    return [np.array(part, np.float64).reshape(-1, 2) for part in segmentation if len(part) >= 6]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST_PIXELS


def _outline(parts: list[Points], limit: Points) -> Array | None:
    """(n, 2) fractions of an image of `limit` = (w, h) pixels; None if nothing with an area is left in it."""
    if not parts:
        return None
    points = (np.clip(joined_outline(parts), 0, limit) / limit).astype(np.float32)
    return points if (np.ptp(points, axis=0) > 0).all() else None
