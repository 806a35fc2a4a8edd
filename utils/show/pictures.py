"""Where pictures with their detections go: image files, videos and windows."""

import os
import sys
from pathlib import Path

import cv2

from utils.data.images import Image
from utils.data.sources import Frame
from utils.errors import UserError
from utils.files import atomic_write, disambiguate
from utils.show.video import VideoFile

_WRITABLE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


class UniqueNames:
    """File names of one run, each given out once; letter case does not make a difference."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def reserve(self, name: str) -> str:
        """`name`, or the first of name-2, name-3, ... (before the suffix) that was not given out yet."""
        name = disambiguate(name, lambda candidate: candidate.casefold() in self._taken)
        self._taken.add(name.casefold())
        return name


class PictureWriter:
    """Writes each image under its own name, and each video as `<stem>.mp4`, with the detections drawn.

    Args:
        directory: Existing folder. Files of the same name from different folders become name, name-2, ...
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names = UniqueNames()
        self._video: VideoFile | None = None
        self._video_source: Path | None = None

    def write(self, frame: Frame, drawn: Image) -> None:
        """Write an image, or append to the current video; another video begins a new file.

        Raises:
            UserError: If OpenCV cannot encode it, or the video before it is not complete on the disk.
        """
        if frame.kind == "image":
            suffix = frame.path.suffix if frame.path.suffix.lower() in _WRITABLE_SUFFIXES else ".jpg"
            write_image(self._directory / self._names.reserve(frame.path.stem + suffix), drawn)
            return
        if self._video is None or frame.path != self._video_source:
            self.close()
            path = self._directory / self._names.reserve(f"{frame.path.stem}.mp4")
            if frame.fps is None:
                raise ValueError(f"{frame}: a frame of a video needs its frames per second")
            self._video, self._video_source = VideoFile(path, frame.fps, drawn.shape[:2]), frame.path
        self._video.write(drawn)

    def close(self) -> None:
        """Finish the current video.

        Raises:
            UserError: If it is not complete on the disk.
        """
        if self._video is not None:
            video, self._video = self._video, None
            video.close()


class Window:
    """Shows each picture in a window of its source.

    Raises:
        UserError: If there is no display, or OpenCV was built without windows.
    """

    def __init__(self) -> None:
        if not cv2.currentUIFramework():
            raise UserError("--view-img: this OpenCV has no windows (opencv-python-headless?); install opencv-python")
        # Without a display the Qt library would end the process.
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserError("--view-img: this machine has no display; leave it out and look at the saved pictures")
        self._open: set[str] = set()

    def write(self, frame: Frame, drawn: Image) -> None:
        """Show a picture for at least a millisecond."""
        title = str(frame.path)
        if title not in self._open:
            self._open.add(title)
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
            cv2.resizeWindow(title, drawn.shape[1], drawn.shape[0])
        cv2.imshow(title, drawn)
        cv2.waitKey(1)

    def close(self) -> None:
        """Close the windows."""
        cv2.destroyAllWindows()


def write_image(path: Path, image: Image) -> None:
    """Write a BGR image atomically, in the format of its suffix; a JPEG at quality 95 with colours in full resolution.

    Raises:
        UserError: If OpenCV cannot encode it, for example because the format does not know sizes that large.
    """
    settings = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    is_jpeg = path.suffix.lower() in {".jpg", ".jpeg"}
    try:
        ok, content = cv2.imencode(path.suffix, image, settings if is_jpeg else [])
    except cv2.error as error:
        raise UserError(f"{path}: OpenCV cannot write this image ({error.err})") from error
    if not ok:
        h, w = image.shape[:2]
        raise UserError(f"{path}: OpenCV cannot write an image of {w} x {h} pixels in this format")
    with atomic_write(path) as file:
        file.write(content.tobytes())
