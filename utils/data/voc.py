"""Pascal VOC data sets as YOLO data sets: `python -m utils.data.voc ROOT OUT`."""

import argparse
import logging
import shutil
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from utils.cli import run_command
from utils.data.converters.image_files import check_shape
from utils.data.folder import new_folder
from utils.data.listing import IMAGE_SUFFIXES, read_names
from utils.data.voc_xml import find_classes, parse_annotation
from utils.errors import UserError
from utils.files import write_yaml

logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{self.prog}: {message}; see --help")


def convert_voc(
    root: Path, out: Path, splits: Sequence[str] = ("train", "val", "test"), classes: Sequence[str] | None = None
) -> Path:
    """Write a Pascal VOC data set as a new YOLO data set: images/<split>/, labels/<split>/ and data.yaml.

    Images are copied. The VOC folder is only read; the new one appears when all is done.

    Args:
        root: Folder with JPEGImages, Annotations and ImageSets/Main/<split>.txt.
        out: Folder to make.
        splits: Names of the lists in ImageSets/Main; those that do not exist are left out with a note in the log.
        classes: Class names by index; by default all that occur, sorted.

    Returns:
        The data set YAML.

    Raises:
        UserError: If `out` exists, no list is there, or an image or annotation is missing or bad.
    """
    lists = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in splits}
    ids = {split: read_names(file) for split, file in lists.items() if file.is_file()}
    if not ids:
        raise UserError(
            f"{root}: found none of {', '.join(str(file.relative_to(root)) for file in lists.values())}, "
            "expected a Pascal VOC folder with JPEGImages, Annotations and ImageSets"
        )
    for split in lists.keys() - ids.keys():
        logger.info("%s: no such list, there will be no %s split", lists[split], split)
    annotations = {name: root / "Annotations" / f"{name}.xml" for names in ids.values() for name in names}
    if classes is None:
        classes = find_classes(annotations.values())
    images = _find_images(root / "JPEGImages", annotations)

    with new_folder(out) as folder, tqdm(total=sum(map(len, ids.values())), desc="converting", unit="img") as bar:
        for split, names in ids.items():
            for kind in ("images", "labels"):
                (folder / kind / split).mkdir(parents=True)
            for name in names:
                write_labels(annotations[name], images[name], folder / "labels" / split / f"{name}.txt", classes)
                shutil.copyfile(images[name], folder / "images" / split / images[name].name)
                bar.update()
        content = {"path": str(out.absolute()), **{split: f"images/{split}" for split in ids}}
        write_yaml(folder / "data.yaml", {**content, "names": dict(enumerate(classes))})
    return out / "data.yaml"


def write_labels(annotation: Path, image: Path, file: Path, classes: Sequence[str]) -> None:
    """Write the objects of one annotation as a YOLO label file, each once, see `parse_annotation`.

    Args:
        annotation: The XML.
        image: Its image.
        file: What to write.
        classes: Class names by index.

    Raises:
        UserError: If the annotation is missing or bad, or its size is not that of the image.
    """
    parsed = parse_annotation(annotation, classes)
    check_shape(annotation, parsed.size, image)
    for warning in parsed.warnings:
        logger.warning("%s", warning)
    rows = dict.fromkeys(parsed.rows)
    if repeated := len(parsed.rows) - len(rows):
        logger.warning("%s: left out %d objects that repeat another", annotation, repeated)
    file.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def _find_images(folder: Path, names: typing.Iterable[str]) -> Mapping[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected the images of a Pascal VOC data set there")
    found = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES}
    for name in names:
        if name not in found:
            raise UserError(f"{folder / name}.jpg: no such image, but a list names it; restore it or correct the list")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = _Parser(prog="python -m utils.data.voc", description="Pascal VOC -> YOLO data set")
    parser.add_argument("root", type=Path, help="folder with JPEGImages, Annotations and ImageSets")
    parser.add_argument("out", type=Path, help="folder to make")
    arguments = parser.parse_args(argv)
    file = convert_voc(arguments.root, arguments.out)
    logger.info("done: train with --data %s", file)


if __name__ == "__main__":
    sys.exit(run_command(main))
