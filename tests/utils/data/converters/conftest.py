"""Pictures for small official folders, and the check that what became of them can be trained on."""

import cv2
import numpy as np
import pytest

from utils.data.config import load_dataset_config
from utils.data.scan import scan_samples


@pytest.fixture
def draw():
    """Writes a picture of (h, w)."""

    def draw(path, shape):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, np.zeros((*shape, 3), np.uint8))[1].tobytes())
        return path

    return draw


@pytest.fixture
def scanned(monkeypatch, tmp_path_factory):
    """Labels of one split of an arranged folder, file name -> (n, 5), as the data set YAML of the program finds it."""
    monkeypatch.setattr("utils.data.scan.CACHE_FOLDER", tmp_path_factory.mktemp("cache"))

    def scan(name, folder, split, *, require_labels=True):
        file = folder.parent / f"{name}.yaml"
        text = load_dataset_config(f"{name}.yaml").file.read_text()
        file.write_text("\n".join(f"path: {folder}" if x.startswith("path:") else x for x in text.splitlines()))
        config = load_dataset_config(str(file))
        samples = scan_samples(config.sources(split), config.nc, require_labels=require_labels)
        return {sample.path.name: sample.labels for sample in samples}

    return scan


@pytest.fixture
def snapshot():
    """All files of a folder: relative path -> content."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def shadow(tmp_path):
    """A folder of hard links to the files of another, as a user's official folder is given to a converter."""

    def link(folder):
        new = tmp_path / "shadow"
        for file in [p for p in folder.rglob("*") if p.is_file()]:
            (new / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (new / file.relative_to(folder)).hardlink_to(file)
        return new

    return link
