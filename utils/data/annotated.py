"""Images whose objects are in a COCO JSON, or in a folder of Pascal VOC XML."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.data.coco_json import read_coco
from utils.data.labels import LabelOrigin
from utils.data.listing import list_images, read_names
from utils.data.voc_xml import read_voc_labels
from utils.errors import UserError


@dataclass(frozen=True)
class AnnotatedImages:
    """A source of images that has no YOLO labels.

    Attributes:
        images: Folder of the images.
        annotations: The JSON, or the folder of XML: one file an image, of its name, in folders as those of `images`.
        names: Class names by index.
        list: With XML, names of the images to take, one a line and without suffix (ImageSets/Main/train.txt); by
            default all below `images`.
    """

    images: Path
    annotations: Path
    names: tuple[str, ...]
    list: Path | None = None

    def __str__(self) -> str:
        return f"{self.images} ({self.annotations})"

    def paths(self) -> tuple[Path, ...]:
        """All that has to be on disk."""
        return (self.images, self.annotations, *([self.list] if self.list else []))

    def find(self) -> dict[str, LabelOrigin]:
        """Absolute path of each image -> where its objects are.

        Raises:
            UserError: If the annotations or an image cannot be found, or the JSON is bad.
        """
        if not self.images.is_dir():
            raise UserError(f"{self.images}: expected a folder of images, as their annotations are {self.annotations}")
        if self.annotations.is_dir():
            return self._find_voc()
        if self.list:
            raise UserError(f"{self.list}: {self.annotations} lists its images itself; remove `list`")
        return read_coco(self.annotations, self.images, self.names)

    def _find_voc(self) -> dict[str, LabelOrigin]:
        base = os.path.abspath(self.images)  # noqa: PTH100
        images: dict[str, str] = {}
        for image in sorted(list_images(self.images)):
            name = os.path.splitext(os.path.relpath(image, base))[0]  # noqa: PTH122
            if images.setdefault(name, image) != image:
                raise UserError(f"{image}: {images[name]} has the same name, expected one image for each XML; move one")
        names = read_names(self.list) if self.list else sorted(images)
        origins = {}
        for name in names:
            if name not in images:
                raise UserError(
                    f"{self.list}: found no image {self.images / name}.jpg, expected the name of an image without "
                    "suffix; restore it or correct the list"
                )
            file = self.annotations / f"{name}.xml"
            origins[images[name]] = LabelOrigin(str(file), partial(read_voc_labels, file, self.names))
        return origins


Source = Path | AnnotatedImages
"""A folder or list of images with YOLO labels, or images with other annotations."""
