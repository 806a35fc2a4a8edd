from pathlib import Path

import pytest

from utils.errors import UserError
from utils.show.results import make_results_directory


def test_inputs_are_never_in_the_directory(tmp_path: Path) -> None:
    inside, outside = tmp_path / "set/images/a.jpg", tmp_path / "other/a.jpg"
    for file in (inside, outside):
        file.parent.mkdir(parents=True)
        file.touch()
    (tmp_path / "link.jpg").symlink_to(inside)
    for file in (inside, tmp_path / "link.jpg"):
        with pytest.raises(UserError, match="could be overwritten"):
            make_results_directory(str(tmp_path), "set", exist_ok=True, inputs=[outside, file])
    assert make_results_directory(str(tmp_path), "set", exist_ok=True, inputs=[outside]) == tmp_path / "set"
    assert make_results_directory(str(tmp_path), "set", exist_ok=False, inputs=[inside]) == tmp_path / "set2"
