from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.errors import UserError
from utils.show.video import VideoFile


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 20 kB, as on a disk that is nearly full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 255, (count, 48, 80, 3), np.uint8)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_the_video_is_there_only_when_closed(tmp_path: Path, count: int) -> None:
    file = tmp_path / "clip.mp4"
    file.write_text("old")
    video = VideoFile(file, 12.5, (48, 80))
    for image in noise(count):
        video.write(image)
    assert file.read_text() == "old"
    video.close()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    capture = cv2.VideoCapture(str(file))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (count, 12.5)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "clip.mp4", 10, (48, 80))
    for image in noise(60):
        video.write(image)
    with pytest.raises(UserError, match=r"clip\.mp4: .*disk full"):
        video.close()
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_cannot_be_encoded_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 x 1 pixels"):
        VideoFile(tmp_path / "dot.mp4", 10, (1, 1))
    assert list(tmp_path.iterdir()) == []
