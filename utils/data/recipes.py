"""Where the data sets of data/*.yaml come from, and what is done with them; `utils.data.prepare` does it."""

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from utils.data.config import Split


@dataclass(frozen=True)
class Archive:
    """A file to download and unpack.

    Attributes:
        url: Where it is.
        size: Bytes, about, packed as unpacked; to see beforehand whether the disk has room.
        into: Folder of the data set in which it is unpacked.
        splits: The splits that need it.
        checksum: As published, "md5:..."; None where nothing is.
    """

    url: str
    size: float
    into: str = ""
    splits: tuple[Split, ...] = ("train", "val", "test")
    checksum: str | None = None

    @property
    def name(self) -> str:
        """Name of the file."""
        return Path(unquote(urlsplit(self.url).path)).name


@dataclass(frozen=True)
class Recipe:
    """How one data set is made.

    Attributes:
        page: What there is to read about it.
        size: Bytes on the disk, about, when all is done.
        converter: Module of `utils.data.converters` whose `arrange(folder)` brings the unpacked files into the layout
            of the data set YAML, with labels in YOLO format.
        archives: What is downloaded, in this order; nothing where that takes a person, who has to register.
        parts: Path of an official file or folder, of which the first folders may be left out -> the splits that need
            it. What is in none of them is needed by all.
    """

    page: str
    size: float
    converter: str
    archives: tuple[Archive, ...] = ()
    parts: Mapping[str, tuple[Split, ...]] = field(default_factory=dict)

    def is_needed(self, file: Path, splits: Collection[Split]) -> bool:
        """Whether some splits need a file, which is given relative to the official folder."""
        return all(set(needed) & set(splits) for part, needed in self.parts.items() if _is_in(file, part))

    def find_missing(self, files: Collection[Path], splits: Collection[Split]) -> list[str]:
        """The parts that some splits need and of which there is no file; files are relative to the official folder."""
        needed = [part for part, needing in self.parts.items() if set(needing) & set(splits)]
        return [part for part in needed if not any(_is_in(file, part) for file in files)]

    def arrange(self, folder: Path) -> None:
        """Bring the official files in `folder`, which nobody else writes to, into the layout of the data set YAML.

        Raises:
            UserError: If something is missing or bad.
        """
        importlib.import_module(f"utils.data.converters.{self.converter}").arrange(folder)


def _is_in(file: Path, part: str) -> bool:
    return f"/{part}/" in f"/{file.as_posix()}/"


_MB, _GB = 1e6, 1e9
_ASSETS = "https://github.com/ultralytics/assets/releases/download/v0.0.0"
_COCO = "http://images.cocodataset.org"
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"
_OBJECTS365 = "https://dorc.ks3-cn-beijing.ksyun.com/data-set/2020Objects365%E6%95%B0%E6%8D%AE%E9%9B%86"


def _objects365_archives() -> tuple[Archive, ...]:
    """The annotations and patches of both splits."""
    train, val = f"{_OBJECTS365}/train", f"{_OBJECTS365}/val"
    patches = [
        *(("train", f"{train}/patch{n}.tar.gz", "images/train") for n in range(51)),
        *(("val", f"{val}/images/v1/patch{n}.tar.gz", "images/val") for n in range(16)),
        *(("val", f"{val}/images/v2/patch{n}.tar.gz", "images/val") for n in range(16, 44)),
    ]
    return (
        Archive(f"{train}/zhiyuan_objv2_train.tar.gz", 2 * _GB, splits=("train",)),
        Archive(f"{val}/zhiyuan_objv2_val.json", 0.3 * _GB, splits=("val",)),
        *(Archive(url, 3.7 * _GB, into, ("train",) if split == "train" else ("val",)) for split, url, into in patches),
    )


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "coco": Recipe(
            "https://cocodataset.org",
            28 * _GB,
            "coco",
            (
                Archive(f"{_COCO}/annotations/annotations_trainval2017.zip", 0.25 * _GB, "", ("train", "val")),
                Archive(f"{_COCO}/annotations/image_info_test2017.zip", 2 * _MB, "", ("test",)),
                Archive(f"{_COCO}/zips/val2017.zip", 0.82 * _GB, "images", ("val",)),
                Archive(f"{_COCO}/zips/train2017.zip", 19.4 * _GB, "images", ("train",)),
                Archive(f"{_COCO}/zips/test2017.zip", 6.7 * _GB, "images", ("test",)),
            ),
            {
                "train2017": ("train",),
                "instances_train2017.json": ("train",),
                "val2017": ("val",),
                "instances_val2017.json": ("val",),
                "test2017": ("test",),
                "image_info_test-dev2017.json": ("test",),
            },
        ),
        "coco128": Recipe(
            "https://cocodataset.org",
            7 * _MB,
            "coco128",
            (Archive(f"{_ASSETS}/coco128.zip", 7 * _MB),),
        ),
        "VOC": Recipe(
            "http://host.robots.ox.ac.uk/pascal/VOC/",
            2.8 * _GB,
            "voc",
            (
                # the digests are those of torchvision.datasets.VOCDetection
                Archive(
                    f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar",
                    451 * _MB,
                    splits=("val", "test"),
                    checksum="md5:b6e924de25625d8de591ea690078ad9f",
                ),
                Archive(
                    f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
                    460 * _MB,
                    splits=("train",),
                    checksum="md5:c52e279531787c972589f7e41ab4ae64",
                ),
                Archive(
                    f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
                    2 * _GB,
                    splits=("train",),
                    checksum="md5:6cd6e144f989b92b3379bac3b3de84fd",
                ),
            ),
            {
                "VOC2012": ("train",),
                "VOC2007/ImageSets/Main/train.txt": ("train",),
                "VOC2007/ImageSets/Main/val.txt": ("train",),
                "VOC2007/ImageSets/Main/test.txt": ("val", "test"),
            },
        ),
        "VisDrone": Recipe(
            "https://github.com/VisDrone/VisDrone-Dataset",
            2.3 * _GB,
            "visdrone",
            (
                Archive(f"{_ASSETS}/VisDrone2019-DET-val.zip", 80 * _MB, splits=("val",)),
                Archive(f"{_ASSETS}/VisDrone2019-DET-train.zip", 1.5 * _GB, splits=("train",)),
                Archive(f"{_ASSETS}/VisDrone2019-DET-test-dev.zip", 0.3 * _GB, splits=("test",)),
            ),
            {
                "VisDrone2019-DET-train": ("train",),
                "VisDrone2019-DET-val": ("val",),
                "VisDrone2019-DET-test-dev": ("test",),
            },
        ),
        "Argoverse": Recipe(
            "https://www.cs.cmu.edu/~mengtial/proj/streaming/",
            31 * _GB,
            "argoverse",
            parts={
                "train": ("train",),
                "annotations/train.json": ("train",),
                "val": ("val",),
                "annotations/val.json": ("val",),
                "test": ("test",),
            },
        ),
        "GlobalWheat2020": Recipe(
            "https://www.global-wheat.com",
            7 * _GB,
            "globalwheat",
            (
                Archive("https://zenodo.org/record/4298502/files/global-wheat-codalab-official.zip", 7 * _GB),
                Archive(f"{_ASSETS}/GlobalWheat2020_labels.zip", 20 * _MB, "labels"),
            ),
        ),
        "SKU-110K": Recipe(
            "https://github.com/eg4000/SKU110K_CVPR19",
            13.6 * _GB,
            "sku110k",
            (Archive("http://trax-geometry.s3.amazonaws.com/cvpr_challenge/SKU110K_fixed.tar.gz", 13.6 * _GB),),
            {
                "annotations_train.csv": ("train",),
                "annotations_val.csv": ("val",),
                "annotations_test.csv": ("test",),
            },
        ),
        "xView": Recipe("https://challenge.xviewdataset.org", 21 * _GB, "xview"),
        "Objects365": Recipe(
            "https://www.objects365.org",
            370 * _GB,
            "objects365",
            _objects365_archives(),
            {
                "train": ("train",),
                "zhiyuan_objv2_train.json": ("train",),
                "val": ("val",),
                "zhiyuan_objv2_val.json": ("val",),
            },
        ),
    }
)
"""Data set name, as in data/<name>.yaml -> how it is made."""
