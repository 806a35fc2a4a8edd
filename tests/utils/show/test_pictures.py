from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data.sources import Frame
from utils.errors import UserError
from utils.show.pictures import PictureWriter, UniqueNames, Window, write_image


def image_frame(path: str) -> Frame:
    return Frame(Path(path), np.zeros((30, 40, 3), np.uint8), "image", 1, 1)


def video_frame(path: str, number: int, fps: float = 5.0, shape: tuple[int, int] = (48, 64)) -> Frame:
    return Frame(Path(path), np.zeros((*shape, 3), np.uint8), "video", 1, 1, number, fps, 9)


def grey(value: int, shape: tuple[int, int] = (30, 40)) -> np.ndarray:
    return np.full((*shape, 3), value, np.uint8)


def test_unique_names() -> None:
    names = UniqueNames()
    assert [names.reserve(name) for name in ("a.jpg", "a.jpg", "A.JPG", "a-2.jpg", "b.jpg")] == [
        "a.jpg",
        "a-2.jpg",
        "A-3.JPG",
        "a-2-2.jpg",
        "b.jpg",
    ]


def test_images_keep_their_names_and_do_not_overwrite_each_other(tmp_path: Path) -> None:
    writer = PictureWriter(tmp_path)
    for value, path in enumerate(("x/a.png", "y/a.png", "x/a.JPG", "x/photo.dng")):
        writer.write(image_frame(path), grey(50 * value))
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-2.png", "a.JPG", "a.png", "photo.jpg"]
    assert cv2.imread(str(tmp_path / "a.png")).max() == 0
    assert cv2.imread(str(tmp_path / "a-2.png")).min() == 50


def test_videos_change_with_their_source(tmp_path: Path) -> None:
    writer = PictureWriter(tmp_path)
    for number in range(1, 4):
        writer.write(video_frame("x/clip.avi", number, fps=5 / 2), grey(60 * number, (48, 64)))
    writer.write(video_frame("y/clip.mov", 1), grey(10, (48, 64)))
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip-2.mp4", "clip.mp4"]
    video = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(2.5)
    levels = []
    while (read := video.read())[0]:
        levels.append(float(read[1].mean()))
    assert levels == pytest.approx([60, 120, 180], abs=6)


def test_video_that_cannot_be_encoded(tmp_path: Path) -> None:
    writer = PictureWriter(tmp_path)
    with pytest.raises(UserError, match="1 x 1 pixels"):
        writer.write(video_frame("dot.gif", 1, shape=(1, 1)), grey(0, (1, 1)))
    writer.close()


def test_image_too_large_for_its_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wide\.webp: OpenCV cannot write"):
        write_image(tmp_path / "wide.webp", np.zeros((1, 20_000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_jpeg_keeps_the_resolution_of_colours(tmp_path: Path) -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = (0, 0, 255)
    write_image(tmp_path / "stripes.jpg", stripes)
    back = cv2.imread(str(tmp_path / "stripes.jpg"))
    assert back[:, ::2, 2].min() > 200 and back[:, 1::2, 2].max() < 60


def test_window_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UserError, match="--view-img"):
        Window()


def test_window_of_a_headless_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "")
    with pytest.raises(UserError, match="opencv-python-headless"):
        Window()
