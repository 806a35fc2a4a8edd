"""The comparison of two runs, for people: files and lines of the log."""

import json
import logging
from pathlib import Path

import numpy as np

from utils.evaluation.compare import BETTER, CONFIDENCE, MIN_IMAGES, WORSE, Comparison, Difference
from utils.files import write_csv, write_text

logger = logging.getLogger(__name__)

_LOGGED = 10


def save_comparison(folder: Path, comparison: Comparison) -> None:
    """Write comparison.json, comparison.csv and comparison.png.

    Args:
        folder: Where the files go.
        comparison: What to write.
    """
    file, table, picture = (folder / f"comparison.{suffix}" for suffix in ("json", "csv", "png"))
    from utils.show.comparison import save_comparison_plot

    write_text(file, json.dumps(comparison.to_dict(), indent=2) + "\n")
    parts = ("this", "baseline", "delta", "low", "high", "verdict")
    rows: list[tuple[object, ...]] = [
        ("class", "name", "images", "instances", *(f"{m}_{p}" for m in ("map50", "map") for p in parts)),
        ("", "all", comparison.images, comparison.instances, *_cells(comparison.map50), *_cells(comparison.map)),
    ]
    for row in comparison.per_class:
        rows.append((row.index, row.name, row.images, row.instances, *_cells(row.map50), *_cells(row.map)))
    write_csv(table, rows)
    save_comparison_plot(picture, comparison)


def _cells(difference: Difference) -> tuple[object, ...]:
    interval = difference.interval or (None, None)
    return difference.this, difference.baseline, difference.delta, *interval, difference.verdict


def log_comparison(comparison: Comparison) -> None:
    """Log what a reader needs in order to believe in a difference, or not."""
    percent = round(100 * CONFIDENCE)
    logger.info("Compared with the other run on the same %d images; is the difference real?", comparison.images)
    logger.info("%22s%11s%11s%11s%20s   %s", "", "this", "other", "change", f"{percent} % interval", "verdict")
    _log_row("mAP50", comparison.map50)
    _log_row("mAP50-95", comparison.map)
    tested = [row for row in comparison.per_class if row.map.interval]
    clear = [row for row in tested if row.map.verdict in (BETTER, WORSE)]
    if len(comparison.per_class) > 1:
        for row in sorted(clear, key=lambda row: -abs(row.map.delta))[:_LOGGED]:
            _log_row(row.name, row.map)
        logger.info(
            "Classes by mAP50-95: %d better, %d worse, %d without a clear difference (about %.0f of these %d would "
            "look different by luck alone), %d in fewer than %d images and not judged",
            sum(row.map.verdict == BETTER for row in clear),
            sum(row.map.verdict == WORSE for row in clear),
            len(tested) - len(clear),
            np.ceil(len(tested) * (1 - CONFIDENCE)),
            len(tested),
            len(comparison.per_class) - len(tested),
            MIN_IMAGES,
        )
    logger.info("The interval is about other images, not about training again: repeat that with other seeds to know.")


def _log_row(name: str, difference: Difference) -> None:
    values = f"{difference.this:11.3f}{difference.baseline:11.3f}{difference.delta:+11.4f}"
    interval = f"{difference.interval[0]:+.4f} to {difference.interval[1]:+.4f}" if difference.interval else ""
    logger.info("%22s%s%20s   %s", name, values, interval, difference.verdict)
