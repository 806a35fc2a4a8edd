"""Options and fixtures of all tests."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        default=str(ROOT / "tests" / "golden" / "fixtures"),
        help="folder of recorded numbers to compare with (default: the small ones kept in the tests)",
    )


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and checkpoints that may lie beside the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder 'shared' with real images and weights beside the repository")
    return folder


@pytest.fixture
def rectangle_set(tmp_path: Path) -> Callable[..., Path]:
    """Makes set/ and set.yaml: pictures of 64 x 48 pixels, each with a red and a blue rectangle."""

    def make(*, train: int, val: int, noise: int = 1) -> Path:
        rng = np.random.default_rng(0)
        for split, count in (("train", train), ("val", val)):
            images, labels = (tmp_path / "set" / kind / split for kind in ("images", "labels"))
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for number in range(count):
                picture = rng.integers(200, 200 + noise, (48, 64, 3)).astype(np.uint8)
                rows = []
                for cls, colour in enumerate(((0, 0, 255), (255, 0, 0))):
                    w, h = rng.integers(12, 26, 2)
                    x, y = 32 * cls + rng.integers(0, 33 - w), rng.integers(0, 49 - h)
                    picture[y : y + h, x : x + w] = colour
                    rows.append(f"{cls} {(x + w / 2) / 64} {(y + h / 2) / 48} {w / 64} {h / 48}")
                cv2.imwrite(str(images / f"{number}.png"), picture)
                (labels / f"{number}.txt").write_text("\n".join(rows))
        splits = {"train": "images/train", "val": "images/val"}
        content = {"path": str(tmp_path / "set"), **splits, "names": ["red", "blue"]}
        (tmp_path / "set.yaml").write_text(yaml.safe_dump(content))
        return tmp_path

    return make
