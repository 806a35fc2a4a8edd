"""`pytest tests/golden --golden DIR`: every test names the recordings it reads, and runs once for each in DIR."""

from pathlib import Path

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "recordings(pattern): files of the golden folder a test runs for")


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("recordings")
    if marker is None:
        return
    (pattern,) = marker.args
    folder = Path(metafunc.config.getoption("--golden")).resolve()
    files = sorted(folder.glob(pattern))
    missing = pytest.param(None, marks=pytest.mark.skip(reason=f"{folder.name} has no recording {pattern}"), id="none")
    metafunc.parametrize("recording", [pytest.param(f, id=f.stem) for f in files] or [missing])


@pytest.fixture
def golden(request) -> Path:
    return Path(request.config.getoption("--golden")).resolve()
