"""Records of evaluations that never took place."""

import numpy as np

from utils.evaluation.record import Record


def pair_of_records(
    rng: np.random.Generator, images: int, skills: tuple[float, float], shares: tuple[float, ...] = (0.6, 0.3, 0.1)
) -> tuple[Record, Record]:
    """Two detectors on the same images: each finds the objects that are not too hard for it, and dreams up others."""
    nc = len(shares)
    label_counts = rng.poisson(2, images).astype(np.int32)
    where = np.repeat(np.arange(images), label_counts)
    label_cls = rng.choice(nc, len(where), p=shares).astype(np.int32)
    label_xyxy = rng.random((len(where), 4)).astype(np.float32)
    hard = rng.random(len(where)) + 0.3 * rng.random(images)[where]

    def record(skill: float) -> Record:
        found = hard < skill + 0.15 * rng.standard_normal(len(where))
        dreamt = rng.integers(images, size=round(1.5 * images))
        image = np.concatenate((where[found], dreamt))
        cls = np.concatenate((label_cls[found], rng.choice(nc, len(dreamt), p=shares)))
        conf = 1 / (1 + np.exp(-np.concatenate((rng.normal(0.5, 1, found.sum()), rng.normal(-0.7, 1, len(dreamt))))))
        tp = np.zeros((len(image), 10), dtype=bool)
        tp[: found.sum()] = rng.random(found.sum())[:, None] > np.linspace(0, 0.9, 10)
        order = np.lexsort((-conf, image))
        return Record(
            classes=np.array([f"class {i}" for i in range(nc)]),
            images=np.array([f"{i:05d}.jpg" for i in range(images)]),
            label_counts=label_counts,
            label_cls=label_cls,
            label_xyxy=label_xyxy,
            detection_counts=np.bincount(image, minlength=images).astype(np.int32),
            conf=conf[order].astype(np.float32),
            cls=cls[order].astype(np.int32),
            tp=tp[order],
        )

    return record(skills[0]), record(skills[1])


def rearranged(record: Record, order: np.ndarray) -> Record:
    """The same evaluation, with the images in another order."""
    labels = np.concatenate([np.flatnonzero(record.label_image == i) for i in order])
    found = np.concatenate([np.flatnonzero(record.detection_image == i) for i in order])
    return Record(
        classes=record.classes,
        images=record.images[order],
        label_counts=record.label_counts[order],
        label_cls=record.label_cls[labels],
        label_xyxy=record.label_xyxy[labels],
        detection_counts=record.detection_counts[order],
        conf=record.conf[found],
        cls=record.cls[found],
        tp=record.tp[found],
    )
