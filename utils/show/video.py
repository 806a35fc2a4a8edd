"""A video file that appears under its name only when all of it is on the disk."""

import tempfile
from pathlib import Path

import cv2

from utils.data.images import Image
from utils.errors import UserError


class VideoFile:
    """An mp4 video that is written beside its place and moved there when complete.

    Args:
        path: Ends in .mp4; replaced if it exists.
        fps: Frames per second.
        shape: (h, w) of every frame in pixels.

    Raises:
        UserError: If OpenCV cannot write videos of this size.
    """

    def __init__(self, path: Path, fps: float, shape: tuple[int, int]) -> None:
        h, w = shape
        self._path = path
        self._folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
        self._temporary = Path(self._folder.name, path.name)
        self._video = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter.fourcc(*"mp4v"), fps, (w, h))
        self._frames = 0
        if not self._video.isOpened():
            self._folder.cleanup()
            raise UserError(f"{path}: OpenCV cannot write mp4v video of {w} x {h} pixels here; use --nosave, or images")

    def write(self, image: Image) -> None:
        """Append a BGR image."""
        self._video.write(image)
        self._frames += 1

    def close(self) -> None:
        """Put the video in its place.

        Raises:
            UserError: If it cannot be read back; then nothing is left of it.
        """
        with self._folder:
            self._video.release()
            # OpenCV does not tell of errors when it writes.
            if not _is_complete(self._temporary, self._frames):
                raise UserError(f"{self._path}: the video could not be written, is the disk full? Free some space")
            self._temporary.replace(self._path)


def _is_complete(file: Path, frames: int) -> bool:
    """Whether a video has its last frame; some containers count one more or less than was written."""
    video = cv2.VideoCapture(str(file))
    try:
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        video.set(cv2.CAP_PROP_POS_FRAMES, count - 1)
        return abs(count - frames) <= 1 and video.read()[0]
    finally:
        video.release()
