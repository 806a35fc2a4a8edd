"""COCO's own numbering of classes, and its official evaluation as a second opinion on our mAP."""

import contextlib
import importlib.util
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from utils.errors import UserError

STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

_UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
_CATEGORY_IDS = tuple(index for index in range(1, 91) if index not in _UNUSED_IDS)
_CLASS_NAMES = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,
bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,
snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,
knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,
dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,
vase,scissors,teddy bear,hair drier,toothbrush""".replace("\n", "").split(",")
)


def is_coco(names: dict[int, str], stems: Iterable[str]) -> bool:
    """Whether a data set is COCO or a part of it: its 80 class names in order, and images named by number.

    Args:
        names: Class index -> name.
        stems: Image file names without suffix.
    """
    return tuple(names.values()) == _CLASS_NAMES and all(stem.isascii() and stem.isdigit() for stem in stems)


def category_ids(names: dict[int, str], *, coco: bool) -> list[int]:
    """Class index -> `category_id` of the results file: COCO's ids, which have gaps, else the index itself."""
    return list(_CATEGORY_IDS) if coco else list(range(len(names)))


def coco_statistics(
    annotations: Path, predictions: Path, image_ids: Sequence[int | str], categories: Mapping[int, str]
) -> dict[str, float]:
    """The twelve numbers of the official COCO box evaluation.

    Args:
        annotations: Ground truth, for example instances_val2017.json.
        predictions: What `CocoJsonWriter` wrote.
        image_ids: The images evaluated; the others of the ground truth are left out.
        categories: `category_id` of the predictions -> class name.

    Returns:
        `STATISTICS` name -> value, -1 where COCO has nothing to average.

    Raises:
        UserError: If pycocotools is not installed, or the annotations do not know an image or a category.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise UserError("the COCO evaluation needs pycocotools; install it with pip install pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth = COCO(str(annotations))
        known = {category["id"]: category["name"] for category in truth.dataset["categories"]}
        for index, name in categories.items():
            if known.get(index) != name:
                found = f"category {index} is {known.get(index, 'missing')!r} there and {name!r} in the data set"
                raise UserError(f"{annotations}: {found}, its numbers would mean nothing")
        unknown = set(image_ids) - set(truth.getImgIds())
        if unknown:
            example = sorted(map(str, unknown))[0]
            raise UserError(f"{annotations}: does not know {len(unknown)} of the evaluated images, such as {example}")
        if not json.loads(predictions.read_text(encoding="utf-8")):
            return dict.fromkeys(STATISTICS, 0.0)
        evaluation = COCOeval(truth, truth.loadRes(str(predictions)), "bbox")
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(STATISTICS, map(float, evaluation.stats), strict=True))
