"""COCO 2017: a JSON for each split (https://cocodataset.org/#format-data)."""

import logging
import shutil
from pathlib import Path

from tqdm import tqdm

from utils.data.coco_json import read_coco
from utils.data.config import load_dataset_config
from utils.data.converters.image_files import check_shape, move
from utils.data.converters.json_stream import stream_entries
from utils.data.labels import Labels, label_path_of
from utils.errors import UserError
from utils.files import write_text

logger = logging.getLogger(__name__)


def arrange(folder: Path) -> None:
    """Move the images below images/, write labels/<split> and the lists <split>.txt, for the splits that are there.

    train2017 and val2017 get the boxes of instances_<split>.json as `utils.data.coco_json` reads them, and an empty
    file for an image without objects. Those of test2017 are not public: it has only the list test-dev2017.txt.

    Args:
        folder: Holds annotations/ and train2017, val2017 or test2017, as unpacked, or the last in images/.

    Raises:
        UserError: If images or annotations are missing or bad.
    """
    images, annotations = folder / "images", folder / "annotations"
    for split in ("train2017", "val2017", "test2017"):
        if (folder / split).is_dir():
            move(folder / split, images / split)
    found = [split for split in ("train2017", "val2017") if (images / split).is_dir()]
    test = annotations / "image_info_test-dev2017.json"
    has_test = (images / "test2017").is_dir() and test.is_file()
    if not found and not has_test:
        raise UserError(f"{folder}: found no train2017 and no val2017, expected the images of COCO; unpack them there")
    shutil.rmtree(folder / "labels", ignore_errors=True)
    for name in ("train2017", "val2017", "test-dev2017"):
        (folder / f"{name}.txt").unlink(missing_ok=True)
    names = tuple(load_dataset_config("coco.yaml").names.values())
    for split in found:
        files = _write_labels(annotations / f"instances_{split}.json", images / split, names)
        _write_list(folder, split, split, files)
    if has_test:
        entries = stream_entries(test, ("images",))
        _write_list(folder, "test-dev2017", "test2017", [str(entry.get("file_name")) for _, entry in entries])


def _write_labels(file: Path, images: Path, names: tuple[str, ...]) -> list[str]:
    """Names of the images, whose labels are now written."""
    labels = label_path_of(images / "name.jpg").parent
    labels.mkdir(parents=True)
    origins = read_coco(file, images, names)
    for image, origin in tqdm(origins.items(), desc=f"labels of {images.name}", unit="img"):
        objects = origin.read()
        if objects.problems:
            raise UserError(str(objects.problems[0]))
        if objects.size:
            check_shape(file, objects.size, Path(image))
        for warning in objects.warnings:
            logger.info("%s", warning)
        (labels / f"{Path(image).stem}.txt").write_text(_rows(objects), encoding="utf-8")
    return [Path(image).name for image in origins]


def _rows(labels: Labels) -> str:
    return "".join(f"{int(index)} {x:.7g} {y:.7g} {w:.7g} {h:.7g}\n" for index, x, y, w, h in labels.boxes.tolist())


def _write_list(folder: Path, name: str, images: str, files: list[str]) -> None:
    write_text(folder / f"{name}.txt", "".join(f"./images/{images}/{file}\n" for file in sorted(files)))
