"""What detect.py looks at: an image, a video, a folder, a glob pattern or a list file, told apart and checked."""

import glob
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2

from utils.data.images import Image, read_image
from utils.data.listing import IMAGE_SUFFIXES, read_lines
from utils.errors import UserError

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    {".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".wmv"},
)

FALLBACK_FPS = 30.0
"""Frames per second of a video that does not tell."""

_SUPPORTED = "give an image, a video, a folder, a glob pattern such as 'folder/**/*.jpg', or a .txt list of those"


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture to detect on.

    Attributes:
        path: The image or video file it comes from.
        image: BGR uint8 (h, w, 3), upright.
        kind: Whether `path` is an image or a video.
        index: Number of the file in the source, from 1.
        total: Number of files in the source.
        number: Of a video: number of the frame from 1, counting only frames that were not skipped.
        fps: Of a video: frames per second that were not skipped.
        frame_count: Of a video: frames that will not be skipped, as its header announces; None if it does not.
    """

    path: Path
    image: Image
    kind: Literal["image", "video"]
    index: int
    total: int
    number: int | None = None
    fps: float | None = None
    frame_count: int | None = None

    @property
    def stem(self) -> str:
        """Name for files about this frame, without suffix: `bus`, or `clip_7` for frame 7 of a video."""
        return self.path.stem if self.number is None else f"{self.path.stem}_{self.number}"

    def __str__(self) -> str:
        count = "" if self.number is None else f" ({self.number}/{self.frame_count or '?'})"
        return f"{self.kind} {self.index}/{self.total}{count} {self.path}"


@dataclass(frozen=True)
class Source:
    """The frames of some image and video files, read one at a time.

    Attributes:
        files: Existing files with a known suffix, images before videos.
        vid_stride: Of a video, only every vid_stride-th frame is used.
    """

    files: tuple[Path, ...]
    vid_stride: int = 1

    def __iter__(self) -> Iterator[Frame]:
        """Yield every frame of the files that can be decoded.

        Raises:
            UserError: At the end, if a file could not be decoded; the log has the others.
        """
        problems: list[str] = []
        for index, path in enumerate(self.files, 1):
            try:
                _check_readable(path)
                if _is_video(path):
                    yield from self._video_frames(path, index)
                else:
                    yield Frame(path, read_image(path), "image", index, len(self.files))
            except UserError as error:
                problems.append(str(error))
        for problem in problems[1:]:
            logger.error(problem)
        if problems:
            more = f" ({len(problems)} of {len(self.files)} files cannot be used)" if len(self.files) > 1 else ""
            raise UserError(f"{problems[0]}{more}")

    def _video_frames(self, path: Path, index: int) -> Iterator[Frame]:
        video = _open_video(path)
        try:
            announced = _announced_frames(video)
            fps = _fps(video) / self.vid_stride
            count = None if announced is None else announced // self.vid_stride
            number, grabbed = 0, 0
            while video.grab():
                grabbed += 1
                if grabbed % self.vid_stride:
                    continue
                ok, image = video.retrieve()
                if not ok:
                    break
                number += 1
                yield Frame(path, image, "video", index, len(self.files), number, fps, count)
        finally:
            video.release()
        if number == 0:
            raise UserError(
                f"{path}: no frame left to detect on, {grabbed} could be read and --vid-stride is {self.vid_stride}; "
                "use a smaller stride or restore the file"
            )
        if announced is not None and grabbed < announced:
            logger.warning("%s: the video ended after %d of %d announced frames", path, grabbed, announced)


def open_source(source: str, *, vid_stride: int = 1) -> Source:
    """Find and check all that a source names, before anything is written.

    What exists on disk is always taken as a file or folder, whatever its name looks like.

    Args:
        source: Path of an image, a video, a folder (not searched recursively) or a .txt list of sources, one a line
            and relative to the list; or a glob pattern, in which ** stands for any number of folders.
        vid_stride: Of a video, use only every vid_stride-th frame.

    Raises:
        UserError: If nothing usable is there, a file is of an unknown type, a line of a list names nothing, no file can
            be decoded, or the source is of a kind that is not supported.
    """
    if vid_stride < 1:
        raise UserError(f"--vid-stride {vid_stride}: expected 1 or more")
    path = Path(source)
    if path.suffix.lower() == ".txt" and path.is_file():
        found = _read_list(path)
    else:
        found = _find(source, f"--source {source}")
    found = list(dict.fromkeys(found))
    images = [file for file in found if not _is_video(file)]
    videos = [file for file in found if _is_video(file)]
    checked = Source((*images, *videos), vid_stride)
    next(iter(checked))  # decodes the first frame: a source of damaged files only is refused here already
    return checked


def _find(source: str, where: str) -> list[Path]:
    """The files one path or pattern names, sorted; `where` begins the message of an error."""
    path = Path(source)
    if path.is_file():
        if not _is_usable(path):
            raise UserError(f"{where}: not an image or video, expected a name ending in {_suffixes()}")
        return [path]
    if path.is_dir():
        found, remedy = sorted(path.iterdir()), f"to search its subfolders give '{path / '**' / '*'}'"
    elif any(sign in source for sign in "*?["):
        # pathlib cannot match absolute patterns.
        found = sorted(map(Path, glob.glob(source, recursive=True)))  # noqa: PTH207
        remedy = "check the pattern, and quote it so that the shell does not expand it"
    else:
        raise UserError(f"{where}: {_why_not_a_file(source)}")
    found = [file for file in found if _is_usable(file) and file.is_file()]
    if not found:
        raise UserError(f"{where}: found no image or video there, expected names ending in {_suffixes()}; {remedy}")
    return found


def _why_not_a_file(source: str) -> str:
    if re.match(r"(rtsp|rtmp|https?|tcp|udp)://", source, re.IGNORECASE):
        return f"URLs and network streams are not supported yet; {_SUPPORTED}"
    if source.isdecimal():
        return f"no such file, and webcams are not supported yet; {_SUPPORTED}"
    if source.lower().endswith(".streams"):
        return f"no such file, and lists of streams are not supported; {_SUPPORTED}"
    if re.fullmatch(r"screen( -?\d+)*", source.strip(), re.IGNORECASE):
        return f"no such file, and screen capture is not supported yet; {_SUPPORTED}"
    return "no such file or folder; check the path"


def _read_list(file: Path) -> list[Path]:
    """All files the lines of a list name, in their order; blank lines and lines that start with # do not count."""
    found: list[Path] = []
    for number, line in enumerate(read_lines(file), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        found += _find(_beside(file, entry), f"{file}:{number}: {entry}")
    if not found:
        raise UserError(f"{file}: the list names no image or video, expected one path a line")
    return found


def _beside(file: Path, entry: str) -> str:
    """A line of a list, relative to the list's folder if something is there, else as it stands."""
    if (file.parent / entry).exists():
        return str(file.parent / entry)
    pattern = str(Path(glob.escape(str(file.parent)), entry))  # an absolute entry stays as it is
    return pattern if glob.glob(pattern, recursive=True) else entry  # noqa: PTH207


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _is_usable(path: Path) -> bool:
    return _is_video(path) or path.suffix.lower() in IMAGE_SUFFIXES


def _suffixes() -> str:
    return " ".join(sorted(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES))


def _check_readable(path: Path) -> None:
    """Tell what OpenCV would not: why there is nothing to decode."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); check its permissions") from error
    if empty:
        raise UserError(f"{path}: the file is empty; restore or remove it")


def _open_video(path: Path) -> cv2.VideoCapture:
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise UserError(f"{path}: OpenCV cannot open this video; it may be damaged, or its codec is missing here")
    return video


def _announced_frames(video: cv2.VideoCapture) -> int | None:
    count = video.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if math.isfinite(count) and count > 0 else None


def _fps(video: cv2.VideoCapture) -> float:
    fps = video.get(cv2.CAP_PROP_FPS)
    return fps if math.isfinite(fps) and fps > 0 else FALLBACK_FPS
