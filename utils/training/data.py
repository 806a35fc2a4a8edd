"""What a training learns from: images and labels, their loaders, and how often each image is drawn."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.data.config import DatasetConfig, load_dataset_config
from utils.data.loader import DetectionLoader, make_loader
from utils.data.sampling import class_balanced_weights, image_weights
from utils.data.scan import Sample, scan_samples
from utils.distributed import World
from utils.errors import UserError
from utils.training.hyp import Hyp, load_hyp, parse_hyp
from utils.training.options import TrainOptions
from utils.training.results import read_rows
from utils.training.resume import Resume

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Data:
    """What a training learns from, checked.

    Attributes:
        hyp: Hyperparameters.
        dataset: Where the images come from.
        names: Class index -> name.
        train: Images to learn from.
        val: Images to evaluate on.
    """

    hyp: Hyp
    dataset: DatasetConfig
    names: dict[int, str]
    train: list[Sample]
    val: list[Sample]


def read_data(options: TrainOptions, resume: Resume | None) -> Data:
    """Read and check hyperparameters, images and labels.

    Args:
        options: Of the command.
        resume: The run to continue, whose hyperparameters are kept.

    Raises:
        UserError: If one of them cannot be used, or the run to continue is further than the epochs wished for.
    """
    if resume:
        hyp = parse_hyp(resume.training["hyp"], str(resume.file))
        rows, done = read_rows(resume.directory / "results.csv"), resume.training["epoch"]
        if options.epochs < done:
            raise UserError(
                f"--epochs {options.epochs}: the run to resume has completed {done} epochs; give {done} or more"
            )
        if len(rows) < done:
            log.warning(
                "%s: found %d of %d epochs; the others are lost", resume.directory / "results.csv", len(rows), done
            )
    else:
        hyp = load_hyp(options.hyp)
    dataset = load_dataset_config(options.data)
    train, val = dataset.sources("train"), dataset.sources("val")
    scan = functools.partial(scan_samples, nc=dataset.nc, single_cls=options.single_cls)
    return Data(
        hyp=hyp,
        dataset=dataset,
        names={0: "item"} if options.single_cls and dataset.nc > 1 else dataset.names,
        train=scan(train),
        val=scan(val, require_labels=False),
    )


def make_loaders(
    options: TrainOptions, data: Data, batch_size: int, imgsz: int, stride: int, seed: int, world: World
) -> tuple[DetectionLoader, DetectionLoader, DetectionLoader]:
    """The loaders of the training split, of the whole validation split, and of this process's share of it.

    Args:
        options: Of the command.
        data: What to load.
        batch_size: Images of all processes together.
        imgsz: Long side of the network input, pixels.
        stride: Sides of rectangular batches are multiples of it.
        seed: Of everything drawn.
        world: The processes that share the work.
    """
    load = functools.partial(make_loader, imgsz=imgsz, stride=stride, workers=options.workers, seed=seed)
    share = functools.partial(load, rank=world.rank, world_size=world.size, local_ranks=world.local_size, fill=True)
    kinds: dict[str, Any] = {"ram": "ram", "disk": "disk"}
    cache = kinds.get(options.cache)
    val_cache = kinds["ram"] if options.cache == "val" else cache
    loader = share(
        data.train,
        batch_size=batch_size,
        hyp=data.hyp,
        nine=data.hyp.mosaic9,
        rect=options.rect,
        quad=options.quad,
        shuffle=True,
        cache=cache,
    )
    validation: dict[str, Any] = {"batch_size": 2 * batch_size, "rect": True, "pad": 0.5}
    if world.size == 1:
        val_loader = load(data.val, cache=val_cache, **validation)
        return loader, val_loader, val_loader
    return loader, load(data.val, **validation), share(data.val, cache=val_cache, **validation)


def weighting(options: TrainOptions, data: Data) -> Callable[[list[float]], NDArray[np.float64] | None]:
    """How often each image is drawn, by the mAP of each class."""
    if options.image_weights:
        return lambda class_ap: image_weights(data.train, np.array(class_ap))
    weights = class_balanced_weights(data.train, len(data.names)) if options.class_balanced else None
    return lambda _: weights
