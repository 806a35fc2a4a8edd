"""Options and fixtures of all tests."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


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
