"""Global Wheat Head Dataset 2020: one folder for each field, with YOLO labels (https://zenodo.org/record/4298502)."""

from pathlib import Path

from utils.data.converters.image_files import move
from utils.data.listing import is_image
from utils.errors import UserError

_FIELDS = (
    *("arvalis_1", "arvalis_2", "arvalis_3", "ethz_1", "rres_1", "inrae_1", "usask_1"),  # train
    *("utokyo_1", "utokyo_2", "nau_1", "uq_1"),  # test
)


def arrange(folder: Path) -> None:
    """Move the folders of the fields to images/ and labels/, and their JSON to annotations/.

    Args:
        folder: Holds what global-wheat-codalab-official.zip and GlobalWheat2020_labels.zip unpack to, at any depth.

    Raises:
        UserError: If images or labels of a field are missing, or there twice.
    """
    for field in _FIELDS:
        found = [path for path in sorted(folder.rglob(field)) if path.is_dir()]
        images = [path for path in found if any(is_image(file.name) for file in path.iterdir())]
        labels = [path for path in found if path not in images and any(path.glob("*.txt"))]
        for kind, candidates in (("images", images), ("labels", labels)):
            _move_only(candidates, folder / kind / field, kind)
        for file in sorted(folder.rglob(f"{field}.json")):
            _move_unless_there(file, folder / "annotations" / file.name)


def _move_only(candidates: list[Path], target: Path, kind: str) -> None:
    if len(candidates) != 1:
        places = ", ".join(map(str, candidates)) or "none"
        remedy = "unpack the archive of the images and the one of the labels there, each once"
        raise UserError(f"{target}: found {places} with {kind} of {target.name}, expected one folder; {remedy}")
    _move_unless_there(candidates[0], target)


def _move_unless_there(source: Path, target: Path) -> None:
    if source != target:
        move(source, target)
