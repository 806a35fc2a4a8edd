from pathlib import Path

import pytest

import utils.show.results
from utils.errors import UserError
from utils.show.results import check_project, make_results_directory


def test_project_below_a_file_or_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    check_project(str(tmp_path / "new/deep"))
    with pytest.raises(UserError, match=r"file/runs: .*file is a file"):
        check_project(str(tmp_path / "file/runs"))
    monkeypatch.setattr(utils.show.results.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=f"cannot write in {tmp_path};"):
        check_project(str(tmp_path / "new/deep"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


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
