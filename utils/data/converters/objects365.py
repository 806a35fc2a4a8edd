"""Objects365 v2: a COCO-style JSON for each split, images in patches (https://www.objects365.org)."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from utils.data.converters.coco_table import read_coco_table
from utils.data.converters.image_files import check_shape, list_names, move, warn_of_missing
from utils.data.converters.label_files import LabelledImage, write_label_files
from utils.errors import UserError

_NC = 365


def arrange(folder: Path) -> None:
    """Move the images out of their patches to images/train and images/val, and write labels/, for the splits there are.

    A class is the position of a category in the JSON. Each JSON is read once, entry by entry; what is kept of the 26
    million boxes and 1.7 million images of the training split takes about 2 GB of memory.

    Args:
        folder: Holds the unpacked patches of a split below images/<split> or <split>, and zhiyuan_objv2_<split>.json,
            all at any depth.

    Raises:
        UserError: If images or a JSON are missing, or it is bad.
    """
    splits = [split for split in ("train", "val") if _gather_images(folder, split)]
    if not splits:
        raise UserError(f"{folder}: found no images below images/train and images/val; unpack the patches there")
    files = {split: next(folder.rglob(f"zhiyuan_objv2_{split}.json"), None) for split in splits}
    for split, file in files.items():
        if file is None:
            raise UserError(f"{folder}: found images/{split}, but no zhiyuan_objv2_{split}.json; put it there")
    tables = [(file, folder / "images" / split) for split, file in files.items() if file]
    write_label_files(folder / "labels", (image for table in tables for image in _convert(*table)))


def _gather_images(folder: Path, split: str) -> bool:
    """Move all images of a split into one folder, and say whether there are any."""
    target = folder / "images" / split
    found = False
    for source in (target, folder / split):
        names = sorted(list_names(source)) if source.is_dir() else []
        found |= bool(names)
        for name in tqdm(names, desc=f"moving images of {split}", unit="img"):
            image = source / name
            if image.parent != target:
                move(image, target / image.name)
    return found


def _convert(file: Path, images: Path) -> Iterator[LabelledImage]:
    table = read_coco_table(file, ("file_name", "height", "width"), ("categories",))
    ids = [entry.get("id") for entry in table.others["categories"] if isinstance(entry, dict)]
    classes = {index: position for position, index in enumerate(ids) if isinstance(index, int)}
    if len(classes) != _NC:
        found = f"{len(classes)} different categories"
        raise UserError(f"{file}: found {found}, expected the {_NC} of Objects365 v2; restore the official file")
    present = list_names(images)
    missing: list[str] = []
    for (path, height, width), boxes in table.by_image(classes):
        name = PurePosixPath(str(path)).name
        if name not in present:
            missing.append(name)
        elif not (type(height) is type(width) is int and min(height, width) > 0):
            raise UserError(f"{file}: found a size of {width!r} x {height!r} for {path}, expected pixels; correct it")
        else:
            check_shape(file, (height, width), images / name)
            yield LabelledImage(images / name, (height, width), boxes)
    warn_of_missing(file, missing)
    if len(missing) == len(table.images):
        raise UserError(f"{file}: found none of its images in {images}, expected them there; unpack the patches again")
