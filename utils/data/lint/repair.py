"""A copy of a data set without what training refuses; the original is only read."""

import logging
import shutil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.data.config import Split
from utils.data.folder import new_folder
from utils.data.labels import TOLERANCE, Array, Labels
from utils.data.lint.boxes import corners_of
from utils.data.lint.duplicates import is_shared
from utils.data.lint.findings import Finding
from utils.data.lint.folders import shared_labels
from utils.data.lint.survey import Item, Survey
from utils.data.lint.twins import ImageInSplit, superfluous
from utils.errors import UserError
from utils.files import disambiguate, write_csv, write_yaml

logger = logging.getLogger(__name__)

_HOPELESS = frozenset({"missing source", "bad source", "no labels"})
_MENDED = frozenset({"duplicate row", "clipped coordinate", "box over the border", "no area"})
_NO_TRUTH = frozenset({"unreadable labels", "size of another image"})  # of the whole image

Change = tuple[object, object, str, str]  # file, line, what was done, why


def write_copy(survey: Survey, findings: list[Finding], out: Path) -> Path:
    """Write images/<split>/, labels/<split>/, data.yaml and changes.csv, all at once when everything is there.

    Rows that cannot be used and repeated ones are dropped, coordinates cut at the border of the image. Images are left
    out that cannot be read, have no row left that can be used, share a label file with another, or are there once more
    (see `utils.data.lint.twins`).

    Args:
        survey: The data set.
        findings: All that was found in it.
        out: Folder to make.

    Returns:
        The new data set YAML.

    Raises:
        UserError: If `out` exists, whole sources are missing or bad, or nothing is left of a split.
    """
    hopeless = next((finding for finding in findings if finding.kind in _HOPELESS), None)
    if hopeless:
        raise UserError(f"{hopeless}; no copy was written, this cannot be mended by leaving something out")
    changes: list[Change] = [
        (finding.file, finding.line or "", "left out", str(finding.found))
        for finding in findings
        if finding.kind in {"missing image", "no image", "orphan labels", "unused file"}
    ]
    origins = {split: next(o for o in survey.splits if is_shared(survey, o, split)) for split in survey.splits}
    own = {split: items for split, items in survey.splits.items() if origins[split] == split}
    out_of_place = _out_of_place(own)
    with new_folder(out) as folder, tqdm(total=sum(map(len, own.values())), desc="copying", unit="img") as bar:
        for split, items in own.items():
            kept = 0
            taken: set[str] = set()
            for item in items:
                reason = _reason(item) or out_of_place.get((split, item.image))
                if reason:
                    changes.append((item.image, "", "left out", reason))
                else:
                    _copy(item, folder, split, taken)
                    changes += _row_changes(item)
                    kept += 1
                bar.update()
            if not kept:
                raise UserError(
                    f"{survey.config.file}: nothing is left of {split}, expected some image that can be used"
                )
        where = {"path": str(out.absolute())} | {str(split): f"images/{origins[split]}" for split in survey.splits}
        write_yaml(folder / "data.yaml", {**where, "names": survey.config.names})
        write_csv(folder / "changes.csv", [("file", "line", "change", "reason"), *changes])
    logger.info("%s: %d changes, listed in %s", out, len(changes), out / "changes.csv")
    return out / "data.yaml"


def _out_of_place(splits: dict[Split, list[Item]]) -> dict[ImageInSplit, str]:
    """Images that are good in themselves, but not where they are, and why."""
    usable = {split: [item for item in items if not _reason(item)] for split, items in splits.items()}
    shared = dict(shared_labels(dict.fromkeys(item for items in usable.values() for item in items)))
    alone = {split: [item for item in items if item not in shared] for split, items in usable.items()}
    return superfluous(alone) | {
        (split, item.image): f"shares its label file with {shared[item].image}"
        for split, items in usable.items()
        for item in items
        if item in shared
    }


def _reason(item: Item) -> str | None:
    """Why an image cannot be used, if so."""
    for finding in item.findings:
        if finding.file == item.image and finding.level == "error":
            return finding.found
        if finding.kind in _NO_TRUTH:
            return f"{finding.kind}: {finding.found}"
    if item.labels.problems and not len(item.labels.boxes):
        return f"no row of {item.origin} can be used"
    return None


def _row_changes(item: Item) -> list[Change]:
    dropped: list[Change] = [
        (problem.file, problem.line or "", "dropped", problem.found) for problem in item.labels.problems
    ]
    mended: list[Change] = [
        (finding.file, finding.line or "", "mended", finding.found)
        for finding in item.findings
        if finding.kind in _MENDED
    ]
    return dropped + mended


def _copy(item: Item, folder: Path, split: Split, taken: set[str]) -> None:
    """Copy an image and write its labels; both get another name if an image of another folder has it."""
    stem = disambiguate(item.image.stem, lambda name: name.casefold() in taken)
    taken.add(stem.casefold())
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(item.image, folder / "images" / split / f"{stem}{item.image.suffix}")
    (folder / "labels" / split / f"{stem}.txt").write_text(_rows(item), encoding="utf-8")


def _rows(item: Item) -> str:
    """The label file as it was if it is good, else made of what could be read."""
    changed = item.labels.problems or any(finding.kind in _MENDED for finding in item.findings)
    if item.origin.suffix == ".txt" and not changed:
        return item.origin.read_text(encoding="utf-8-sig") if item.origin.exists() else ""
    return _format(item.labels)


def _format(labels: Labels) -> str:
    lines = []
    for box, polygon in zip(labels.boxes, labels.polygons, strict=True):
        values = _cut(box[1:]) if polygon is None else polygon.ravel()
        lines.append(" ".join((str(int(box[0])), *map(str, values))) + "\n")
    return "".join(dict.fromkeys(lines))  # cut boxes can be the same


def _cut(box: Array) -> Array:
    """cx, cy, w, h of a box, cut at the border of the image along the axes where more than rounding is beyond it."""
    low, high = corners_of(np.insert(box, 0, 0)[None]).reshape(2, 2)
    beyond = (low < -TOLERANCE) | (high > 1 + TOLERANCE)
    low, high = low.clip(0, 1), high.clip(0, 1)
    cut = np.concatenate(((low + high) / 2, high - low)).astype(np.float32)
    return np.where(np.tile(beyond, 2), cut, box)
