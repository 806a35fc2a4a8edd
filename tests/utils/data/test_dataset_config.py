import json
from pathlib import Path

import pytest

import utils.data.config
import utils.data.shapes
from utils.data.annotated import AnnotatedImages
from utils.data.config import load_dataset_config
from utils.errors import UserError


def write(folder: Path, text: str) -> str:
    file = folder / "set.yaml"
    file.write_text(text)
    return str(file)


@pytest.fixture
def program(tmp_path, monkeypatch):
    root = tmp_path / "program"
    root.mkdir()
    monkeypatch.setattr(utils.data.config, "PROGRAM_ROOT", root)
    return root


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "{1: dog, 0: cat}"])
def test_names_in_all_forms(tmp_path, program, names):
    config = load_dataset_config(write(tmp_path, f"path: {tmp_path}\nval: v\nnc: 2\nnames: {names}\n"))
    assert list(config.names.items()) == [(0, "cat"), (1, "dog")]
    assert config.nc == 2
    assert config.root == tmp_path
    assert config.val == (tmp_path / "v",)
    assert config.train == config.test == ()


def test_relative_path_starts_at_the_program_and_falls_back_to_the_folder_of_the_yaml(tmp_path, program):
    yaml = write(tmp_path, "path: sub\ntrain: [images/a, images/b]\nval: images/v\nnames: [x]\n")
    assert load_dataset_config(yaml).root == program / "sub"  # nothing there yet
    (tmp_path / "sub/images/v").mkdir(parents=True)
    config = load_dataset_config(yaml)
    assert config.root == tmp_path / "sub"
    assert config.train == (tmp_path / "sub/images/a", tmp_path / "sub/images/b")
    assert config.sources("val") == (tmp_path / "sub/images/v",)
    (program / "sub/images/a").mkdir(parents=True)
    assert load_dataset_config(yaml).root == program / "sub"


def test_without_path_a_single_source_is_retried_without_dots(tmp_path, program):
    (program / "val/images").mkdir(parents=True)
    config = load_dataset_config(write(tmp_path, "train: ['../val/images']\nval: ../val/images\nnames: [x]\n"))
    assert config.val == (program / "val/images",)
    (tmp_path / "val/images").mkdir(parents=True)
    config = load_dataset_config(write(tmp_path, "val: ../val/images\nnames: [x]\n"))
    assert config.val == (tmp_path / "val/images",)  # as written goes first


def test_symbolic_links_stay_as_written(tmp_path, program):
    (tmp_path / "store").mkdir()
    (tmp_path / "set/images").mkdir(parents=True)
    (tmp_path / "set/images/val").symlink_to(tmp_path / "store")
    config = load_dataset_config(write(tmp_path, f"path: {tmp_path}/set\nval: images/val\nnames: [x]\n"))
    assert config.sources("val") == (tmp_path / "set/images/val",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trian: a\nnames: [x]", "`train`"),
        ("name: [x]", "`names`"),
        ("val: a", "no names; add a list"),
        ("val: a\nnames: []", "names: []"),
        ("val: a\nnames: x", "names: 'x'"),
        ("val: a\nnames: {1: a, 2: b}", "exactly 0..1; renumber them"),
        ("val: a\nnames: {'0': a}", "exactly 0..0; write them without quotes"),
        ("val: a\nnames: {true: a, 0: b}", "exactly 0..1"),
        ("val: a\nnames: [yes, no]", "quotes"),
        ("val: a\nnc: 3\nnames: [x, y]", "nc: 3 but 2 names"),
        ('val: a\nnc: "2"\nnames: [x, y]', "nc: '2', expected the number"),
        ('val: a\nnames: [x, "y\\n"]', "class 1, expected no control characters"),
        ("val: 3\nnames: [x]", "val: 3"),
        ("val: [a, 3]\nnames: [x]", "a list of those"),
        ("path: 3\nval: a\nnames: [x]", "path: 3"),
        ("builtin: circles\nnames: [x]", "expected shapes"),
        ("val: {images: a}\nnames: [x]", "expected the paths `images` and `annotations`"),
        ("val: [a, {images: a, annotation: b}]\nnames: [x]", "correct the keys"),
        ("val: {images: [a], annotations: b}\nnames: [x]", "correct the keys"),
        ("val: {images: a, annotations: b, list: }\nnames: [x]", "correct the keys"),
        ("val: {images: a, annotations: b.json}", "no names; add a list"),
    ],
)
def test_mistakes_are_named(tmp_path, program, text, expected):
    yaml = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_dataset_config(yaml)
    assert yaml in str(caught.value)
    assert expected in str(caught.value)


def test_only_comments_may_be_in_another_encoding(tmp_path, program):
    file = Path(write(tmp_path, ""))
    file.write_bytes("val: a  # Stra\xdfe\nnames: [x]\n".encode("latin-1"))
    assert load_dataset_config(str(file)).nc == 1
    file.write_bytes("val: a\nnames: [x, Stra\xdfe]\n".encode("latin-1"))
    with pytest.raises(UserError, match="class 1, 'Stra\ufffde', is not in UTF-8"):
        load_dataset_config(str(file))


def test_unrelated_keys_are_allowed(tmp_path, program):
    assert load_dataset_config(write(tmp_path, "names: [x]\nlicense: free\nroboflow: {a: b}\n2: 3\n")).nc == 1


def test_only_what_is_asked_for_must_exist(tmp_path, program):
    (tmp_path / "v").mkdir()
    config = load_dataset_config(write(tmp_path, f"path: {tmp_path}\ntrain: t\nval: [v, w]\nnames: [x]\n"))
    with pytest.raises(UserError, match=r"train: .*/t does not exist"):
        config.sources("train")
    with pytest.raises(UserError, match=r"val: .*/w does not exist"):
        config.sources("val")
    with pytest.raises(UserError, match="found no `test`"):
        config.sources("test")


def test_download_is_shown_and_never_run(tmp_path, program):
    text = f"path: {tmp_path}\nval: v\nnames: [x]\ndownload: "
    config = load_dataset_config(write(tmp_path, text + "https://example.org/set.zip\n"))
    with pytest.raises(UserError, match=r"from https://example.org/set\.zip"):
        config.sources("val")
    config = load_dataset_config(write(tmp_path, text + f"|\n  import os\n  os.mkdir('{tmp_path}/v')"))
    with pytest.raises(UserError, match="never run"):
        config.sources("val")
    assert not (tmp_path / "v").exists()


def test_the_command_that_gets_a_known_data_set_is_named(tmp_path, program):
    for name, command in {
        "VOC": f"python -m utils.data.prepare VOC --out '{tmp_path}/my sets'",
        "xView": f"python -m utils.data.prepare xView --from FOLDER --out '{tmp_path}/my sets'",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(f"path: {tmp_path}/my sets\nval: v\nnames: [x]\ndownload: http://x\n")
        with pytest.raises(UserError) as caught:
            load_dataset_config(str(tmp_path / f"{name}.yaml")).sources("val")
        assert str(caught.value).endswith(
            f"v does not exist; correct `path` or `val`, or get the data set with `{command}`"
        )


def test_builtin_set_is_made_once(tmp_path, program, monkeypatch):
    made = []

    def make(root):
        made.append(root)
        (root / "images/val").mkdir(parents=True)

    monkeypatch.setattr(utils.data.shapes, "make_shapes", make)
    for _ in range(2):
        config = load_dataset_config("shapes.yaml")
        assert config.sources("val") == (program / "datasets/shapes/images/val",)
    assert made == [program / "datasets/shapes"]
    assert tuple(config.names.values()) == utils.data.shapes.CLASSES


@pytest.mark.parametrize(
    ("name", "nc", "first", "last"),
    [
        ("coco.yaml", 80, "person", "toothbrush"),
        ("coco128.yaml", 80, "person", "toothbrush"),
        ("VOC.yaml", 20, "aeroplane", "tvmonitor"),
        ("VisDrone.yaml", 10, "pedestrian", "motor"),
    ],
)
def test_shipped_files(name, nc, first, last):
    config = load_dataset_config(name)
    assert (config.nc, config.names[0], config.names[nc - 1]) == (nc, first, last)
    assert config.train
    assert config.val
    assert config.download.startswith("http")


def test_annotated_sources(tmp_path, program):
    text = """
        path: SET
        train:
          - images/extra
          - {images: JPEGImages, annotations: Annotations, list: ImageSets/Main/train.txt}
        val: {images: images/val, annotations: val.json}
        names: [cat, dog]
    """.replace("SET", str(tmp_path))
    config = load_dataset_config(write(tmp_path, text))
    names = ("cat", "dog")
    voc = AnnotatedImages(
        tmp_path / "JPEGImages", tmp_path / "Annotations", names, tmp_path / "ImageSets/Main/train.txt"
    )
    assert config.train == (tmp_path / "images/extra", voc)
    assert config.val == (AnnotatedImages(tmp_path / "images/val", tmp_path / "val.json", names),)
    for missing in ("images/val", "val.json"):
        with pytest.raises(UserError, match=rf"val: {tmp_path}/{missing} does not exist"):
            config.sources("val")
        (tmp_path / missing).mkdir(parents=True)
    assert config.sources("val") == config.val


def test_names_may_be_left_to_the_json(tmp_path, program):
    categories = [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}]
    (tmp_path / "val.json").write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    text = "train: {images: t, annotations: t.json}\nval: {images: v, annotations: val.json}\n"
    config = load_dataset_config(write(tmp_path, f"path: {tmp_path}\n{text}"))
    assert config.names == {0: "cat", 1: "dog"}
    assert config.val[0].names == config.train[0].names == ("cat", "dog")
    with pytest.raises(UserError, match="nc: 3 but 2 names"):
        load_dataset_config(write(tmp_path, f"path: {tmp_path}\n{text}nc: 3\n"))
