import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from utils.data.sources import Frame, open_source
from utils.errors import UserError


def make_image(path: Path, value: int = 0, shape: tuple[int, int] = (20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*shape, 3), value, np.uint8))
    return path


def make_video(path: Path, frames: int = 9, fps: float = 10.0, shape: tuple[int, int] = (48, 64)) -> Path:
    """Frame i (from 0) is grey 20 * i."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, shape[::-1])
    for i in range(frames):
        video.write(np.full((*shape, 3), 20 * i, np.uint8))
    video.release()
    return path


def names_of(source: str) -> list[str]:
    return [file.name for file in open_source(source).files]


def test_one_image(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.PNG", 77)
    (frame,) = open_source(str(path))
    assert (frame.path, frame.kind, frame.index, frame.total, frame.number) == (path, "image", 1, 1, None)
    assert frame.image.shape == (20, 30, 3)
    assert (frame.image == 77).all()
    assert str(frame) == f"image 1/1 {path}"
    assert frame.stem == "a"


def test_folder_is_sorted_flat_and_has_images_first(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.png", "sub/deep.jpg"):
        make_image(tmp_path / name)
    make_video(tmp_path / "0.avi")
    (tmp_path / "notes.md").write_text("text")
    (tmp_path / "folder.jpg").mkdir()
    assert names_of(str(tmp_path)) == ["a.png", "b.jpg", "0.avi"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["b.jpg"]),
        ("?.*", ["a.png", "b.jpg"]),
        ("[ab].png", ["a.png"]),
        ("**/*.jpg", ["b.jpg", "deep.jpg"]),
    ],
)
def test_globs(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    for name in ("b.jpg", "a.png", "sub/deep.jpg"):
        make_image(tmp_path / name)
    assert names_of(f"{tmp_path}/{pattern}") == expected


def test_list_file_is_relative_to_itself_then_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = tmp_path / "lists [1]"
    make_image(lists / "beside.png")
    make_image(lists / "more" / "g1.png")
    make_image(tmp_path / "cwd" / "here.png")
    make_image(tmp_path / "cwd" / "beside.png", 99)
    absolute = make_image(tmp_path / "absolute.png")
    monkeypatch.chdir(tmp_path / "cwd")
    file = lists / "list.txt"
    file.write_text(f"\ufeff# a comment\n\n  here.png  \nbeside.png\nmore/*.png\nmore\n{absolute}\n")
    assert names_of(str(file)) == ["here.png", "beside.png", "g1.png", "absolute.png"]
    assert open_source(str(file)).files[1] == lists / "beside.png"


def test_list_file_names_the_bad_line(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    file = tmp_path / "list.txt"
    file.write_text("a.png\n\ngone.png\n")
    with pytest.raises(UserError, match=r"list\.txt:3: gone\.png: no such file"):
        open_source(str(file))


def test_a_list_in_utf_16_is_told(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("a.png\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"list\.txt: found UTF-16 .*; save it as UTF-8"):
        open_source(str(file))


def test_empty_list_file(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("# nothing\n")
    with pytest.raises(UserError, match="names no image"):
        open_source(str(file))


def test_video_frames(tmp_path: Path) -> None:
    make_image(tmp_path / "z.png")
    path = make_video(tmp_path / "clip.avi", frames=9, fps=10)
    frames = list(open_source(str(tmp_path)))[1:]
    assert [frame.number for frame in frames] == list(range(1, 10))
    assert {(frame.kind, frame.index, frame.total, frame.fps, frame.frame_count) for frame in frames} == {
        ("video", 2, 2, 10.0, 9)
    }
    assert [round(frame.image.mean() / 20) for frame in frames] == list(range(9))
    assert str(frames[2]) == f"video 2/2 (3/9) {path}"
    assert frames[2].stem == "clip_3"


def test_every_third_frame(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.avi", frames=10, fps=12)
    frames = list(open_source(str(path), vid_stride=3))
    assert [round(frame.image.mean() / 20) for frame in frames] == [2, 5, 8]
    assert [(frame.number, frame.fps, frame.frame_count) for frame in frames] == [(1, 4, 3), (2, 4, 3), (3, 4, 3)]


def test_stride_longer_than_the_video(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.avi", frames=3)
    with pytest.raises(UserError, match=r"clip\.avi: no frame left.* 3 could be read and --vid-stride is 4"):
        open_source(str(path), vid_stride=4)


def test_cut_off_video_says_after_how_many_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_video(tmp_path / "clip.avi", frames=9, shape=(480, 640))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with caplog.at_level(logging.WARNING):
        count = len(list(open_source(str(path))))
    assert 0 < count < 9
    assert f"ended after {count} of 9" in caplog.text


@pytest.mark.parametrize("name", ["0", "screen", "screenshots", "x.streams"])
def test_what_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    make_image(tmp_path / name / "a.png")
    assert names_of(name) == ["a.png"]


def test_file_called_like_a_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_image(tmp_path / "screenshot.png")
    make_image(tmp_path / "what[1]?.png")
    assert names_of("screenshot.png") == ["screenshot.png"]
    assert names_of("what[1]?.png") == ["what[1]?.png"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.com/bus.jpg", "URLs and network streams are not supported"),
        ("RTSP://camera/1", "URLs and network streams are not supported"),
        ("0", "webcams are not supported"),
        ("cameras.streams", "lists of streams are not supported"),
        ("screen", "screen capture is not supported"),
        ("screen 1 0 0 640 480", "screen capture is not supported"),
        ("screenshot.png", "no such file"),
        ("²", "no such file"),
        ("gone", "no such file"),
        ("gone/*.jpg", "found no image"),
        ("list.csv", "not an image or video"),
        ("empty", "found no image"),
        ("nested", r"nested/\*\*/\*"),
        ("zero.jpg", "empty"),
        ("text.jpg", r"text\.jpg: not an image"),
        ("text.mp4", r"text\.mp4: OpenCV cannot open"),
    ],
)
def test_unusable_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    make_image(tmp_path / "nested" / "deep" / "a.jpg")
    for name, content in (("list.csv", "a"), ("zero.jpg", ""), ("text.jpg", "text"), ("text.mp4", "text")):
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        open_source(source)


def test_damaged_files_are_told_after_all_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b.png", "d.png"):
        make_image(tmp_path / name)
    for name, content in (("a.png", "text"), ("c.png", ""), ("e.mp4", "text")):
        (tmp_path / name).write_text(content)
    frames = iter(open_source(str(tmp_path)))
    assert [next(frames).path.name, next(frames).path.name] == ["b.png", "d.png"]
    with pytest.raises(UserError, match=r"a\.png: .* \(3 of 5 files cannot be used\)"):
        next(frames)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "c.png: the file is empty" in caplog.text and "e.mp4: OpenCV cannot open" in caplog.text


def test_only_damaged_files_are_refused_at_once(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("text")
    with pytest.raises(UserError, match="2 of 2 files cannot be used"):
        open_source(str(tmp_path))


def test_stride_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--vid-stride 0"):
        open_source(str(make_image(tmp_path / "a.png")), vid_stride=0)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=20))
def test_any_text_is_a_source_or_a_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "cwd").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "cwd")
    try:
        frames = list(open_source(text))
    except UserError:
        return
    assert all(isinstance(frame, Frame) for frame in frames)
