import errno
import os
import tempfile

import pytest
import yaml

from utils.errors import UserError
from utils.files import (
    atomic_write,
    check_project,
    disambiguate,
    find_file,
    make_run_directory,
    next_free_path,
    read_yaml,
    write_csv,
    write_text,
    write_yaml,
)


def test_runs_are_numbered_and_never_reused(tmp_path):
    names = [make_run_directory(str(tmp_path), "exp").name for _ in range(3)]
    assert names == ["exp", "exp2", "exp3"]
    assert make_run_directory(str(tmp_path), "exp2", exist_ok=True).name == "exp2"
    assert next_free_path(tmp_path / "exp").name == "exp4"


def test_a_project_that_is_a_file_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match=r"runs.*cannot write there"):
        make_run_directory(str(tmp_path / "runs"), "exp")


def test_a_project_that_cannot_be_written_is_noticed_without_creating_anything(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    check_project(str(tmp_path / "new/deep"))
    with pytest.raises(UserError, match=r"file/runs: .*file is a file"):
        check_project(str(tmp_path / "file/runs"))

    def refuse(dir):
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=rf"cannot write in {tmp_path} \(Permission denied\)"):
        check_project(str(tmp_path / "new/deep"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(RuntimeError), atomic_write(file) as handle:
        handle.write(b"half of the n")
        raise RuntimeError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError) as failure, atomic_write(tmp_path / "results.csv"):
        raise full
    assert failure.value is full
    assert failure.value.filename == str(tmp_path / "results.csv")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError("cannot write mode RGBA as JPEG"), ConnectionResetError(104, "reset")])
def test_other_errors_of_a_write_stay_as_they_are(error, tmp_path):
    told = str(error)
    with pytest.raises(OSError) as failure, atomic_write(tmp_path / "figure.jpg"):
        raise error
    assert str(failure.value) == told


def test_yaml_round_trip_keeps_order_and_unicode(tmp_path):
    content = {"z": 1, "a": ["ä", 2.5, None]}
    write_yaml(tmp_path / "a.yaml", content)
    assert list(read_yaml(tmp_path / "a.yaml").items()) == list(content.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "a.yaml:3: .*key 'a' stands twice"),
        ("a: 2020-13-45", "a value in it cannot be read"),
        ("a: " + "[" * 5000, "a.yaml"),
        ("a: [1,\nb: 2", "a.yaml:2: not valid YAML"),
        ("- 1", "expected a mapping"),
        ("a: !!python/name:os.system", "YAML"),
    ],
)
def test_bad_yaml_names_file_and_line(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "a.yaml")


def test_find_file_by_bare_name_and_near_miss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_file("hyp.scratch-low.yaml", ["data/hyps"]).is_file()
    assert find_file("data/coco128.yaml", ["data"]).is_file()
    (tmp_path / "coco128.yaml").write_text(yaml.safe_dump({}))
    assert find_file("coco128.yaml", ["data"]).resolve() == tmp_path / "coco128.yaml"
    with pytest.raises(UserError, match=r"did you mean coco128\.yaml"):
        find_file("coco182.yaml", ["data"])
    with pytest.raises(UserError, match=r"did you mean VisDrone\.yaml"):
        find_file("visdrone.yaml", ["data"])
    with pytest.raises(UserError, match="no such file; known here:"):
        find_file("nofile.yaml", ["data"])
    with pytest.raises(UserError, match=r"ending in .yaml or .yml"):
        find_file("coco128.txt", ["data"])


def test_disambiguate():
    taken = {"a.jpg", "a-2.jpg"}
    assert disambiguate("a.jpg", taken.__contains__) == "a-3.jpg"
    assert disambiguate("b.jpg", taken.__contains__) == "b.jpg"


def test_a_table_has_short_numbers_and_empty_cells(tmp_path):
    write_csv(tmp_path / "a.csv", [("a", "b,c"), (1 / 3, None), (float("nan"), 7), ("\udce9", 1e-9)])
    assert (tmp_path / "a.csv").read_text() == 'a,"b,c"\n0.333333,\n,7\n\\udce9,1e-09\n'


def test_a_long_name_can_be_written(tmp_path):
    file = tmp_path / f"{'n' * 250}.txt"
    write_text(file, "a")
    assert file.read_text() == "a"
