"""Small data sets of drawn pictures, laid out and annotated like the official COCO and VisDrone downloads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from utils.boxes import cxcywh_to_xyxy
from utils.data.config import load_dataset_config
from utils.data.folder import new_folder
from utils.data.shapes import CLASSES, draw_picture
from utils.evaluation.coco import category_ids

TRAIN, VAL = 320, 80
"""Number of pictures."""

KINDS = 10
"""The shapes, and the first four of them once more as kinds of their own where they are small."""

_SMALL = 64  # px of the longer side

Objects = NDArray[np.int64]  # (n, 5) kind, left, top, width, height in px


def draw_coco(root: Path, *, train: int = TRAIN, val: int = VAL) -> None:
    """Draw train2017, val2017 and their annotations, with all 80 categories, and a crowd in every fourth picture.

    Args:
        root: Folder to make.
        train: Number of pictures.
        val: Same.

    Raises:
        UserError: If `root` exists.
    """
    names = load_dataset_config("coco.yaml").names
    ids = category_ids(names, coco=True)
    categories = [{"id": i, "name": name} for i, name in zip(ids, names.values(), strict=True)]
    with new_folder(root) as folder:
        (folder / "annotations").mkdir()
        for split, count in (("train2017", train), ("val2017", val)):
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for number, picture, objects in _draw(split, count):
                height, width = picture.shape[:2]
                file = f"{number:012d}.jpg"
                _write_picture(folder / split / file, picture)
                images.append({"id": number, "file_name": file, "width": width, "height": height})
                for kind, x, y, w, h in objects.tolist():
                    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
                    known = {"image_id": number, "category_id": ids[kind], "iscrowd": 0, "area": w * h}
                    annotations.append({**known, "bbox": [x, y, w, h], "segmentation": [outline]})
                if number % 4 == 0:
                    mask = {"size": [height, width], "counts": [0, 9 * height, (width - 9) * height]}
                    known = {"image_id": number, "category_id": ids[0], "iscrowd": 1, "area": 9 * height}
                    annotations.append({**known, "bbox": [0, 0, 9, height], "segmentation": mask})
            rows = [{"id": i, **row} for i, row in enumerate(annotations, 1)]
            content = json.dumps({"images": images, "annotations": rows, "categories": categories})
            (folder / "annotations" / f"instances_{split}.json").write_text(content, encoding="utf-8")


def draw_visdrone(root: Path, *, train: int = TRAIN, val: int = VAL) -> None:
    """Draw the train and val splits of VisDrone-DET, with images and annotations, among them rows that do not count.

    Args:
        root: Folder to make.
        train: Number of pictures.
        val: Same.

    Raises:
        UserError: If `root` exists.
    """
    with new_folder(root) as folder:
        for split, count in (("train", train), ("val", val)):
            part = folder / f"VisDrone2019-DET-{split}"
            (part / "annotations").mkdir(parents=True)
            for number, picture, objects in _draw(split, count):
                stem = f"{number:07d}_00000_d_{number:07d}"
                _write_picture(part / "images" / f"{stem}.jpg", picture)
                # left, top, width, height, score, category, truncation, occlusion; a score of 0 does not count
                rows = [(x, y, w, h, 1, kind + 1, 0, number % 3) for kind, x, y, w, h in objects.tolist()]
                rows += [(0, 0, 30, 20, 0, 0, 0, 0), (40, 0, 12, 16, 0, 11, 1, 0)]  # an ignored region, "others"
                text = "".join(f"{','.join(map(str, row))}\n" for row in rows)
                (part / "annotations" / f"{stem}.txt").write_text(text, encoding="utf-8")


def _draw(split: str, count: int) -> Iterator[tuple[int, NDArray[Any], Objects]]:
    """Number from 1, picture and objects; each picture depends only on its split and number."""
    seed = list(split.encode())
    for number in tqdm(range(1, count + 1), desc=f"drawing {split}", unit="img"):
        picture, boxes = draw_picture(np.random.default_rng([*seed, number]))
        height, width = picture.shape[:2]
        cxcywh = boxes[:, 1:] * (width, height, width, height)
        x1, y1, x2, y2 = np.rint(cxcywh_to_xyxy(torch.from_numpy(cxcywh)).numpy()).T
        small = (np.maximum(x2 - x1, y2 - y1) < _SMALL) & (boxes[:, 0] < KINDS - len(CLASSES))
        kind = boxes[:, 0] + len(CLASSES) * small
        yield number, picture, np.stack((kind, x1, y1, x2 - x1, y2 - y1), axis=1).astype(np.int64)


def _write_picture(file: Path, picture: NDArray[Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
