"""Pictures of what `utils.data.lint` found: the worst of each kind, and a data set in two plots."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from utils.data.config import Split
from utils.data.images import read_image
from utils.data.labels import Array
from utils.data.lint.boxes import corners_of
from utils.data.lint.findings import Finding
from utils.data.lint.survey import Item
from utils.show.draw import colour_of
from utils.show.figures import INK, new_figure, save_figure, tidy
from utils.show.fonts import font_for, one_line
from utils.show.pictures import write_image

MOST_TILES = 9
NAMED_CLASSES = 40

_TILE_W, _TILE_H, _CAPTION_H, _GAP = 480, 360, 40, 6  # pixels
_TEXT = 13
_MEANT = 40, 40, 235  # BGR of the boxes that a finding is about
_SMALL = 0.06  # part of the image; a smaller box is shown enlarged beside it
_COLOURS = ("#1d4ed8", "#e8590c", "#2b8a3e")  # of the splits
_STEPS = ((3.6, "-", 0.45), (1.8, "--", 1.0), (1.8, ":", 1.0))  # width, style and opacity: equal splits stay to be seen

Picture = NDArray[np.uint8]
Floats = NDArray[np.float64]


def save_finding_mosaics(directory: Path, kinds: Mapping[str, Sequence[Finding]], items: Iterable[Item]) -> list[Path]:
    """Write <level>-<kind>.jpg for each kind that images show: its heaviest findings with the boxes meant in red.

    Args:
        directory: Where to write.
        kinds: Findings by kind.
        items: What is known of the images.

    Returns:
        The files.
    """
    usable = {item.image: item for item in items if item.shape}
    files = []
    for kind, findings in kinds.items():
        shown = [finding for finding in findings if finding.images and all(image in usable for image in finding.images)]
        if not shown:
            continue
        worst = sorted(shown, key=lambda finding: finding.weight, reverse=True)[:MOST_TILES]
        file = directory / f"{worst[0].level}-{kind.replace(' ', '-')}.jpg"
        with ThreadPoolExecutor() as pool:
            panels = list(pool.map(lambda finding: _panels(finding, usable), worst))
        height = max(panel.shape[0] for part in panels for panel in part)
        write_image(file, _grid([_tile(finding, part, height) for finding, part in zip(worst, panels, strict=True)]))
        files.append(file)
    return files


def _grid(tiles: Sequence[Picture]) -> Picture:
    columns = min(3, len(tiles))
    rows = -(-len(tiles) // columns)
    height, width = tiles[0].shape[0] + _GAP, tiles[0].shape[1] + _GAP
    canvas = np.full((rows * height - _GAP, columns * width - _GAP, 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * height, index % columns * width
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def _panels(finding: Finding, items: Mapping[Path, Item]) -> list[Picture]:
    """All images of a finding with their boxes; where the boxes meant are small, their surroundings once more."""
    views = []
    for number, image in enumerate(finding.images):
        pixels, boxes = read_image(image), items[image].labels.boxes
        corners = corners_of(boxes) * np.tile(pixels.shape[1::-1], 2)
        meant = finding.boxes if number == 0 else ()
        views.append((pixels, corners, boxes[:, 0], meant))
        window = _window(corners[list(meant)], pixels.shape[1], pixels.shape[0])
        if window:
            x1, y1, x2, y2 = window
            views.append((pixels[y1:y2, x1:x2], corners - (x1, y1, x1, y1), boxes[:, 0], meant))
    width = (_TILE_W - _GAP * (len(views) - 1)) // len(views)
    return [_drawn(*view, width) for view in views]


def _tile(finding: Finding, panels: Sequence[Picture], height: int) -> Picture:
    """Panels side by side, above the text of their finding."""
    tile = np.full((height + _CAPTION_H, _TILE_W, 3), 245, np.uint8)
    room = _TILE_W / len(panels)
    for number, panel in enumerate(panels):
        h, w = panel.shape[:2]
        top, left = (height - h) // 2, round(number * room + (room - w) / 2)
        tile[top : top + h, left : left + w] = panel
    tile[height:] = _caption(finding)
    return tile


def _window(corners: Floats, width: int, height: int) -> tuple[int, int, int, int] | None:
    """x1, y1, x2, y2 of the surroundings of small boxes, if they are small."""
    if not len(corners):
        return None
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    side = (high - low).max()
    if side > _SMALL * max(width, height):
        return None
    half = max(3 * side, 24) / 2
    (x, y) = (low + high) / 2
    window = max(int(x - half), 0), max(int(y - half), 0), min(int(x + half) + 1, width), min(int(y + half) + 1, height)
    return window if window[0] < window[2] and window[1] < window[3] else None


def _drawn(pixels: Picture, corners: Floats, classes: Array, meant: Sequence[int], width: int) -> Picture:
    """An image scaled to fit, with its boxes in the colours of their classes, and in red and on top those meant."""
    h, w = pixels.shape[:2]
    scale = min(width / w, _TILE_H / h)
    size = max(round(w * scale), 1), max(round(h * scale), 1)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    panel = np.ascontiguousarray(cv2.resize(pixels, size, interpolation=interpolation), np.uint8)
    limit = np.tile(size, 2) - 1
    for row in sorted(range(len(corners)), key=lambda row: row in meant):
        colour, line = (_MEANT, 2) if row in meant else (colour_of(int(classes[row])), 1)
        around = corners[row] * scale + np.array((-line, -line, line, line))  # so that a small box stays to be seen
        x1, y1, x2, y2 = np.rint(around).clip(0, limit).astype(int).tolist()
        cv2.rectangle(panel, (x1, y1), (x2, y2), colour, line)
    return panel


def _caption(finding: Finding) -> Picture:
    """A strip with the place, and with what was found there; of images only folder and name are shown."""
    text = finding.found
    for image in finding.images:
        text = text.replace(str(image), f"{image.parent.name}/{image.name}")
    where = f"{finding.file.parent.name}/{finding.file.name}" + (f":{finding.line}" if finding.line else "")
    strip = Image.new("RGB", (_TILE_W, _CAPTION_H), (245, 245, 245))
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate((where, text)):
        shown = _shortened(one_line(line), _TILE_W - 12)
        draw.text((6, 3 + 17 * number), shown, fill=(30, 30, 30), font=font_for(shown, _TEXT))
    return np.asarray(strip)


def _shortened(text: str, width: int) -> str:
    """Text cut in its middle to fit a width in pixels: paths differ at their ends."""
    font = font_for(text, _TEXT)
    if font.getlength(text) <= width:
        return text
    keep = next(n for n in range(len(text) // 2, 0, -1) if font.getlength(f"{text[:n]}...{text[-n:]}") <= width)
    return f"{text[:keep]}...{text[-keep:]}"


def save_overview(
    file: Path, counts: Mapping[Split, NDArray[np.int64]], sizes: Mapping[Split, Floats], names: Mapping[int, str]
) -> None:
    """Write how often each class occurs in each split, and how large its boxes are.

    Args:
        file: .png or .jpg
        counts: Split -> (nc,) objects.
        sizes: Split -> (n, 2) width and height in pixels.
        names: Class index -> name.
    """
    nc = len(names)
    named = nc <= NAMED_CLASSES
    figure = new_figure(12, max(5.0, 0.22 * nc) if named else 6)
    left, right = figure.subplots(1, 2)
    thickness = 0.8 / max(len(counts), 1)
    sides = {split: np.sqrt(size.prod(axis=1)) for split, size in sizes.items()}
    known = np.concatenate([np.array((20.0, 50.0)), *sides.values()])
    edges = np.geomspace(max(known.min(), 1), known.max(), 50)
    for number, split in enumerate(counts):
        at = np.arange(nc) + number * thickness
        left.barh(at, counts[split], thickness, color=_COLOURS[number], label=split)
        width, style, opacity = _STEPS[number]
        right.hist(
            sides[split].clip(edges[0], edges[-1]),
            edges,
            weights=np.full(len(sides[split]), 100 / max(len(sides[split]), 1)),
            histtype="step",
            linewidth=width,
            linestyle=style,
            alpha=opacity,
            color=_COLOURS[number],
            label=split,
        )
    tidy(left, title="Objects of each class", xlabel="Objects", ylabel="" if named else "Class")
    tidy(
        right,
        title="Size of the boxes",
        xlabel="Side (root of the area), pixels of the image",
        ylabel="Boxes, % of the split",
    )
    left.grid(False, axis="y")
    left.invert_yaxis()
    if named:
        left.set_yticks(np.arange(nc) + 0.4 - thickness / 2, list(names.values()), parse_math=False)
    right.set_xscale("log")
    right.set_xticks([n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if edges[0] <= n <= edges[-1]])
    right.xaxis.set_major_formatter("{x:g}")
    right.minorticks_off()
    for axes in (left, right):
        axes.legend(frameon=False, labelcolor=INK)
    save_figure(figure, file, dpi=110)
